/** What the browser keeps. All of it may fail: storage can be full, forbidden, or hold nonsense. */

// Servers under different paths of one site keep different things.
const PREFIX = `gpt2rt ${new URL(".", location.href).pathname} `;

/**
 * Return a stored value, null without one.
 *
 * @param {string} key
 * @returns {any}
 */
export function load(key) {
  try {
    return JSON.parse(localStorage.getItem(PREFIX + key) ?? "null");
  } catch {
    return null;
  }
}

/**
 * Store a value.
 *
 * @param {string} key
 * @param {unknown} value
 * @returns {boolean} whether it is stored now
 */
export function save(key, value) {
  try {
    localStorage.setItem(PREFIX + key, JSON.stringify(value));
    return true;
  } catch {
    return false;
  }
}

/** @param {string} key */
export function remove(key) {
  try {
    localStorage.removeItem(PREFIX + key);
  } catch {
    // It could not be stored either.
  }
}

/**
 * Return the keys that begin with something.
 *
 * @param {string} beginning
 * @returns {string[]}
 */
export function keys(beginning) {
  try {
    return Object.keys(localStorage)
      .filter((key) => key.startsWith(PREFIX + beginning))
      .map((key) => key.slice(PREFIX.length));
  } catch {
    return [];
  }
}

/**
 * Call a function when another tab has changed a value.
 *
 * @param {(key: string) => void} listener
 */
export function onOtherTab(listener) {
  addEventListener("storage", (event) => {
    if (event.key?.startsWith(PREFIX)) listener(event.key.slice(PREFIX.length));
  });
}

/** The API key: for this tab only, and gone with it. */
let key = "";
try {
  key = sessionStorage.getItem(`${PREFIX}key`) ?? "";
} catch {
  // It is asked for again after a reload.
}

export function apiKey() {
  return key;
}

/** @param {string} entered */
export function setApiKey(entered) {
  key = entered;
  try {
    sessionStorage.setItem(`${PREFIX}key`, entered);
  } catch {
    // It is kept until the page is left.
  }
}
