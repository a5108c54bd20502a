/** The page for conversations. */

import "./view.js";
import { Announcer, announce } from "./announcer.js";
import { ServerError, stream } from "./api.js";
import { Composer } from "./composer.js";
import {
  allConversations,
  idOfKey,
  loadConversation,
  newAnswer,
  newConversation,
  requestMessages,
  saveConversation,
  shownAnswer,
  textOf,
} from "./conversation.js";
import { ConversationList } from "./conversation_list.js";
import { byId, h, replace } from "./dom.js";
import { facts } from "./format.js";
import { Inspector } from "./inspector.js";
import { AnsweredView, SaidView } from "./message.js";
import { defaults, models } from "./models.js";
import { dismiss, notify } from "./notice.js";
import { isWide, linkPanel } from "./panel.js";
import { keepAtEnd } from "./scroll.js";
import { FieldError, SAMPLING, Settings } from "./settings.js";
import { load, onOtherTab, save } from "./store.js";
import { chatTokens, N_TOP } from "./tokens.js";
import { viewControls } from "./view.js";

/**
 * @typedef {import("./conversation.js").Answered} Answered
 * @typedef {import("./conversation.js").Conversation} Conversation
 */

const SAVE_EVERY = 1000; // ms, while an answer arrives

/** @type {import("./settings.js").Field[]} */
const FIELDS = [
  { name: "system", label: "Opening", kind: "text", hint: "What comes before the conversation: a scene, or instructions.", placeholder: "the model's own" },
  ...SAMPLING,
  {
    name: "truncation",
    label: "A conversation that is too long",
    kind: "choice",
    hint: "What the server does when it does not fit the context.",
    options: { "": "as the server is set", disabled: "is refused", auto: "loses its oldest messages" },
  },
];

class Chat {
  /** @type {Conversation} */
  #conversation = newConversation(load("chat-settings") ?? {});
  /** @type {(SaidView | AnsweredView)[]} */
  #views = [];
  /** @type {AbortController | null} of the answer that arrives */
  #running = null;
  #wasTold = false; // that nothing can be stored
  #inspector = new Inspector();
  #log = byId("log");
  #start = byId("start");
  #settings = new Settings(FIELDS, (values) => this.#onSettings(values));
  #list = new ConversationList(
    () => this.#conversation,
    (id) => this.#onDelete(id),
  );
  #composer = new Composer({
    label: "Message",
    placeholder: "Say something",
    onSend: (text) => this.#say(text),
    onStop: () => this.#stop(),
  });
  #openSettings = linkPanel(byId("settings-button"), byId("settings"), isWide());
  #openList = linkPanel(byId("list-button"), byId("list"), isWide());

  constructor() {
    byId("settings").append(this.#settings.element, viewControls());
    byId("list").append(this.#list.element);
    byId("composer").append(this.#composer.element);
    addEventListener("hashchange", () => this.#route());
    addEventListener("pagehide", () => (this.#stop(), this.#save()));
    addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.#running) this.#stop();
    });
    onOtherTab((key) => {
      const id = idOfKey(key);
      if (id === null) return;
      this.#list.update();
      if (id === this.#conversation.id && !this.#running) this.#show(loadConversation(id) ?? this.#conversation);
    });
    this.#route(allConversations()[0]?.id);
    this.#composer.focus();
    this.#greet();
  }

  async #greet() {
    try {
      const [found, values] = await Promise.all([models(), defaults("chat")]);
      this.#settings.setServer(found, values);
      this.#showStart();
    } catch (error) {
      replace(this.#start, h("p", { class: "error" }, sentence(error)));
    }
  }

  #showStart() {
    const { model } = this.#settings;
    if (model) replace(this.#start, h("h2", {}, model.id), h("p", {}, facts(model)), h("p", {}, "Not every model was taught to talk. The ", h("a", { href: "notebook" }, "notebook"), " continues any text."));
  }

  // --- conversations

  /** Open the conversation that the address names. @param {string} [id] to open without one */
  #route(id) {
    const named = location.hash.slice(1) || id || "new";
    if (named === this.#conversation.id) return;
    this.#stop();
    const found = named === "new" ? null : loadConversation(named);
    this.#show(found ?? newConversation(load("chat-settings") ?? {}));
    if (!isWide()) this.#openList(false);
  }

  /** @param {Conversation} conversation */
  #show(conversation) {
    this.#conversation = conversation;
    this.#settings.values = conversation.settings;
    this.#rebuild();
    this.#list.update();
    scrollTo(0, document.documentElement.scrollHeight);
  }

  /** @param {string} id */
  #onDelete(id) {
    if (id !== this.#conversation.id) return;
    this.#stop();
    this.#conversation = newConversation(this.#conversation.settings); // what stops now is not stored again
    location.hash = "new";
    this.#show(this.#conversation);
  }

  #save() {
    const conversation = this.#conversation;
    if (!conversation.messages.length) return;
    if (saveConversation(conversation) || this.#wasTold) return;
    this.#wasTold = true;
    notify("The browser does not store this conversation: a reload will lose it.");
  }

  /** @param {import("./settings.js").Values} values */
  #onSettings(values) {
    this.#conversation.settings = values;
    save("chat-settings", values);
    this.#save();
    this.#showStart();
  }

  // --- messages

  #rebuild() {
    this.#inspector.hide();
    this.#views = this.#conversation.messages.map((message, i) => this.#view(message, i));
    replace(this.#log, ...this.#views.map(({ element }) => element));
    this.#update();
  }

  #update() {
    this.#start.hidden = this.#views.length > 0;
    this.#views.forEach((view, i) => view.update(i === this.#views.length - 1));
  }

  /**
   * @param {import("./conversation.js").Message} message
   * @param {number} i
   */
  #view(message, i) {
    const actions = {
      edit: (/** @type {string} */ text) => this.#edit(i, text),
      retry: () => this.#retry(),
      resume: () => this.#answer({ isContinued: true }),
      shorten: () => (this.#settings.set("truncation", "auto"), this.#retry()),
      useSeed: (/** @type {number} */ seed) => {
        this.#settings.set("seed", String(seed));
        notify(`The next answers use seed ${seed}.`, { label: "Undo", run: () => this.#settings.set("seed", "") });
      },
      changed: () => (this.#update(), this.#save()),
    };
    return message.role === "user" ? new SaidView(message, actions) : new AnsweredView(message, actions, this.#inspector);
  }

  /** @param {import("./conversation.js").Message} message */
  #append(message) {
    const view = this.#view(message, this.#conversation.messages.length);
    this.#conversation.messages.push(message);
    this.#views.push(view);
    this.#log.append(view.element);
  }

  /** @param {string} text */
  #say(text) {
    dismiss();
    this.#append({ role: "user", content: text });
    this.#answer();
  }

  /**
   * @param {number} i
   * @param {string} text
   */
  #edit(i, text) {
    this.#stop();
    const conversation = this.#conversation;
    const before = conversation.messages;
    conversation.messages = [...before.slice(0, i), { role: "user", content: text }];
    this.#rebuild();
    this.#answer();
    const undo = () => {
      this.#stop();
      conversation.messages = before;
      saveConversation(conversation);
      if (conversation === this.#conversation) this.#rebuild();
      this.#list.update();
    };
    if (before.length > i + 1) notify("The messages after it are gone.", { label: "Undo", run: undo });
  }

  #retry() {
    const last = this.#conversation.messages.at(-1);
    const seed = last?.role === "assistant" ? shownAnswer(last).seed : null;
    // A seed in the settings would give the same answer again.
    this.#answer({ seed: this.#conversation.settings.seed && seed !== null ? (seed + 1) % Number.MAX_SAFE_INTEGER : null });
  }

  // --- answers

  /**
   * Get an answer to the last message: for a user's message a first one, for an answer another one, or more of it.
   *
   * @param {{seed?: number | null, isContinued?: boolean}} [options]
   */
  async #answer({ seed = null, isContinued = false } = {}) {
    if (this.#running) return;
    const conversation = this.#conversation;
    let message = conversation.messages.at(-1);
    if (message?.role !== "assistant") {
      message = { role: "assistant", answers: [], shown: -1 };
      this.#append(message);
    }
    let request;
    try {
      request = this.#request(conversation.messages, isContinued, seed);
    } catch (error) {
      if (!(error instanceof FieldError)) throw error;
      if (isWide()) this.#openSettings(true);
      this.#fail(message, new ServerError(`${error.message} (in the settings)`));
      this.#update();
      return;
    }
    if (!isContinued) {
      message.answers = [...message.answers.filter((one) => textOf(one)), newAnswer()];
      message.shown = message.answers.length - 1;
    }
    const answer = shownAnswer(message);
    Object.assign(answer, { model: this.#settings.model?.id ?? "", finish: null, error: "", code: null });
    const running = (this.#running = new AbortController());
    this.#composer.isBusy = true;
    this.#update();
    scrollTo(0, document.documentElement.scrollHeight);
    if (location.hash.slice(1) !== conversation.id) history.replaceState(null, "", `#${conversation.id}`);
    try {
      await this.#receive(request, answer, running.signal);
    } catch (error) {
      if (running.signal.aborted) answer.finish ??= "stopped";
      else this.#fail(message, error);
    }
    answer.parts = answer.parts.filter(({ text }) => text);
    conversation.changed = Date.now();
    if (this.#running === running) this.#running = null;
    if (conversation === this.#conversation) {
      this.#save();
      if (!this.#running) this.#composer.isBusy = false;
      keepAtEnd(() => this.#update());
    } else if (loadConversation(conversation.id)) saveConversation(conversation); // unless it was deleted
    this.#list.update();
  }

  /**
   * Return a request for the answer to messages.
   *
   * @param {import("./conversation.js").Message[]} messages
   * @param {boolean} isContinued
   * @param {number | null} seed to use instead of the one in the settings
   */
  #request(messages, isContinued, seed) {
    const { system, ...fields } = this.#settings.request();
    const opening = system ? [{ role: "system", content: system }] : [];
    return {
      ...fields,
      ...(seed === null ? {} : { seed }),
      ...(isContinued ? { continue_final_message: true } : {}),
      messages: [...opening, ...requestMessages(isContinued ? messages : messages.slice(0, -1))],
      logprobs: true,
      top_logprobs: N_TOP,
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  /**
   * Receive an answer.
   *
   * @param {unknown} request
   * @param {import("./conversation.js").Answer} answer
   * @param {AbortSignal} signal
   */
  async #receive(request, answer, signal) {
    const announcer = new Announcer();
    const part = { text: "", tokens: /** @type {import("./tokens.js").Token[]} */ ([]) };
    const { nTokens, seconds } = answer;
    answer.parts.push(part);
    const begin = performance.now();
    let saved = begin;
    try {
      for await (const chunk of stream("v1/chat/completions", request, signal)) {
        signal.throwIfAborted();
        const [choice] = chunk.choices;
        const now = performance.now();
        answer.seed = chunk.seed ?? answer.seed;
        answer.model = chunk.model || answer.model;
        if (chunk.usage) answer.nTokens = nTokens + chunk.usage.completion_tokens;
        if (!choice) continue;
        const tokens = chatTokens(choice.logprobs);
        const piece = choice.delta.content ?? "";
        part.text += piece;
        part.tokens.push(...tokens);
        announcer.add(piece);
        if (choice.finish_reason) answer.finish = choice.finish_reason;
        if (tokens.length) {
          answer.nTokens = nTokens + part.tokens.length;
          answer.seconds = seconds + (now - begin) / 1000;
        }
        const view = this.#views.at(-1);
        if (view instanceof AnsweredView && !answer.finish) keepAtEnd(() => view.updateSoon());
        if (now - saved > SAVE_EVERY) {
          saved = now;
          this.#save();
        }
      }
    } finally {
      announcer.end(answer.finish === "length" ? "The answer has reached the token limit." : "");
    }
  }

  /**
   * Show at an answer why it did not come.
   *
   * @param {Answered} message
   * @param {unknown} error
   */
  #fail(message, error) {
    if (!message.answers.length) {
      message.answers.push(newAnswer());
      message.shown = 0;
    }
    const answer = shownAnswer(message);
    Object.assign(answer, { finish: "error", error: sentence(error), code: error instanceof ServerError ? error.code : null });
    announce(answer.error);
    if (error instanceof ServerError && this.#settings.showError(error) && isWide()) this.#openSettings(true);
  }

  #stop() {
    this.#running?.abort();
    this.#running = null;
    this.#composer.isBusy = false;
  }
}

/** @param {unknown} error */
function sentence(error) {
  if (error instanceof ServerError) return error.message;
  throw error;
}

new Chat();
