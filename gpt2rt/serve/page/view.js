/** How the page looks: colors, letters, tint. The choice holds for all pages. */

import { h } from "./dom.js";
import { load, save } from "./store.js";

/** @type {Record<string, {label: string, options: Record<string, string>}>} */
const CHOICES = {
  colors: { label: "Colors", options: { auto: "As the system", light: "Light", dark: "Dark" } },
  letters: { label: "Letters", options: { prose: "Proportional", mono: "Monospaced" } },
};

/** @type {Record<string, string>} */
const chosen = { colors: "auto", letters: "prose", tint: "off", ...load("view") };

function apply() {
  for (const [name, value] of Object.entries(chosen)) document.documentElement.dataset[name] = value;
}

/**
 * @param {string} name
 * @param {string} value
 */
function choose(name, value) {
  chosen[name] = value;
  save("view", chosen);
  apply();
}

apply();

/** @returns {HTMLElement} the controls */
export function viewControls() {
  return h(
    "fieldset",
    {},
    h("legend", {}, "View"),
    ...Object.entries(CHOICES).map(([name, { label, options }]) => {
      const select = h(
        "select",
        { id: `view-${name}`, onchange: () => choose(name, select.value) },
        ...Object.entries(options).map(([value, text]) => h("option", { value, selected: value === chosen[name] }, text)),
      );
      return h("div", { class: "field" }, h("label", { for: `view-${name}` }, label), select);
    }),
    h(
      "label",
      { class: "check" },
      h("input", {
        type: "checkbox",
        checked: chosen.tint === "on",
        onchange: (/** @type {any} */ event) => choose("tint", event.target.checked ? "on" : "off"),
      }),
      "Tint tokens by probability",
    ),
  );
}
