/** Conversations: what they hold, how they are stored, and what the server receives of them. */

import { keys, load, remove, save } from "./store.js";
import { rounded } from "./tokens.js";

/**
 * @typedef {{text: string, tokens: import("./tokens.js").Token[]}} Part what one request has added to an answer
 *
 * @typedef {object} Answer
 * @property {Part[]} parts
 * @property {string} model
 * @property {number | null} seed of the last part; null until the server says it
 * @property {"stop" | "length" | "stopped" | "error" | null} finish null while it runs
 * @property {string} error
 * @property {string | null} code of the error
 * @property {number} nTokens
 * @property {number} seconds from the request to the last token
 *
 * @typedef {{role: "user", content: string}} Said
 * @typedef {{role: "assistant", answers: Answer[], shown: number}} Answered
 * @typedef {Said | Answered} Message
 *
 * @typedef {object} Conversation
 * @property {string} id
 * @property {number} changed in ms since 1970
 * @property {import("./settings.js").Values} settings
 * @property {Message[]} messages
 */

const KEY = "chat ";

/**
 * @param {import("./settings.js").Values} settings
 * @returns {Conversation}
 */
export function newConversation(settings) {
  const id = `${Date.now().toString(36)}${Math.random().toString(36).slice(2, 6)}`;
  return { id, changed: Date.now(), settings: { ...settings, seed: "" }, messages: [] };
}

/** @returns {Answer} */
export function newAnswer() {
  return { parts: [], model: "", seed: null, finish: null, error: "", code: null, nTokens: 0, seconds: 0 };
}

/** @param {Answer} answer */
export function textOf(answer) {
  return answer.parts.map(({ text }) => text).join("");
}

/**
 * Return the answer of a message that is shown.
 *
 * @param {Answered} message
 * @returns {Answer}
 */
export function shownAnswer(message) {
  return message.answers[message.shown] ?? newAnswer();
}

/** @param {Message} message */
export function contentOf(message) {
  return message.role === "user" ? message.content : textOf(shownAnswer(message));
}

/**
 * Return the name of a conversation: the beginning of its first message.
 *
 * @param {Conversation} conversation
 */
export function nameOf({ messages }) {
  const first = messages[0] ? contentOf(messages[0]).trim().split("\n")[0] ?? "" : "";
  return first.length > 60 ? `${first.slice(0, 59)}…` : first || "New conversation";
}

/**
 * Return messages as the server takes them. Answers that did not get to their first word are left out.
 *
 * @param {Message[]} messages
 * @returns {{role: string, content: string}[]}
 */
export function requestMessages(messages) {
  return messages
    .map((message) => ({ role: message.role, content: contentOf(message) }))
    .filter(({ role, content }) => role === "user" || content);
}

/**
 * Return the stored conversation with an id, null without one.
 *
 * @param {string} id
 * @returns {Conversation | null}
 */
export function loadConversation(id) {
  const found = load(KEY + id);
  if (!Array.isArray(found?.messages)) return null;
  for (const message of found.messages) {
    for (const answer of message.answers ?? []) answer.finish ??= "stopped"; // the page was left meanwhile
  }
  return found;
}

/** @returns {Conversation[]} the stored conversations, the last changed one first */
export function allConversations() {
  return keys(KEY)
    .map((key) => loadConversation(key.slice(KEY.length)))
    .filter((one) => one !== null)
    .sort((a, b) => b.changed - a.changed);
}

/**
 * Store a conversation. Where there is no room, the probabilities of all others are dropped.
 *
 * @param {Conversation} conversation
 * @returns {boolean} whether it is stored now
 */
export function saveConversation(conversation) {
  const key = KEY + conversation.id;
  if (save(key, mapParts(conversation, ({ text, tokens }) => ({ text, tokens: rounded(tokens) })))) return true;
  for (const other of allConversations()) {
    if (other.id !== conversation.id) save(KEY + other.id, withoutTokens(other));
  }
  return save(key, withoutTokens(conversation));
}

/** @param {Conversation} conversation */
function withoutTokens(conversation) {
  return mapParts(conversation, ({ text }) => ({ text, tokens: [] }));
}

/**
 * @param {Conversation} conversation
 * @param {(part: Part) => Part} change
 * @returns {Conversation}
 */
function mapParts(conversation, change) {
  const messages = conversation.messages.map((message) =>
    message.role === "user"
      ? message
      : { ...message, answers: message.answers.map((answer) => ({ ...answer, parts: answer.parts.map(change) })) },
  );
  return { ...conversation, messages };
}

/** @param {string} id */
export function removeConversation(id) {
  remove(KEY + id);
}

/**
 * Return the id of the conversation that a storage key belongs to, null if it belongs to none.
 *
 * @param {string} key
 */
export function idOfKey(key) {
  return key.startsWith(KEY) ? key.slice(KEY.length) : null;
}

/**
 * Return a conversation as plain text.
 *
 * @param {Conversation} conversation
 */
export function asText({ messages, settings }) {
  const opening = settings.system ? [settings.system] : [];
  const said = messages.map((message) => {
    const name = message.role === "user" ? "You" : shownAnswer(message).model || "Answer";
    return `${name}: ${contentOf(message)}`;
  });
  return `${[...opening, ...said].join("\n\n")}\n`;
}

/**
 * Return a conversation as JSON whose messages can be sent to the API as they are.
 *
 * @param {Conversation} conversation
 */
export function asJson({ messages, settings }) {
  const { system, ...sampling } = settings;
  const opening = system ? [{ role: "system", content: system }] : [];
  const answers = messages.flatMap((message) => {
    if (message.role === "user") return [];
    const { model, seed, finish } = shownAnswer(message);
    return [{ model, seed, finish_reason: finish }];
  });
  return JSON.stringify({ settings: sampling, messages: [...opening, ...requestMessages(messages)], answers }, null, 2);
}
