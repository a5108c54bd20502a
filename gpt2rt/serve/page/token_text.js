/** A text of the model whose tokens can be inspected: by the pointer, a tap, or the arrow keys. */

import { announce } from "./announcer.js";
import { h, replace } from "./dom.js";
import { spoken } from "./inspector.js";

/** @typedef {import("./tokens.js").Group} Group */

export class TokenText {
  /** @type {Group[]} */
  #groups = [];
  #at = -1;
  #inspector;

  /** @param {import("./inspector.js").Inspector} inspector */
  constructor(inspector) {
    this.#inspector = inspector;
    this.element = h("div", {
      class: "text",
      onpointerover: (/** @type {PointerEvent} */ event) => this.#onPointer(event),
      onpointerleave: () => this.#leave(),
      onclick: (/** @type {PointerEvent} */ event) => this.#onPointer(event),
      onkeydown: (/** @type {KeyboardEvent} */ event) => this.#onKey(event),
      onblur: () => this.#leave(),
    });
  }

  /**
   * Show a text without its tokens, while it arrives.
   *
   * @param {string} text
   */
  showPlain(text) {
    const node = this.element.firstChild;
    if (this.element.childNodes.length === 1 && node instanceof Text && text.startsWith(node.data)) {
      if (text.length > node.length) node.appendData(text.slice(node.length)); // keeps what is selected
    } else {
      this.#mark(-1);
      replace(this.element, text);
    }
    this.#groups = [];
    for (const name of ["tabindex", "role", "aria-label"]) this.element.removeAttribute(name);
  }

  /**
   * Show a text.
   *
   * @param {string} text
   * @param {Group[]} groups
   */
  show(text, groups) {
    if (!groups.length) return this.showPlain(text);
    const nodes = [];
    let end = 0;
    groups.forEach((group, i) => {
      if (group.start > end) nodes.push(text.slice(end, group.start));
      const p = Math.exp(group.tokens.reduce((sum, token) => sum + token.logprob, 0));
      nodes.push(h("span", { class: "token", "data-i": i, "--p": p.toFixed(3) }, text.slice(group.start, group.end)));
      end = group.end;
    });
    nodes.push(text.slice(end));
    this.#at = -1;
    this.#groups = groups;
    replace(this.element, ...nodes);
    this.element.tabIndex = 0;
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Answer. The left and right arrow keys show the probabilities of its tokens");
    return undefined;
  }

  /** @param {PointerEvent} event */
  #onPointer(event) {
    const found = /** @type {HTMLElement} */ (event.target).closest?.(".token");
    if (found instanceof HTMLElement) this.#inspect(Number(found.dataset.i));
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Escape" && this.#at >= 0) this.#leave();
    else if (step && this.#groups.length && !event.shiftKey && !event.ctrlKey && !event.altKey && !event.metaKey) {
      this.#inspect(Math.max(0, Math.min(this.#at + step, this.#groups.length - 1)));
      announce(spoken(this.#groups[this.#at]?.tokens ?? []));
    } else return;
    event.preventDefault();
    event.stopPropagation(); // Escape would stop the answer
  }

  /** @param {number} i */
  #inspect(i) {
    const group = this.#groups[i];
    if (!group) return;
    const span = this.#mark(i);
    const place = span?.getClientRects()[0];
    if (place) this.#inspector.show(place, group.tokens);
  }

  #leave() {
    this.#mark(-1);
    this.#inspector.hideSoon();
  }

  /** @param {number} i */
  #mark(i) {
    this.element.querySelector(".current")?.classList.remove("current");
    this.#at = i;
    const span = i < 0 ? null : this.element.querySelector(`[data-i="${i}"]`);
    span?.classList.add("current");
    return span;
  }
}
