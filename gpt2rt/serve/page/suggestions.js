/** Suggestions of what to say, by category. The chosen category is that of the next round. */

import { h, replace } from "./dom.js";

/** @typedef {{name: string, prompts: string[]}} Category */

const N_SHOWN = 5;

export class Suggestions {
  /** @type {string | null} */
  category = null;
  #choices = h("div", { class: "choices", role: "radiogroup", "aria-label": "Category" });
  #prompts = h("ul", { "aria-label": "Suggestions" });
  #onChoose;

  /** @param {(prompt: string) => void} onChoose */
  constructor(onChoose) {
    this.#onChoose = onChoose;
    this.element = h("div", { class: "suggestions" }, this.#choices, this.#prompts);
  }

  /** @param {Category[]} categories */
  show(categories) {
    const all = { name: null, prompts: categories.flatMap(({ prompts }) => prompts) };
    const choices = [all, ...categories].map((one) =>
      h(
        "label",
        {},
        h("input", { type: "radio", name: "category", checked: one.name === null, onchange: () => this.#choose(one) }),
        h("span", {}, one.name ?? "anything"),
      ),
    );
    replace(this.#choices, ...(categories.length ? choices : []));
    this.#choose(all);
  }

  /** @param {{name: string | null, prompts: string[]}} category */
  #choose({ name, prompts }) {
    this.category = name;
    const step = Math.max(1, prompts.length / N_SHOWN); // a few of each category
    const shown = Array.from({ length: Math.min(N_SHOWN, prompts.length) }, (_, i) => prompts[Math.floor(i * step)] ?? "");
    replace(
      this.#prompts,
      ...shown.map((prompt) => h("li", {}, h("button", { type: "button", onclick: () => this.#onChoose(prompt) }, prompt))),
    );
  }
}
