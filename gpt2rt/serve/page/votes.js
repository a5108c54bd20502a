/** The four buttons of a vote. They look the same and none has the focus first: anything else would bias the vote. */

import { h } from "./dom.js";

/** @type {[import("./arena.js").Outcome, string, string][]} outcome, label, the letter that is its key */
const VOTES = [
  ["a", "A is better", "a"],
  ["b", "B is better", "b"],
  ["tie", "Tie", "t"],
  ["bad", "Both are bad", "x"],
];

export class Votes {
  #onVote;

  /** @param {(outcome: import("./arena.js").Outcome) => void} onVote */
  constructor(onVote) {
    this.#onVote = onVote;
    this.element = h(
      "div",
      { class: "votes", role: "group", "aria-label": "Which answer is better? Keys 1 to 4, or A, B, T and X", tabindex: -1, hidden: true },
      ...VOTES.map(([outcome, label, letter], i) =>
        h(
          "button",
          { type: "button", "aria-keyshortcuts": `${i + 1} ${letter}`, onclick: () => onVote(outcome) },
          label,
          h("kbd", { "aria-hidden": "true" }, i + 1),
        ),
      ),
    );
  }

  show() {
    this.element.hidden = false;
  }

  hide() {
    this.element.hidden = true;
  }

  /** Take the focus, so that keys are votes. No button has it. */
  focus() {
    this.element.focus({ preventScroll: true });
  }

  /** Whether a vote is on its way. */
  set isBusy(/** @type {boolean} */ isBusy) {
    for (const button of this.element.querySelectorAll("button")) button.disabled = isBusy;
  }

  /** @param {KeyboardEvent} event */
  onKey({ key }) {
    if (this.element.hidden) return;
    const vote = VOTES.find(([, , letter], i) => key.toLowerCase() === letter || key === String(i + 1));
    if (vote) this.#onVote(vote[0]);
  }
}
