/** The page for blind comparisons: a battle, and the board that the votes add up to. */

import "./view.js";
import { announce } from "./announcer.js";
import { get, post, ServerError, stream } from "./api.js";
import { Board } from "./board.js";
import { Composer } from "./composer.js";
import { byId, h, replace } from "./dom.js";
import { notify } from "./notice.js";
import { keepAtEnd } from "./scroll.js";
import { Suggestions } from "./suggestions.js";
import { Turn } from "./turn.js";
import { Votes } from "./votes.js";

/**
 * @typedef {"a" | "b"} Side
 * @typedef {"a" | "b" | "tie" | "bad"} Outcome
 * @typedef {{name: string, details: string[]}} Contestant
 *
 * @typedef {object} Round
 * @property {string} token
 * @property {Turn[]} turns
 * @property {"talking" | "voting" | "voted" | "over"} state over: it does not count
 */

const NO_ARENA = "This server has no arena.";

class Arena {
  /** @type {Round | null} */
  #round = null;
  /** @type {AbortController | null} of the answers that arrive */
  #running = null;
  #battle = byId("battle");
  #start = h("div", { class: "start" });
  #turns = h("div", { role: "log", "aria-live": "off", "aria-label": "Round" });
  #end = h("div", { class: "end" });
  #votes = new Votes((outcome) => this.#vote(outcome));
  #suggestions = new Suggestions((prompt) => {
    this.#composer.value = prompt;
    this.#composer.focus();
  });
  #composer = new Composer({
    label: "Message to both",
    placeholder: "Say something to both",
    onSend: (text) => this.#say(text),
    onStop: () => this.#stop(),
  });
  #board = new Board();

  constructor() {
    replace(this.#battle, this.#start, this.#turns, this.#votes.element, this.#end);
    byId("board").append(this.#board.element);
    byId("composer").append(this.#composer.element);
    addEventListener("hashchange", () => this.#route());
    addEventListener("keydown", (event) => this.#onKey(event));
    this.#route();
    this.#next();
    this.#open();
  }

  async #open() {
    try {
      this.#suggestions.show((await get("arena/suggestions")).categories);
      replace(
        this.#start,
        h("h2", {}, "Which answer is better?"),
        h("p", {}, "Two contestants answer you, and you don't know which ones. Read both, vote, and see their names."),
        this.#suggestions.element,
      );
    } catch (error) {
      replace(this.#start, h("p", { class: "error" }, sentence(error)));
    }
  }

  #route() {
    const isBoard = location.hash === "#board";
    byId("board").hidden = !isBoard;
    this.#battle.hidden = isBoard;
    byId("composer").hidden = isBoard;
    byId("battle-link").setAttribute("aria-current", String(!isBoard));
    byId("board-link").setAttribute("aria-current", String(isBoard));
    if (isBoard) this.#board.load(sentence);
    scrollTo(0, 0);
  }

  // --- a round

  /** Make room for the next round. */
  #next() {
    this.#round = null;
    replace(this.#turns);
    replace(this.#end);
    this.#start.hidden = false;
    this.#votes.hide();
    this.#composer.focus();
    scrollTo(0, 0);
  }

  /** @param {string} text */
  async #say(text) {
    if (this.#round?.state === "voted" || this.#round?.state === "over") this.#next();
    const running = (this.#running = new AbortController());
    const turn = new Turn(text);
    this.#start.hidden = true;
    this.#votes.hide();
    replace(this.#end);
    this.#turns.append(turn.element);
    this.#composer.isBusy = true;
    scrollTo(0, document.documentElement.scrollHeight);
    try {
      this.#round ??= { token: (await post("arena/rounds", { category: this.#suggestions.category })).round, turns: [], state: "talking" };
      this.#round.state = "talking";
      this.#round.turns.push(turn);
      await this.#receive(this.#round, turn, text, running.signal);
    } catch (error) {
      const isStopped = running.signal.aborted;
      const why = isStopped ? "You stopped the answers, so this round does not count." : sentence(error);
      if (isStopped || this.#round?.turns.at(-1) === turn) this.#void(why);
      else {
        turn.element.remove(); // there is no round, and the message was not sent
        this.#composer.value ||= text;
        replace(this.#end, h("p", { class: "error" }, why));
        this.#start.hidden = this.#turns.childElementCount > 0;
      }
    }
    turn.end();
    this.#running = null;
    this.#composer.isBusy = false;
    if (this.#round?.state === "voting" && !this.#composer.value) this.#votes.focus();
  }

  /**
   * @param {Round} round
   * @param {Turn} turn
   * @param {string} text
   * @param {AbortSignal} signal
   */
  async #receive(round, turn, text, signal) {
    for await (const piece of stream(`arena/rounds/${encodeURIComponent(round.token)}/messages`, { content: text }, signal)) {
      signal.throwIfAborted();
      if (piece.void) this.#void(piece.void);
      else if (piece.end) {
        round.state = "voting";
        keepAtEnd(() => {
          turn.end(piece.identical ? "Both gave the same answer." : "");
          this.#votes.show();
        });
        announce(turn.spoken());
        announce("Vote, or say more.");
      } else keepAtEnd(() => turn.add(piece));
    }
    if (round.state === "talking") throw new ServerError("The answers ended before they were complete, so this round does not count.");
  }

  /** End a round that does not count. @param {string} why */
  #void(why) {
    if (this.#round) this.#round.state = "over";
    this.#votes.hide();
    announce(why);
    this.#showEnd(h("p", { class: "error" }, why));
  }

  #stop() {
    this.#running?.abort();
  }

  /** @param {...import("./dom.js").Child} children what to show above the button to the next round */
  #showEnd(...children) {
    const next = h("button", { type: "button", onclick: () => this.#next() }, "Next round");
    keepAtEnd(() => replace(this.#end, ...children, h("div", { class: "row" }, next, h("a", { class: "button", href: "#board" }, "See the board"))));
    return next;
  }

  // --- the vote

  /** @param {Outcome} outcome */
  async #vote(outcome) {
    const round = this.#round;
    if (round?.state !== "voting") return;
    this.#votes.isBusy = true;
    try {
      const result = await post(`arena/rounds/${encodeURIComponent(round.token)}/vote`, { outcome });
      round.state = "voted";
      this.#reveal(round, outcome, result);
    } catch (error) {
      replace(this.#end, h("p", { class: "error" }, sentence(error))); // the vote can be given again
    }
    this.#votes.isBusy = false;
  }

  /**
   * @param {Round} round
   * @param {Outcome} outcome
   * @param {{a: Contestant, b: Contestant, counts: boolean}} result
   */
  #reveal(round, outcome, result) {
    this.#votes.hide();
    round.turns.forEach((turn, i) => turn.reveal(result, i === round.turns.length - 1));
    const voted = {
      a: `You preferred A, ${result.a.name}, to B, ${result.b.name}.`,
      b: `You preferred B, ${result.b.name}, to A, ${result.a.name}.`,
      tie: `You called it a tie: A was ${result.a.name}, B was ${result.b.name}.`,
      bad: `You found both bad: A was ${result.a.name}, B was ${result.b.name}.`,
    }[outcome];
    const undo = h("button", { type: "button", onclick: () => this.#undo(round) }, "Undo vote");
    const next = this.#showEnd(h("p", {}, voted, result.counts ? "" : " This vote is stored, but does not count for the ratings."));
    next.after(undo);
    next.focus({ preventScroll: true });
    announce(voted);
  }

  /** @param {Round} round */
  async #undo(round) {
    try {
      round.token = (await post(`arena/rounds/${encodeURIComponent(round.token)}/undo`)).round;
      round.state = "voting";
      replace(this.#end);
      keepAtEnd(() => this.#votes.show());
      this.#votes.focus();
      announce("The vote is withdrawn. Vote again.");
    } catch (error) {
      notify(sentence(error));
    }
  }

  /** @param {KeyboardEvent} event */
  #onKey(event) {
    if (event.key === "Escape" && this.#running) this.#stop();
    else if (event.key === "Escape" && this.#round?.state === "voting") this.#votes.focus(); // from the box to the vote
    if (event.ctrlKey || event.altKey || event.metaKey || location.hash === "#board") return;
    const target = /** @type {HTMLElement} */ (event.target);
    if (!target.matches("input, textarea, select")) this.#votes.onKey(event);
  }
}

/** @param {unknown} error */
function sentence(error) {
  if (!(error instanceof ServerError)) throw error;
  return error.status === 404 && error.code === null ? NO_ARENA : error.message;
}

new Arena();
