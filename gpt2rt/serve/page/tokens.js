/** Tokens: what the server says of each, and where it is in the text. */

/**
 * @typedef {object} Token
 * @property {string} name its text; `bytes:\xe2\x80` for a part of a character
 * @property {number} logprob
 * @property {[string, number][]} top the names and log probabilities of the most likely tokens in its place
 *
 * @typedef {object} Group tokens that belong to the same characters; mostly one
 * @property {number} start
 * @property {number} end
 * @property {Token[]} tokens
 */

export const N_TOP = 5; // most likely tokens to ask for

/**
 * Return the tokens of a chunk of a chat.
 *
 * @param {any} logprobs
 * @returns {Token[]}
 */
export function chatTokens(logprobs) {
  return (logprobs?.content ?? []).map((/** @type {any} */ one) => ({
    name: one.token,
    logprob: one.logprob,
    top: one.top_logprobs.map((/** @type {any} */ other) => [other.token, other.logprob]),
  }));
}

/**
 * Return the tokens of a chunk of a completion.
 *
 * @param {any} logprobs
 * @returns {Token[]}
 */
export function completionTokens(logprobs) {
  return (logprobs?.tokens ?? []).map((/** @type {string} */ name, /** @type {number} */ i) => ({
    name,
    logprob: logprobs.token_logprobs[i],
    top: Object.entries(logprobs.top_logprobs[i] ?? {}).sort((a, b) => b[1] - a[1]),
  }));
}

/** @param {string} name whether a token is a part of a character */
export function isPart(name) {
  return name.startsWith("bytes:");
}

const encoder = new TextEncoder();

/** @param {string} name */
function bytesOf(name) {
  if (!isPart(name)) return encoder.encode(name);
  return Uint8Array.from(name.slice("bytes:".length).split("\\x").slice(1), (one) => parseInt(one, 16));
}

/**
 * Find tokens in the text that came with them, which lacks what the server has trimmed, or left out as a stop string.
 *
 * @param {Token[]} tokens
 * @param {string} text
 * @param {number} [offset] to add to all places
 * @returns {Group[] | null} null if the text is not a part of the tokens' text
 */
export function locate(tokens, text, offset = 0) {
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
  /** @type {Group[]} */
  const groups = [];
  let whole = "";
  /** @type {Token[]} */
  let waiting = [];
  for (const token of tokens) {
    waiting.push(token);
    const piece = decoder.decode(bytesOf(token.name), { stream: true });
    if (!piece) continue;
    groups.push({ start: whole.length, end: whole.length + piece.length, tokens: waiting });
    whole += piece;
    waiting = [];
  }
  const begin = whole.indexOf(text);
  if (begin < 0) return null;
  return groups
    .map(({ start, end, tokens }) => ({
      start: Math.max(start - begin, 0) + offset,
      end: Math.min(end - begin, text.length) + offset,
      tokens,
    }))
    .filter(({ start, end }) => start < end);
}

/**
 * Return tokens with as many digits as the page shows, to store them.
 *
 * @param {Token[]} tokens
 * @returns {Token[]}
 */
export function rounded(tokens) {
  const short = (/** @type {number} */ value) => Math.round(value * 1000) / 1000;
  return tokens.map(({ name, logprob, top }) => ({
    name,
    logprob: short(logprob),
    top: top.map(([other, value]) => [other, short(value)]),
  }));
}
