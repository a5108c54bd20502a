/** The page for one text, which the model continues: what a model can do that was not taught to talk. */

import { Announcer, announce } from "./announcer.js";
import { ServerError, stream } from "./api.js";
import { download } from "./download.js";
import { byId, h, replace } from "./dom.js";
import { plural, speed } from "./format.js";
import { Inspector } from "./inspector.js";
import { defaults, models } from "./models.js";
import { isWide, linkPanel } from "./panel.js";
import { keepAtEnd } from "./scroll.js";
import { FieldError, SAMPLING, Settings } from "./settings.js";
import { Sheet } from "./sheet.js";
import { load, save } from "./store.js";
import { completionTokens, locate, N_TOP, rounded } from "./tokens.js";
import { viewControls } from "./view.js";

/**
 * @typedef {import("./sheet.js").Mark} Mark
 * @typedef {import("./sheet.js").State} State
 * @typedef {import("./tokens.js").Token} Token
 */

const N_UNDO = 100; // states
const SAVE_AFTER = 400; // ms without a change

/** @type {import("./settings.js").Field[]} */
const FIELDS = [
  ...SAMPLING,
  { name: "stop", label: "Stop strings", kind: "lines", hint: "One on each line; \\n is a line break. The text ends before them.", placeholder: "none" },
];

class Notebook {
  /** @type {State[]} */
  #undone = [];
  /** @type {State[]} */
  #done = []; // the states before each continuation
  /** @type {AbortController | null} */
  #running = null;
  #nRuns = 0;
  /** @type {{start: number, end: number, first?: Token} | null} the last continuation, until something is edited */
  #last = null;
  /** @type {number | null} */
  #lastSeed = null;
  /** @type {number | undefined} */
  #timer;
  #inspector = new Inspector();
  #settings = new Settings(FIELDS, (values) => save("notebook-settings", values));
  #openSettings = linkPanel(byId("settings-button"), byId("settings"), isWide());
  #status = h("p", { class: "status" });
  #sheet = new Sheet({
    onEdit: () => this.#onEdit(),
    onInspect: (mark, place) => this.#inspect(mark, place),
  });

  #generate = h("button", { type: "button", class: "main", onclick: () => this.#continue(this.#text.length) }, "Generate", h("kbd", {}, "Ctrl ↵"));
  #stopButton = h("button", { type: "button", class: "main", hidden: true, onclick: () => this.#stop() }, "Stop", h("kbd", {}, "Esc"));
  #atCursor = h("button", { type: "button", title: "Generate at the cursor", onclick: () => this.#continue(this.#sheet.box.selectionStart) }, "At cursor");
  #retry = h("button", { type: "button", onclick: () => this.#again() }, "Retry");
  #undo = h("button", { type: "button", onclick: () => this.#swap(this.#done, this.#undone) }, "Undo");
  #redo = h("button", { type: "button", onclick: () => this.#swap(this.#undone, this.#done) }, "Redo");
  #alternatives = h("button", { type: "button", "aria-keyshortcuts": "Alt+ArrowDown", title: "Alt ↓", onclick: () => this.#choose() }, "Alternatives");

  constructor() {
    const save = h("button", { type: "button", onclick: () => download("notebook.txt", "text/plain", this.#text) }, "Save as text");
    replace(
      byId("sheet"),
      this.#sheet.element,
      h("div", { class: "row" }, h("p", { class: "hint", id: "sheet-hint" }, "Generated text is marked. Its alternatives: hover over a token, or Alt ↓ at the cursor."), save),
    );
    replace(
      byId("bar"),
      this.#status,
      h("div", { class: "row" }, this.#generate, this.#stopButton, this.#retry, this.#undo, this.#redo, this.#atCursor, this.#alternatives),
    );
    byId("settings").append(this.#settings.element, viewControls());
    addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("pagehide", () => (this.#stop(), this.#save()));
    document.addEventListener("selectionchange", () => this.#showButtons());
    this.#settings.values = load("notebook-settings") ?? {};
    const stored = load("notebook");
    if (typeof stored?.text === "string" && Array.isArray(stored.marks)) this.#sheet.state = stored;
    else this.#sheet.state = { text: "", marks: [] };
    this.#nRuns = Math.max(0, ...this.#sheet.state.marks.map(({ run }) => run));
    this.#showButtons();
    this.#sheet.box.focus();
    this.#load();
  }

  async #load() {
    try {
      this.#settings.setServer(...(await Promise.all([models(), defaults("completions")])));
    } catch (error) {
      this.#fail(error);
    }
  }

  get #text() {
    return this.#sheet.state.text;
  }

  #save() {
    clearTimeout(this.#timer);
    const { text, marks } = this.#sheet.state;
    const short = marks.map((mark) => ({ ...mark, tokens: rounded(mark.tokens) }));
    if (!save("notebook", { text, marks: short })) save("notebook", { text, marks: [] });
  }

  #saveSoon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#save(), SAVE_AFTER);
  }

  // --- editing

  #onEdit() {
    this.#undone = [];
    this.#last = null;
    this.#inspector.hide();
    this.#saveSoon();
    this.#showButtons();
  }

  /**
   * Go to the last state of one list, and put the current one into another.
   *
   * @param {State[]} from
   * @param {State[]} to
   */
  #swap(from, to) {
    const state = from.pop();
    if (!state || this.#running) return;
    to.push(this.#sheet.state);
    this.#sheet.state = state;
    this.#last = null;
    replace(this.#status);
    this.#saveSoon();
    this.#showButtons();
    announce(to === this.#undone ? "Continuation undone." : "Continuation redone.");
  }

  #showButtons() {
    const isRunning = this.#running !== null;
    const at = this.#sheet.box.selectionStart;
    this.#generate.hidden = isRunning;
    this.#stopButton.hidden = !isRunning;
    this.#atCursor.disabled = isRunning || at >= this.#text.length;
    this.#retry.disabled = isRunning || this.#last === null;
    this.#undo.disabled = isRunning || !this.#done.length;
    this.#redo.disabled = isRunning || !this.#undone.length;
    this.#alternatives.disabled = isRunning || !this.#sheet.state.marks.some(({ start, end }) => start <= at && at <= end);
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    const { key } = event;
    if (key === "Escape" && this.#running) this.#stop();
    else if (key === "Enter" && (event.ctrlKey || event.metaKey)) this.#continue(this.#text.length);
    else if (key === "ArrowDown" && event.altKey) this.#choose();
    else return;
    event.preventDefault();
  }

  // --- probabilities

  /**
   * @param {Mark | null} mark
   * @param {DOMRect | null} place
   */
  #inspect(mark, place) {
    if (!mark?.tokens.length || !place || this.#running) {
      this.#inspector.hideSoon();
      return;
    }
    const leave = () => this.#sheet.box.focus();
    const choose = mark.tokens.length > 1 ? undefined : (/** @type {Token} */ _, /** @type {string} */ name) => this.#branch(mark, name);
    this.#inspector.show(place, mark.tokens, { choose, leave });
  }

  /** Show the alternatives for the token at the cursor, and let the keyboard choose one. */
  #choose() {
    const [mark, place] = this.#sheet.atCursor();
    this.#inspect(mark, place);
    if (!mark || !this.#inspector.enter()) announce("There are no alternatives at the cursor.");
  }

  /**
   * Continue from a token with another one in its place.
   *
   * @param {Mark} mark
   * @param {string} name of the other token
   */
  #branch(mark, name) {
    const { marks } = this.#sheet.state;
    const end = Math.max(...marks.filter(({ run }) => run === mark.run).map((one) => one.end)); // of its continuation
    const token = mark.tokens[0];
    const logprob = token?.top.find(([other]) => other === name)?.[1];
    if (!token || logprob === undefined) return;
    this.#continue(mark.start, { end, first: { ...token, name, logprob }, run: mark.run });
  }

  // --- continuations

  /** Replace the last continuation by another one. */
  #again() {
    if (!this.#last) return;
    const { start, end, first } = this.#last;
    const { seed } = this.#settings.values;
    // A seed in the settings would give the same text again.
    const next = seed && this.#lastSeed !== null ? (this.#lastSeed + 1) % Number.MAX_SAFE_INTEGER : null;
    this.#continue(start, { end, first, seed: next });
  }

  /**
   * Continue the text.
   *
   * @param {number} at
   * @param {object} [options]
   * @param {number} [options.end] of what the continuation replaces
   * @param {Token} [options.first] a token to begin with
   * @param {number} [options.run] whose marks before `at` this continuation keeps as its own
   * @param {number | null} [options.seed] instead of the one in the settings
   */
  async #continue(at, { end = at, first, run = ++this.#nRuns, seed = null } = {}) {
    if (this.#running) return;
    const before = this.#sheet.state;
    const { text } = before;
    let request;
    try {
      request = this.#request(text.slice(0, at) + (first?.name ?? ""), seed);
    } catch (error) {
      this.#fail(error);
      return;
    }
    this.#inspector.hide();
    this.#done = [...this.#done, before].slice(-N_UNDO);
    this.#undone = [];
    const kept = before.marks.filter((mark) => mark.end <= at);
    const rest = text.slice(end);
    const later = before.marks.filter((mark) => mark.start >= end);
    /** @type {{text: string, tokens: Token[]}} */
    const part = { text: first?.name ?? "", tokens: first ? [first] : [] };
    const show = () => {
      const moved = at + part.text.length - end;
      const groups = locate(part.tokens, part.text, at) ?? (part.text ? [{ start: at, end: at + part.text.length, tokens: [] }] : []);
      this.#sheet.state = {
        text: text.slice(0, at) + part.text + rest,
        marks: [
          ...kept,
          ...groups.map((group) => ({ ...group, run })),
          ...later.map((mark) => ({ ...mark, start: mark.start + moved, end: mark.end + moved })),
        ],
      };
    };
    const hint = /[ \t]$/.test(text.slice(0, at)) && !first ? "The text ended with a space: it continues better without one, since GPT-2's tokens begin with theirs." : "";
    const running = (this.#running = new AbortController());
    this.#sheet.box.readOnly = true;
    this.#showButtons();
    if (document.activeElement === document.body) this.#stopButton.focus();
    show();
    try {
      await this.#receive(request, part, running.signal, show, hint);
    } catch (error) {
      if (running.signal.aborted) this.#status.append(" · stopped");
      else this.#fail(error);
    }
    this.#running = null;
    const isEmpty = first || end > at ? part.tokens.length === (first ? 1 : 0) : !part.text;
    if (isEmpty) {
      this.#done.pop(); // there is nothing to undo
      this.#sheet.state = before;
    } else {
      show();
      this.#last = { start: at, end: at + part.text.length, first };
    }
    this.#sheet.box.readOnly = false;
    const cursor = isEmpty ? end : at + part.text.length;
    this.#sheet.box.focus({ preventScroll: true });
    this.#sheet.box.setSelectionRange(cursor, cursor);
    this.#showButtons();
    this.#save();
  }

  /**
   * @param {string} prompt
   * @param {number | null} seed to use instead of the one in the settings
   */
  #request(prompt, seed) {
    return {
      ...this.#settings.request(),
      ...(seed === null ? {} : { seed }),
      prompt,
      logprobs: N_TOP,
      stream: true,
      stream_options: { include_usage: true },
    };
  }

  /**
   * Receive a continuation.
   *
   * @param {unknown} request
   * @param {{text: string, tokens: Token[]}} part
   * @param {AbortSignal} signal
   * @param {() => void} show what has arrived
   * @param {string} hint
   */
  async #receive(request, part, signal, show, hint) {
    const announcer = new Announcer();
    let frame = 0;
    const begin = performance.now();
    let nTokens = 0;
    let seconds = 0;
    let finish = "";
    const report = () => {
      const numbers = nTokens ? [plural(nTokens, "token"), speed(nTokens, seconds)] : [];
      const seed = this.#lastSeed === null ? [] : [`seed ${this.#lastSeed}`];
      const ended = finish === "length" ? ["token limit reached"] : finish ? ["the text has ended"] : [];
      replace(this.#status, [...numbers, ...seed, ...ended].join(" · "), hint && h("span", {}, ` ${hint}`));
    };
    this.#lastSeed = null;
    try {
      for await (const chunk of stream("v1/completions", request, signal)) {
        signal.throwIfAborted();
        const [choice] = chunk.choices;
        this.#lastSeed = chunk.seed ?? this.#lastSeed;
        if (!choice) continue;
        const tokens = completionTokens(choice.logprobs);
        part.text += choice.text.replace(/\r\n?/g, "\n"); // as in a text area
        part.tokens.push(...tokens);
        announcer.add(choice.text);
        finish = choice.finish_reason ?? finish;
        if (tokens.length) {
          nTokens += tokens.length;
          seconds = (performance.now() - begin) / 1000;
        }
        frame ||= requestAnimationFrame(() => {
          frame = 0;
          keepAtEnd(show);
          report();
        });
      }
    } finally {
      cancelAnimationFrame(frame);
      report();
      announcer.end(finish === "length" ? "The token limit is reached." : "");
    }
  }

  #stop() {
    this.#running?.abort();
  }

  /** @param {unknown} error */
  #fail(error) {
    if (!(error instanceof ServerError || error instanceof FieldError)) throw error;
    replace(this.#status, h("span", { class: "error" }, error.message));
    announce(error.message);
    if (this.#settings.showError(error) && isWide()) this.#openSettings(true);
  }
}

new Notebook();
