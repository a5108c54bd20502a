/** Tells screen readers what arrives: sentence by sentence, not token by token. */

import { h } from "./dom.js";

const place = h("div", { class: "unseen", "aria-live": "polite" });
document.querySelector("main")?.append(place);

/**
 * Announce a sentence.
 *
 * @param {string} text
 */
export function announce(text) {
  if (!text.trim()) return;
  place.append(h("p", {}, text));
  while (place.childElementCount > 5) place.firstElementChild?.remove();
}

/** Announces a text that grows, when a sentence of it is complete. */
export class Announcer {
  #waiting = "";

  /** @param {string} piece */
  add(piece) {
    this.#waiting += piece;
    const end = /^[^]*(?:[.!?…]["'”’)\]]*\s|\n)/.exec(this.#waiting)?.[0].length ?? 0;
    announce(this.#waiting.slice(0, end));
    this.#waiting = this.#waiting.slice(end);
  }

  /**
   * Announce what is left.
   *
   * @param {string} [more] a sentence to end with
   */
  end(more = "") {
    announce(this.#waiting);
    announce(more);
    this.#waiting = "";
  }
}
