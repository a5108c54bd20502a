/** The box at the bottom of a page: a message is written here, and sent; or what runs is stopped. */

import { h } from "./dom.js";

export class Composer {
  #isBusy = false;
  #onSend;

  /**
   * @param {object} options
   * @param {string} options.label
   * @param {string} options.placeholder
   * @param {(text: string) => void} options.onSend
   * @param {() => void} options.onStop
   */
  constructor({ label, placeholder, onSend, onStop }) {
    this.#onSend = onSend;
    this.box = growing({ "aria-label": label, placeholder, rows: 1, enterkeyhint: isTouch() ? "enter" : "send" });
    this.send = h("button", { class: "main" }, "Send");
    this.stop = h("button", { type: "button", class: "main", hidden: true, onclick: onStop }, "Stop", h("kbd", {}, "Esc"));
    this.element = h(
      "form",
      {
        class: "composer",
        onsubmit: (/** @type {Event} */ event) => (event.preventDefault(), this.#submit()),
        onkeydown: (/** @type {KeyboardEvent} */ event) => {
          if (event.target !== this.box || event.key !== "Enter" || event.shiftKey || event.isComposing || isTouch()) return;
          event.preventDefault();
          this.#submit();
        },
      },
      h("div", {}, this.box.parentElement, this.send, this.stop),
    );
  }

  #submit() {
    const text = this.box.value;
    if (this.#isBusy || !text.trim()) return;
    this.value = "";
    this.#onSend(text);
  }

  get value() {
    return this.box.value;
  }

  set value(text) {
    this.box.value = text;
    this.box.dispatchEvent(new Event("input"));
  }

  /** Whether something runs that can be stopped. */
  set isBusy(/** @type {boolean} */ isBusy) {
    const hadFocus = this.element.contains(document.activeElement) || document.activeElement === document.body;
    this.#isBusy = isBusy;
    this.send.hidden = isBusy;
    this.stop.hidden = !isBusy;
    if (hadFocus && document.activeElement !== this.box) this.focus(); // a hidden button loses it
  }

  /** Focus the box; not on a touch screen, whose keyboard would cover the page. */
  focus() {
    if (!isTouch()) this.box.focus({ preventScroll: true });
  }
}

/**
 * Return a text area that is as high as its text, in an element that makes it so.
 *
 * @param {Record<string, unknown>} attributes
 */
export function growing(attributes) {
  const mirror = h("div", { "aria-hidden": "true" });
  const box = h("textarea", attributes);
  const update = () => {
    mirror.textContent = `${box.value}\n`;
  };
  box.addEventListener("input", update);
  update();
  h("div", { class: "growing" }, mirror, box);
  return box;
}

/** Whether Enter breaks the line, since the keyboard is on the screen. */
export function isTouch() {
  return matchMedia("(hover: none) and (pointer: coarse)").matches;
}
