/** The board: ratings with their intervals, who beats whom, and words that say how to read both. */

import { get } from "./api.js";
import { h, replace } from "./dom.js";
import { count, plural } from "./format.js";
import { pairList, pairMatrix } from "./matrix.js";
import { axis, intervalPlot, scaleFor } from "./plot.js";

/**
 * @typedef {object} Row
 * @property {string} name
 * @property {number} rating
 * @property {number} low @property {number} high the interval of the rating
 * @property {number} rank_low @property {number} rank_high
 * @property {number} rounds
 * @property {number} wins @property {number} losses @property {number} ties @property {number} bad
 * @property {boolean} provisional
 * @property {number} group contestants of different groups have not met, not even by way of others
 * @property {string | null} parent the contestant that this one is a variant of
 * @property {boolean} retired
 *
 * @typedef {object} Pair
 * @property {string} a @property {string} b
 * @property {number} wins @property {number} losses of a against b
 * @property {number} ties @property {number} bad
 * @property {number} low @property {number} high the interval of the probability that a wins, 0 to 1
 * @property {boolean} decided
 */

export class Board {
  #showsRetired = false;

  constructor() {
    this.element = h("div", { class: "board" });
  }

  /** @param {(error: unknown) => string} sentence says what went wrong */
  async load(sentence) {
    if (!this.element.childElementCount) replace(this.element, h("p", { class: "hint" }, "Loading …"));
    try {
      this.#show(await get("arena/board"));
    } catch (error) {
      replace(this.element, h("p", { class: "error" }, sentence(error)));
    }
  }

  /** @param {{rows: Row[], pairs: Pair[], notes: string[]}} board */
  #show(board) {
    const { rows, pairs, notes } = board;
    const nRetired = rows.filter(({ retired }) => retired).length;
    const shown = rows.filter(({ retired }) => this.#showsRetired || !retired);
    const groups = [...new Set(shown.map(({ group }) => group))].map((group) => shown.filter((row) => row.group === group));
    const toggle = (/** @type {any} */ event) => {
      this.#showsRetired = event.target.checked;
      this.#show(board);
      this.element.querySelector("input")?.focus();
    };
    replace(
      this.element,
      h("h2", {}, "Board"),
      ...notes.map((note) => h("p", {}, note)),
      !rows.length && h("p", {}, "No votes yet."),
      ...groups.flatMap((group, i) => this.#group(group, pairs, groups.length > 1 ? i + 1 : 0)),
      groups.length > 1 && h("p", { class: "hint" }, "Contestants of different groups have not met, so their ratings can't be compared."),
      nRetired > 0 &&
        h("label", { class: "check" }, h("input", { type: "checkbox", checked: this.#showsRetired, onchange: toggle }), `Show ${plural(nRetired, "retired contestant")}`),
    );
  }

  /**
   * @param {Row[]} rows
   * @param {Pair[]} pairs
   * @param {number} number of the group, 0 if it is the only one
   */
  #group(rows, pairs, number) {
    const names = rows.map(({ name }) => name);
    const own = pairs.filter(({ a, b }) => names.includes(a) && names.includes(b));
    return [
      number > 0 && h("h3", {}, `Group ${number}`),
      ratingTable(rows),
      h(
        "p",
        { class: "hint" },
        "The dot is the rating, and the line its interval: the shorter, the more is known. Where the ranks of two contestants overlap, the votes do not tell yet which one is better. ",
        rows.some(({ provisional }) => provisional) && "Dashed lines and hollow dots are provisional: too few rounds.",
      ),
      own.length > 0 && h("h3", {}, "Who beats whom"),
      own.length > 0 && pairMatrix(names, own),
      own.length > 0 && pairList(own),
      own.length > 0 &&
        h(
          "p",
          { class: "hint" },
          "Rounds that the contestant of the row has won and lost against that of the column, and the interval of its probability to win. ",
          "Green is ahead, rust is behind; the pairs in bold are decided: their interval leaves no doubt which one is better.",
        ),
    ];
  }
}

/** @param {Row[]} rows */
function ratingTable(rows) {
  const scale = scaleFor(rows);
  const heads = ["Rank", "Contestant", "Rating", axis(scale), "Rounds", "Won", "Lost", "Ties", "Bad"];
  /** @param {string} label @param {number} value */
  const number = (label, value) => h("td", { role: "cell", class: "number count", "data-label": label }, count(value));
  return h(
    "table",
    { role: "table", class: "ratings", "aria-label": "Ratings" },
    h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads.map((head) => h("th", { role: "columnheader", scope: "col", class: typeof head === "string" ? head.toLowerCase() : "plot" }, head)))),
    h(
      "tbody",
      { role: "rowgroup" },
      ...rows.map((row) =>
        h(
          "tr",
          { role: "row" },
          h("td", { role: "cell", class: "rank" }, row.rank_low === row.rank_high ? row.rank_low : `${row.rank_low}–${row.rank_high}`),
          h(
            "th",
            { role: "rowheader", scope: "row", class: "contestant" },
            row.name,
            ...[row.parent && `variant of ${row.parent}`, row.provisional && "provisional", row.retired && "retired"]
              .filter(Boolean)
              .map((remark) => h("small", {}, remark)),
          ),
          h("td", { role: "cell", class: "number rating" }, count(Math.round(row.rating))),
          h("td", { role: "cell", class: "plot" }, intervalPlot(row, scale)),
          number("Rounds", row.rounds),
          number("Won", row.wins),
          number("Lost", row.losses),
          number("Ties", row.ties),
          number("Bad", row.bad),
        ),
      ),
    ),
  );
}
