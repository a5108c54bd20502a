/** The inspector: a small panel at a token that shows how likely it was, and what else could have been there. */

import { h, replace } from "./dom.js";
import { percent, visible } from "./format.js";
import { isPart } from "./tokens.js";

/** @typedef {import("./tokens.js").Token} Token */

const HIDE_AFTER = 200; // ms, in which the pointer can move from the token to the panel

export class Inspector {
  /** @type {number | undefined} */
  #timer;

  constructor() {
    this.element = h("div", {
      class: "inspector",
      role: "group",
      "aria-label": "Probabilities",
      hidden: true,
      onpointerenter: () => clearTimeout(this.#timer),
      onpointerleave: () => this.hideSoon(),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#onKey(event),
    });
    document.querySelector("main")?.append(this.element);
    addEventListener("scroll", () => this.hide(), { passive: true });
    addEventListener("resize", () => this.hide());
    addEventListener("keydown", ({ key }) => key === "Escape" && this.hide());
  }

  /** @type {(() => void) | null} called when Escape leaves the panel */
  #leave = null;

  /**
   * Show tokens.
   *
   * @param {DOMRect} place of the tokens in the window
   * @param {Token[]} tokens
   * @param {{choose?: (token: Token, name: string) => void, leave?: () => void}} [options] choose: makes the likely
   *   tokens buttons; leave: is called when Escape is pressed in the panel
   */
  show(place, tokens, { choose, leave } = {}) {
    clearTimeout(this.#timer);
    if (this.element.contains(document.activeElement)) return; // the keyboard is choosing
    this.#leave = leave ?? null;
    replace(this.element, ...tokens.map((token) => this.#described(token, choose)));
    this.element.hidden = false;
    const { width, height } = this.element.getBoundingClientRect();
    const left = Math.max(8, Math.min(place.left, document.documentElement.clientWidth - width - 8));
    const below = place.bottom + 6;
    const top = below + height > innerHeight && place.top - height - 6 > 0 ? place.top - height - 6 : below;
    this.element.style.setProperty("left", `${left}px`);
    this.element.style.setProperty("top", `${top}px`);
  }

  /**
   * @param {Token} token
   * @param {((token: Token, name: string) => void) | undefined} choose
   */
  #described(token, choose) {
    const known = token.top.some(([name]) => name === token.name);
    /** @type {[string, number][]} */
    const likely = known ? token.top : [...token.top, [token.name, token.logprob]];
    const rows = likely.map(([name, logprob]) => {
      const isChosen = name === token.name;
      const content = [
        h("span", { class: "bar", "--width": `${100 * Math.exp(logprob)}%` }),
        h("code", {}, visible(name)),
        h("span", { class: "number" }, percent(logprob)),
      ];
      const attributes = { class: isChosen ? "likely chosen" : "likely", "aria-current": isChosen ? "true" : null };
      if (!choose || isChosen || isPart(name)) return h("li", attributes, ...content);
      const run = () => (this.hide(), choose(token, name));
      return h("li", attributes, h("button", { type: "button", onclick: run }, ...content));
    });
    return h("ol", {}, ...rows);
  }

  /** Move the focus to the first button. @returns {boolean} whether there is one */
  enter() {
    const button = this.element.querySelector("button");
    button?.focus();
    return button !== null;
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const buttons = [...this.element.querySelectorAll("button")];
    const at = buttons.indexOf(/** @type {HTMLButtonElement} */ (document.activeElement));
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (event.key === "Escape") {
      const leave = this.#leave;
      this.hide();
      leave?.();
    } else if (step) buttons[(at + step + buttons.length) % buttons.length]?.focus();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  hide() {
    clearTimeout(this.#timer);
    if (!this.element.hidden) this.element.hidden = true;
  }

  hideSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      if (!this.element.contains(document.activeElement)) this.hide();
    }, HIDE_AFTER);
  }
}

/**
 * Return what the inspector shows as a sentence, for screen readers.
 *
 * @param {Token[]} tokens
 */
export function spoken(tokens) {
  return tokens
    .map(({ name, logprob, top }) => {
      const others = top.filter(([other]) => other !== name).slice(0, 2);
      const listed = others.map(([other, value]) => `${visible(other)} ${percent(value)}`).join(", ");
      return `${visible(name)}: ${percent(logprob)}${listed && `; instead: ${listed}`}`;
    })
    .join(". ");
}
