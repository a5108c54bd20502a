/** The dialog that asks for the server's API key. */

import { h } from "./dom.js";
import { apiKey, setApiKey } from "./store.js";

/** @type {Promise<boolean> | null} */
let asking = null;

/**
 * Ask for the key. Requests that are refused at the same time share one dialog.
 *
 * @param {string} refused the key that the server did not accept, "" if none was sent
 * @returns {Promise<boolean>} whether there is another key to try
 */
export function askForKey(refused) {
  if (apiKey() !== refused) return Promise.resolve(true); // it was entered meanwhile
  asking ??= ask(refused !== "").finally(() => {
    asking = null;
  });
  return asking;
}

/**
 * @param {boolean} wasRefused
 * @returns {Promise<boolean>}
 */
function ask(wasRefused) {
  return new Promise((resolve) => {
    const box = h("input", { id: "key", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
    const dialog = h(
      "dialog",
      { class: "key", "aria-labelledby": "key-title", onclose: () => (dialog.remove(), resolve(dialog.returnValue === "ok")) },
      h(
        "form",
        {
          onsubmit: (/** @type {Event} */ event) => {
            event.preventDefault();
            setApiKey(box.value.trim());
            dialog.close("ok");
          },
        },
        h("h2", { id: "key-title" }, "API key"),
        h("p", {}, wasRefused ? "The server does not accept this key." : "This server needs a key. It is kept until this tab is closed."),
        h("label", { for: "key" }, "Key"),
        box,
        h(
          "div",
          { class: "row" },
          h("button", { class: "main" }, "Use this key"),
          h("button", { type: "button", onclick: () => dialog.close() }, "Cancel"),
        ),
      ),
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}
