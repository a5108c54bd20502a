/** The settings of requests: a form whose empty fields leave the choice to the server. */

import { h, replace } from "./dom.js";
import { facts } from "./format.js";

/**
 * @typedef {Record<string, string>} Values what was typed, by field
 *
 * @typedef {object} Field
 * @property {string} name as in requests
 * @property {string} label
 * @property {"number" | "text" | "lines" | "choice"} kind lines: a list of texts, one a line
 * @property {string} hint
 * @property {string} [placeholder] without one, the server's default
 * @property {Record<string, string>} [options] of a choice, by value
 */

/** @type {Field[]} */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", kind: "number", hint: "0 always takes the most likely token; higher is more varied." },
  { name: "top_p", label: "Top p", kind: "number", hint: "Keep the most likely tokens that reach this probability together." },
  { name: "top_k", label: "Top k", kind: "number", hint: "Keep this many of the most likely tokens; 0 keeps all." },
  { name: "repetition_penalty", label: "Repetition penalty", kind: "number", hint: "Above 1, recent tokens become less likely." },
  { name: "max_tokens", label: "Max tokens", kind: "number", hint: "The text ends after this many tokens." },
  { name: "seed", label: "Seed", kind: "number", hint: "The same seed gives the same text.", placeholder: "random" },
];

/** A value that is not what its field expects. */
export class FieldError extends Error {
  /**
   * @param {string} param
   * @param {string} message
   */
  constructor(param, message) {
    super(message);
    this.param = param;
  }
}

export class Settings {
  /** @type {Map<string, HTMLInputElement | HTMLTextAreaElement | HTMLSelectElement>} */
  #boxes = new Map();
  #fields;
  #onChange;
  #model = h("select", { id: "set-model", onchange: () => this.#changed("model") });
  #facts = h("p", { class: "hint", id: "set-model-hint" });
  /** @type {import("./models.js").Model[]} */
  #models = [];

  /**
   * @param {Field[]} fields
   * @param {(values: Values) => void} onChange
   */
  constructor(fields, onChange) {
    this.#fields = fields;
    this.#onChange = onChange;
    this.element = h(
      "div",
      { class: "settings" },
      h("div", { class: "field" }, h("label", { for: "set-model" }, "Model"), this.#model, this.#facts),
      ...fields.map((field) => this.#row(field)),
      h("button", { type: "button", onclick: () => this.#reset() }, "Reset to the server's defaults"),
    );
  }

  /** @param {Field} field */
  #row({ name, label, kind, hint, placeholder, options }) {
    const attributes = { id: `set-${name}`, "aria-describedby": `set-${name}-hint set-${name}-error`, placeholder, oninput: () => this.#changed(name) };
    const box =
      kind === "choice"
        ? h("select", attributes, ...Object.entries(options ?? {}).map(([value, text]) => h("option", { value }, text)))
        : kind === "number"
          ? h("input", { ...attributes, inputmode: "decimal", autocomplete: "off", spellcheck: "false" })
          : h("textarea", { ...attributes, rows: 3 });
    this.#boxes.set(name, box);
    return h(
      "div",
      { class: kind === "number" ? "field short" : "field" },
      h("label", { for: `set-${name}` }, label),
      box,
      h("p", { class: "hint", id: `set-${name}-hint` }, hint),
      h("p", { class: "error", id: `set-${name}-error` }),
    );
  }

  /**
   * @param {import("./models.js").Model[]} models
   * @param {import("./models.js").Defaults} defaults
   */
  setServer(models, defaults) {
    this.#models = models;
    const chosen = this.values.model;
    replace(this.#model, ...models.map(({ id }) => h("option", { value: id, selected: id === chosen }, id)));
    this.#showFacts();
    for (const field of this.#fields) {
      const value = defaults[field.name];
      if (value !== undefined) this.#boxes.get(field.name)?.setAttribute("placeholder", String(value));
    }
  }

  #showFacts() {
    replace(this.#facts, this.model && facts(this.model));
  }

  /** The model that requests go to, null while none is known. */
  get model() {
    return this.#models.find(({ id }) => id === this.#model.value) ?? null;
  }

  /** @returns {Values} */
  get values() {
    const values = Object.fromEntries([...this.#boxes].map(([name, box]) => [name, box.value]).filter(([, value]) => value));
    return { ...values, model: this.#model.value || this.#wanted };
  }

  #wanted = "";

  set values(values) {
    this.#wanted = values.model ?? "";
    if (this.#models.some(({ id }) => id === values.model)) this.#model.value = values.model ?? "";
    for (const [name, box] of this.#boxes) {
      box.value = values[name] ?? "";
      this.#showError(name, "");
    }
    this.#showFacts();
  }

  /**
   * Change one setting.
   *
   * @param {string} name
   * @param {string} value
   */
  set(name, value) {
    const box = this.#boxes.get(name);
    if (box) box.value = value;
    this.#changed(name);
  }

  #reset() {
    this.values = { model: this.#model.value };
    this.#onChange(this.values);
  }

  /** @param {string} name */
  #changed(name) {
    if (name === "model") this.#showFacts();
    else this.#showError(name, "");
    this.#onChange(this.values);
  }

  /**
   * Return the fields of a request.
   *
   * @returns {Record<string, unknown>}
   * @throws {FieldError} a value is not what its field expects
   */
  request() {
    /** @type {Record<string, unknown>} */
    const request = this.#model.value ? { model: this.#model.value } : {};
    for (const { name, kind } of this.#fields) {
      const typed = this.#boxes.get(name)?.value ?? "";
      this.#showError(name, "");
      if (kind === "number" && typed.trim()) request[name] = this.#number(name, typed.trim());
      else if (kind === "lines" && typed) request[name] = typed.split("\n").filter(Boolean).map(unescaped);
      else if (kind !== "number" && typed) request[name] = typed;
    }
    return request;
  }

  /**
   * @param {string} name
   * @param {string} typed
   */
  #number(name, typed) {
    const value = Number(typed.replace(",", "."));
    if (Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value))) return value;
    const error = new FieldError(name, `${name}: got ${typed.slice(0, 40)}, expected a number${Number.isFinite(value) ? " up to 2^53 - 1" : ""}`);
    this.showError(error);
    throw error;
  }

  /**
   * Show an error at its field.
   *
   * @param {{param?: string | null, message: string}} error
   * @returns {boolean} whether it has a field here
   */
  showError({ param, message }) {
    if (!param || !this.#boxes.has(param)) return false;
    this.#showError(param, message);
    return true;
  }

  /**
   * @param {string} name
   * @param {string} message
   */
  #showError(name, message) {
    const box = this.#boxes.get(name);
    if (message) box?.setAttribute("aria-invalid", "true");
    else box?.removeAttribute("aria-invalid");
    const place = this.element.querySelector(`#set-${name}-error`);
    if (place) replace(place, message);
  }
}

/**
 * Return a line with `\n`, `\t` and `\\` replaced by what they stand for.
 *
 * @param {string} line
 */
function unescaped(line) {
  return line.replace(/\\([nt\\])/g, (_, letter) => ({ n: "\n", t: "\t" })[/** @type {"n" | "t"} */ (letter)] ?? "\\");
}
