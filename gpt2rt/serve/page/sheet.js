/**
 * The sheet: a text area, and behind it the same text with its generated tokens marked.
 *
 * Whatever is edited loses its mark; marks after it move along.
 */

import { h, replace } from "./dom.js";

/**
 * @typedef {object} Mark a generated token, or several that share a character
 * @property {number} start
 * @property {number} end
 * @property {import("./tokens.js").Token[]} tokens
 * @property {number} run the number of the continuation that it belongs to
 *
 * @typedef {{text: string, marks: Mark[]}} State
 */

export class Sheet {
  /** @type {Mark[]} */
  #marks = [];
  #text = ""; // that the marks belong to
  #behind = h("div", { class: "marks", "aria-hidden": "true" });
  #onEdit;

  /** @param {{onEdit: () => void, onInspect: (mark: Mark | null, place: DOMRect | null) => void}} options */
  constructor({ onEdit, onInspect }) {
    this.#onEdit = onEdit;
    /** @param {PointerEvent} event */
    const inspect = (event) => {
      const [mark, place] = this.#under(event);
      onInspect(mark, place);
    };
    this.box = h("textarea", {
      "aria-label": "Text",
      "aria-describedby": "sheet-hint",
      placeholder: "Once upon a time",
      spellcheck: "false",
      oninput: () => this.#edited(),
      onpointermove: inspect,
      onclick: inspect,
      onpointerleave: () => onInspect(null, null),
    });
    this.element = h("div", { class: "sheet" }, this.#behind, this.box);
  }

  /** @returns {State} */
  get state() {
    return { text: this.#text, marks: this.#marks };
  }

  set state({ text, marks }) {
    this.box.value = text;
    this.#text = this.box.value; // with the line breaks that a text area has
    this.#marks = this.#text === text ? marks : [];
    this.#render();
  }

  #render() {
    /** @type {(Node | string)[]} */
    const nodes = [];
    let end = 0;
    this.#marks.forEach((mark, i) => {
      nodes.push(this.#text.slice(end, mark.start));
      const p = Math.exp(mark.tokens.reduce((sum, { logprob }) => sum + logprob, 0));
      nodes.push(h("span", { class: "token", "data-i": i, "--p": p.toFixed(3) }, this.#text.slice(mark.start, mark.end)));
      end = mark.end;
    });
    replace(this.#behind, ...nodes, `${this.#text.slice(end)}\n`);
  }

  #edited() {
    const before = this.#text;
    const after = this.box.value;
    const most = Math.min(before.length, after.length);
    let start = 0;
    while (start < most && before[start] === after[start]) start++;
    let same = 0; // at the end
    while (same < most - start && before.at(-1 - same) === after.at(-1 - same)) same++;
    const end = before.length - same;
    const moved = after.length - before.length;
    this.#marks = this.#marks
      .filter((mark) => mark.end <= start || mark.start >= end)
      .map((mark) => (mark.start >= end ? { ...mark, start: mark.start + moved, end: mark.end + moved } : mark));
    this.#text = after;
    this.#render();
    this.#onEdit();
  }

  /**
   * Return the mark under the pointer, and its place.
   *
   * @param {PointerEvent} event
   * @returns {[Mark, DOMRect] | [null, null]}
   */
  #under({ clientX, clientY }) {
    const span = document.elementsFromPoint(clientX, clientY).find((one) => one.parentElement === this.#behind);
    if (!(span instanceof HTMLElement)) return this.#highlight(null);
    const rects = [...span.getClientRects()];
    return this.#highlight(span, rects.find((rect) => rect.top <= clientY && clientY <= rect.bottom));
  }

  /**
   * Return the mark at the cursor, or before it, and its place.
   *
   * @returns {[Mark, DOMRect] | [null, null]}
   */
  atCursor() {
    const at = this.box.selectionStart;
    let i = this.#marks.findIndex(({ start, end }) => start <= at && at < end);
    if (i < 0) i = this.#marks.findIndex(({ end }) => end === at);
    return this.#highlight(this.#behind.querySelector(`[data-i="${i}"]`));
  }

  /**
   * @param {HTMLElement | null} span
   * @param {DOMRect} [place]
   * @returns {[Mark, DOMRect] | [null, null]}
   */
  #highlight(span, place) {
    for (const other of this.#behind.querySelectorAll(".current")) other.classList.remove("current");
    const mark = this.#marks[Number(span?.dataset.i)];
    if (!span || !mark) return [null, null];
    span.classList.add("current");
    return [mark, place ?? span.getClientRects()[0] ?? span.getBoundingClientRect()];
  }
}
