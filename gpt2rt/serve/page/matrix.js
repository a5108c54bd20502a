/** Who beats whom: as a matrix, and as a list where a matrix would be too wide. */

import { h } from "./dom.js";
import { plural } from "./format.js";

/** @typedef {import("./board.js").Pair} Pair */

/**
 * Return a pair as its other contestant sees it.
 *
 * @param {Pair} pair
 * @returns {Pair}
 */
function reversed({ a, b, wins, losses, low, high, ...rest }) {
  return { a: b, b: a, wins: losses, losses: wins, low: 1 - high, high: 1 - low, ...rest };
}

/** @param {Pair} pair */
function interval({ low, high }) {
  return `${Math.round(100 * low)}–${Math.round(100 * high)}%`;
}

/** @param {Pair} pair how much of the rounds a has won, a tie being half of it */
function share({ wins, losses, ties }) {
  const n = wins + losses + ties;
  return n ? (wins + ties / 2) / n : 0.5;
}

/**
 * @param {string[]} names
 * @param {Pair[]} pairs
 */
export function pairMatrix(names, pairs) {
  const all = [...pairs, ...pairs.map(reversed)];
  /** @param {string} a @param {string} b */
  const cell = (a, b) => {
    const pair = all.find((one) => one.a === a && one.b === b);
    if (a === b) return h("td", { class: "self" });
    if (!pair) return h("td", { class: "none" }, h("span", { class: "unseen" }, "not met"));
    const lead = share(pair) - 0.5;
    return h(
      "td",
      { class: `${lead >= 0 ? "ahead" : "behind"}${pair.decided ? " decided" : ""}`, "--lead": `${Math.round(60 * Math.abs(lead))}%` },
      h("span", {}, `${pair.wins} : ${pair.losses}`),
      h("small", {}, interval(pair)),
      pair.ties > 0 && h("small", {}, plural(pair.ties, "tie")),
    );
  };
  return h(
    "div",
    { class: "wide", tabindex: 0, role: "region", "aria-label": "Matrix of wins" },
    h(
      "table",
      { class: "matrix" },
      h("thead", {}, h("tr", {}, h("td"), ...names.map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...names.map((a) => h("tr", {}, h("th", { scope: "row" }, a), ...names.map((b) => cell(a, b))))),
    ),
  );
}

/** @param {Pair[]} pairs */
export function pairList(pairs) {
  return h(
    "ul",
    { class: "pairs" },
    ...pairs
      .map((pair) => (share(pair) < 0.5 ? reversed(pair) : pair))
      .map((pair) =>
        h(
          "li",
          { class: pair.decided ? "decided" : "" },
          h("span", {}, `${pair.a} – ${pair.b}`),
          h("span", { class: "number" }, `${pair.wins} : ${pair.losses}`),
          h("small", {}, `${interval(pair)}${pair.ties ? `, ${plural(pair.ties, "tie")}` : ""}${pair.decided ? ", decided" : ""}`),
        ),
      ),
  );
}
