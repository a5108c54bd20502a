/** The list of conversations: open, delete, export. */

import { allConversations, asJson, asText, nameOf, removeConversation, saveConversation } from "./conversation.js";
import { h, replace } from "./dom.js";
import { download } from "./download.js";
import { notify } from "./notice.js";

/** @typedef {import("./conversation.js").Conversation} Conversation */

export class ConversationList {
  #list = h("ul");
  #onDelete;
  #current;

  /**
   * @param {() => Conversation} current the conversation on the page
   * @param {(id: string) => void} onDelete
   */
  constructor(current, onDelete) {
    this.#current = current;
    this.#onDelete = onDelete;
    this.element = h(
      "div",
      { class: "conversations" },
      h("a", { class: "button", href: "#new" }, "New conversation"),
      this.#list,
      h(
        "div",
        { class: "row" },
        h("span", {}, "Export"),
        h("button", { type: "button", onclick: () => download(`${fileName(current())}.json`, "application/json", asJson(current())) }, "JSON"),
        h("button", { type: "button", onclick: () => download(`${fileName(current())}.txt`, "text/plain", asText(current())) }, "Text"),
      ),
    );
  }

  update() {
    const rows = allConversations().map((one) => {
      const name = nameOf(one);
      return h(
        "li",
        {},
        h("a", { href: `#${one.id}`, "aria-current": one.id === this.#current().id ? "page" : null }, name),
        h("button", { type: "button", "aria-label": `Delete “${name}”`, onclick: () => this.#delete(one) }, "Delete"),
      );
    });
    replace(this.#list, ...rows);
  }

  /** @param {Conversation} conversation */
  #delete(conversation) {
    removeConversation(conversation.id);
    this.#onDelete(conversation.id);
    this.update();
    const undo = () => {
      if (!saveConversation(conversation)) notify("There is no room to store it again.");
      location.hash = conversation.id;
      this.update();
    };
    notify("Conversation deleted.", { label: "Undo", run: undo });
  }
}

/** @param {Conversation} conversation */
function fileName(conversation) {
  return nameOf(conversation).replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "").slice(0, 40) || "conversation";
}
