/** The plot of intervals: one row of it in each row of a table, on one scale. */

import { svg } from "./dom.js";
import { count } from "./format.js";

/**
 * @typedef {{low: number, high: number, ticks: number[]}} Scale
 * @typedef {Pick<import("./board.js").Row, "rating" | "low" | "high" | "provisional">} Interval
 */

const N_TICKS = 4; // at most

/**
 * Return the scale for intervals.
 *
 * @param {Interval[]} rows
 * @returns {Scale}
 */
export function scaleFor(rows) {
  let low = Math.min(...rows.map((row) => row.low));
  let high = Math.max(...rows.map((row) => row.high));
  const room = Math.max((high - low) * 0.06, 5);
  low -= room;
  high += room;
  const power = 10 ** Math.floor(Math.log10((high - low) / N_TICKS));
  const step = ([1, 2, 5].find((one) => (high - low) / (one * power) <= N_TICKS) ?? 10) * power;
  const ticks = [];
  for (let tick = Math.ceil(low / step) * step; tick <= high; tick += step) ticks.push(tick);
  return { low, high, ticks };
}

/**
 * Return where a value is on a scale.
 *
 * @param {number} value
 * @param {Scale} scale
 */
function at(value, { low, high }) {
  return `${((100 * (value - low)) / (high - low)).toFixed(2)}%`;
}

/** @param {Scale} scale */
export function axis(scale) {
  return svg(
    "svg",
    { class: "axis", role: "img", "aria-label": "Interval of the rating" },
    ...scale.ticks.map((tick) => svg("text", { x: at(tick, scale), y: "75%", "text-anchor": "middle" }, count(tick))),
  );
}

/**
 * @param {Interval} interval
 * @param {Scale} scale
 */
export function intervalPlot({ rating, low, high, provisional }, scale) {
  const [left, dot, right] = [low, rating, high].map((value) => at(value, scale));
  return svg(
    "svg",
    { class: provisional ? "interval provisional" : "interval", role: "img", "aria-label": `${count(Math.round(low))} to ${count(Math.round(high))}` },
    ...scale.ticks.map((tick) => svg("line", { class: "tick", x1: at(tick, scale), x2: at(tick, scale), y1: 0, y2: "100%" })),
    svg("line", { x1: left, x2: right, y1: "50%", y2: "50%" }),
    ...[left, right].map((x) => svg("line", { class: "cap", x1: x, x2: x, y1: "32%", y2: "68%" })),
    svg("circle", { cx: dot, cy: "50%", r: 4.5 }),
  );
}
