/** Notices: short sentences at the bottom of the page, perhaps with something to undo. */

import { h, replace } from "./dom.js";

const SECONDS = 10;
const place = h("div", { class: "notice", role: "status" });
document.querySelector("main")?.append(place);

/** @type {number | undefined} */
let timer;

/**
 * Show a notice.
 *
 * @param {string} text
 * @param {{label: string, run: () => void} | null} [action] a button
 */
export function notify(text, action = null) {
  clearTimeout(timer);
  const run = action?.run;
  const button =
    action &&
    h("button", { type: "button", onclick: () => (dismiss(), run?.()) }, action.label);
  replace(place, h("span", {}, text), button, h("button", { type: "button", onclick: dismiss }, "Close"));
  wait();
}

function wait() {
  clearTimeout(timer);
  timer = setTimeout(() => {
    // Who has reached the button is not robbed of it.
    if (place.matches(":hover, :focus-within")) wait();
    else dismiss();
  }, SECONDS * 1000);
}

export function dismiss() {
  clearTimeout(timer);
  replace(place);
}
