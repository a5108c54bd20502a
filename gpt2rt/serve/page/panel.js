/** Panels at the sides of a page, opened by buttons. On a narrow screen they cover the page. */

/** Whether panels fit beside the page. */
export function isWide() {
  return matchMedia("(min-width: 64rem)").matches;
}

/**
 * Let a button open and close a panel.
 *
 * @param {HTMLElement} button
 * @param {HTMLElement} panel
 * @param {boolean} isOpen
 * @returns {(isOpen: boolean) => void} a function that opens or closes it
 */
export function linkPanel(button, panel, isOpen) {
  /** @param {boolean} isOpen */
  const set = (isOpen) => {
    panel.hidden = !isOpen;
    button.setAttribute("aria-expanded", String(isOpen));
  };
  button.setAttribute("aria-controls", panel.id);
  button.addEventListener("click", () => {
    set(panel.hidden === true);
    if (!panel.hidden) panel.querySelector(/** @type {"a"} */ ("a, button, select, input, textarea"))?.focus();
  });
  panel.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    event.stopPropagation();
    set(false);
    button.focus();
  });
  set(isOpen);
  return set;
}
