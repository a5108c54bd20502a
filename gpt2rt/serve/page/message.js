/** A message of a conversation, and what can be done with it. */

import { h, replace } from "./dom.js";
import { plural, speed } from "./format.js";
import { growing } from "./composer.js";
import { notify } from "./notice.js";
import { shownAnswer, textOf } from "./conversation.js";
import { TokenText } from "./token_text.js";
import { locate } from "./tokens.js";

/**
 * @typedef {import("./conversation.js").Answer} Answer
 *
 * @typedef {object} Actions
 * @property {(text: string) => void} edit
 * @property {() => void} retry
 * @property {() => void} resume
 * @property {() => void} shorten
 * @property {(seed: number) => void} useSeed
 * @property {() => void} changed another answer is shown
 */

/** A message of the user's. */
export class SaidView {
  #text = h("div", { class: "text" });
  #actions = h("div", { class: "meta" });
  #message;
  #onEdit;

  /**
   * @param {import("./conversation.js").Said} message
   * @param {Actions} actions
   */
  constructor(message, actions) {
    this.#message = message;
    this.#onEdit = actions.edit;
    this.element = h("article", { class: "said", "aria-label": "You" }, h("h2", {}, "You"), h("div", { class: "body" }, this.#text, this.#actions));
    this.#show();
  }

  #show() {
    replace(this.#text, this.#message.content);
    const edit = h("button", { type: "button", onclick: () => this.#edit() }, "Edit");
    replace(this.#actions, edit, copyButton(() => this.#message.content));
    return edit;
  }

  #edit() {
    const box = growing({ "aria-label": "Your message", rows: 1 });
    box.value = this.#message.content;
    box.dispatchEvent(new Event("input"));
    const send = () => {
      if (box.value.trim()) this.#onEdit(box.value);
    };
    const cancel = () => this.#show().focus();
    box.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel();
      else if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
      else return;
      event.preventDefault();
      event.stopPropagation();
    });
    replace(this.#text, box.parentElement);
    replace(
      this.#actions,
      h("button", { type: "button", onclick: send }, "Send again"),
      h("button", { type: "button", onclick: cancel }, "Cancel"),
      h("span", {}, "The conversation continues from here."),
    );
    box.focus();
  }

  update() {
    // Its text only changes with the whole conversation.
  }
}

/** An answer of the model's. */
export class AnsweredView {
  #name = h("h2");
  #text;
  #error = h("p", { class: "error" });
  #meta = h("div", { class: "meta" });
  #message;
  #actions;
  /** @type {number | null} the number of the frame that will show what is new */
  #frame = null;

  /**
   * @param {import("./conversation.js").Answered} message
   * @param {Actions} actions
   * @param {import("./inspector.js").Inspector} inspector
   */
  constructor(message, actions, inspector) {
    this.#message = message;
    this.#actions = actions;
    this.#text = new TokenText(inspector);
    this.element = h("article", { class: "answered" }, this.#name, h("div", { class: "body" }, this.#text.element, this.#error, this.#meta));
  }

  /**
   * Show the answer as it is now.
   *
   * @param {boolean} isLast
   */
  update(isLast) {
    if (this.#frame !== null) cancelAnimationFrame(this.#frame);
    this.#frame = null;
    const answer = shownAnswer(this.#message);
    const name = answer.model || "Answer";
    replace(this.#name, name);
    this.element.setAttribute("aria-label", name);
    this.element.classList.toggle("running", answer.finish === null);
    replace(this.#error, answer.error);
    const text = textOf(answer);
    if (answer.finish === null) {
      this.#text.showPlain(text);
      replace(this.#meta, h("span", { "aria-hidden": "true" }, progress(answer)));
      return;
    }
    this.#text.show(text, placed(answer));
    const focused = document.activeElement instanceof HTMLElement && this.#meta.contains(document.activeElement) ? document.activeElement.dataset.action : "";
    replace(this.#meta, ...this.#variants(), ...this.#numbers(answer), ...this.#buttons(answer, isLast));
    if (focused) this.#meta.querySelector(/** @type {"button"} */ (`[data-action="${focused}"]`))?.focus();
  }

  /** Show the answer in the next frame: tokens can come faster. */
  updateSoon() {
    this.#frame ??= requestAnimationFrame(() => this.update(true));
  }

  #variants() {
    const { answers, shown } = this.#message;
    if (answers.length < 2) return [];
    /** @param {number} step @param {string} label @param {string} sign */
    const button = (step, label, sign) =>
      h(
        "button",
        {
          type: "button",
          class: "step",
          "aria-label": label,
          "data-action": label,
          disabled: !answers[shown + step],
          onclick: () => {
            this.#message.shown += step;
            this.#actions.changed();
          },
        },
        sign,
      );
    return [button(-1, "Previous answer", "‹"), h("span", {}, `${shown + 1} of ${answers.length}`), button(1, "Next answer", "›")];
  }

  /** @param {Answer} answer */
  #numbers(answer) {
    const { seed } = answer;
    return [
      answer.nTokens > 0 && h("span", {}, progress(answer)),
      seed !== null &&
        h(
          "button",
          { type: "button", title: "Put this seed into the settings, to repeat the answer", onclick: () => this.#actions.useSeed(seed) },
          `seed ${seed}`,
        ),
      answer.finish === "length" && h("span", {}, "token limit reached"),
      answer.finish === "stopped" && h("span", {}, "stopped"),
    ];
  }

  /**
   * @param {Answer} answer
   * @param {boolean} isLast
   */
  #buttons(answer, isLast) {
    const text = textOf(answer);
    const isPartial = text && answer.finish !== "stop";
    return [
      isLast && isPartial && h("button", { type: "button", onclick: this.#actions.resume }, "Continue"),
      isLast && answer.code === "context_length_exceeded" && h("button", { type: "button", onclick: this.#actions.shorten }, "Drop the oldest messages"),
      isLast && h("button", { type: "button", "data-action": "retry", onclick: this.#actions.retry }, "Retry"),
      text && copyButton(() => text),
    ];
  }
}

/**
 * Return where the tokens of an answer are in its text.
 *
 * @param {Answer} answer
 */
function placed(answer) {
  const groups = [];
  let offset = 0;
  for (const { text, tokens } of answer.parts) {
    groups.push(...(locate(tokens, text, offset) ?? []));
    offset += text.length;
  }
  return groups;
}

/** @param {Answer} answer */
function progress({ nTokens, seconds }) {
  if (!nTokens) return "";
  return `${plural(nTokens, "token")} · ${speed(nTokens, seconds)}`;
}

/** @param {() => string} text */
function copyButton(text) {
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text());
      notify("Copied.");
    } catch {
      notify("The browser does not let this page copy.");
    }
  };
  return h("button", { type: "button", onclick: copy }, "Copy");
}
