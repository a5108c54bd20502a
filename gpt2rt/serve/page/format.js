/** Numbers and symbols as the page writes them. */

/** @param {number} value */
export function count(value) {
  return value.toLocaleString("en-US");
}

/**
 * Return a number with the word for what it counts.
 *
 * @param {number} value
 * @param {string} one
 * @param {string} [many]
 */
export function plural(value, one, many = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : many}`;
}

/**
 * Return a probability in percent, with one digit that says something.
 *
 * @param {number} logprob
 */
export function percent(logprob) {
  const value = 100 * Math.exp(logprob);
  if (value < 0.01) return "< 0.01%";
  return `${value >= 10 ? value.toFixed(0) : value.toFixed(value >= 1 ? 1 : 2)}%`;
}

/**
 * Return a speed.
 *
 * @param {number} nTokens
 * @param {number} seconds
 */
export function speed(nTokens, seconds) {
  const value = nTokens / seconds;
  return `${value.toFixed(value < 10 ? 1 : 0)} tokens/s`;
}

/**
 * Return a token's text with its white space made visible.
 *
 * @param {string} name
 */
export function visible(name) {
  if (name === "") return "(empty)";
  return name.replace(/ /g, "␣").replace(/\n/g, "↵").replace(/\r/g, "␍").replace(/\t/g, "⇥");
}

/**
 * Return what a model is, for people who read.
 *
 * @param {import("./models.js").Model} model
 */
export function facts(model) {
  const millions = model.n_parameters / 1e6;
  const size = millions >= 1 ? `${count(Math.round(millions))} million` : count(model.n_parameters);
  return `${size} parameters, ${model.weight_type}, ${count(model.max_model_len)} tokens of context`;
}
