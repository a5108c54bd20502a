/** A turn of a battle: what was said to both, and their answers side by side. */

import { h, replace } from "./dom.js";

/** @typedef {import("./arena.js").Side} Side */

export class Turn {
  /** @type {Record<Side, {name: HTMLElement, text: HTMLElement, foot: HTMLElement, element: HTMLElement}>} */
  #sides = { a: makeSide("a"), b: makeSide("b") };
  #note = h("p", { class: "note" });

  /** @param {string} said */
  constructor(said) {
    this.element = h(
      "article",
      { class: "turn running", "aria-label": "Turn" },
      h("div", { class: "prompt" }, h("h2", {}, "You"), h("div", { class: "text" }, said)),
      h("div", { class: "pair" }, this.#sides.a.element, this.#sides.b.element),
      this.#note,
    );
  }

  /** @param {Partial<Record<Side, string>>} pieces of the two answers */
  add(pieces) {
    for (const side of /** @type {Side[]} */ (["a", "b"])) this.#sides[side].text.append(pieces[side] ?? "");
  }

  /** @param {string} [note] */
  end(note = "") {
    this.element.classList.remove("running");
    for (const { text } of Object.values(this.#sides)) text.normalize();
    if (note) replace(this.#note, note);
  }

  /** Return both answers for screen readers. */
  spoken() {
    return `Answer A: ${this.#sides.a.text.textContent} Answer B: ${this.#sides.b.text.textContent}`;
  }

  /**
   * Show who answered.
   *
   * @param {Record<Side, import("./arena.js").Contestant>} contestants
   * @param {boolean} hasDetails
   */
  reveal(contestants, hasDetails) {
    for (const side of /** @type {Side[]} */ (["a", "b"])) {
      const { name, details } = contestants[side];
      replace(this.#sides[side].name, name);
      if (hasDetails) replace(this.#sides[side].foot, ...details.map((one) => h("span", {}, one)));
    }
  }
}

/** @param {Side} side */
function makeSide(side) {
  const letter = side.toUpperCase();
  const name = h("span", { class: "name" });
  const text = h("div", { class: "text" });
  const foot = h("p", { class: "details" });
  const element = h("section", { class: `side ${side}`, "aria-label": `Answer ${letter}` }, h("h3", {}, h("span", {}, letter), " ", name), text, foot);
  return { name, text, foot, element };
}
