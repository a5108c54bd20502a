/** Requests to the server. All paths are relative to the page, so that it works below any path of a reverse proxy. */

import { askForKey } from "./key.js";
import { eventData } from "./sse.js";
import { apiKey } from "./store.js";

/** What the server, or the way to it, has refused. The message is a sentence for whoever reads the page. */
export class ServerError extends Error {
  /**
   * @param {string} message
   * @param {number} [status] of the response; 0 without one
   * @param {string | null} [param] the field of the request
   * @param {string | null} [code]
   */
  constructor(message, status = 0, param = null, code = null) {
    super(message);
    this.status = status;
    this.param = param;
    this.code = code;
  }
}

/**
 * Return the error that an object in OpenAI's form describes.
 *
 * @param {any} found
 * @param {number} status
 */
function described(found, status) {
  const error = found?.error;
  const message = typeof error?.message === "string" ? error.message : `the server answered with status ${status}`;
  return new ServerError(message, status, error?.param ?? null, error?.code ?? null);
}

/**
 * Send a request, and ask for the API key where one is missing.
 *
 * @param {string} path
 * @param {{method?: string, body?: unknown, signal?: AbortSignal}} [options] body: to send as JSON
 * @returns {Promise<Response>} a successful one
 */
async function send(path, { method = "GET", body, signal } = {}) {
  for (;;) {
    const used = apiKey();
    /** @type {Record<string, string>} */
    const headers = used ? { authorization: `Bearer ${utf8(used)}` } : {};
    if (method === "POST") headers["content-type"] = "application/json";
    let response;
    try {
      response = await fetch(path, { method, headers, signal, body: method === "POST" ? JSON.stringify(body ?? {}) : null });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new ServerError("The server can't be reached.");
    }
    if (response.ok) return response;
    const refused = described(await response.json().catch(() => null), response.status);
    if (response.status !== 401 || !(await askForKey(used))) throw refused;
  }
}

/**
 * Return text as a header can hold it: its UTF-8 bytes as characters.
 *
 * @param {string} text
 */
function utf8(text) {
  return String.fromCharCode(...new TextEncoder().encode(text));
}

/**
 * @param {string} path
 * @returns {Promise<any>}
 */
export async function get(path) {
  return (await send(path)).json();
}

/**
 * @param {string} path
 * @param {unknown} [body]
 * @returns {Promise<any>}
 */
export async function post(path, body) {
  return (await send(path, { method: "POST", body })).json();
}

/**
 * Post JSON, and yield the objects of the stream that answers.
 *
 * @param {string} path
 * @param {unknown} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any, void, void>}
 */
export async function* stream(path, body, signal) {
  const response = await send(path, { method: "POST", body, signal });
  if (!response.body) throw new ServerError("The server's answer has no content.");
  try {
    for await (const data of eventData(response.body)) {
      if (data === "[DONE]") return;
      const found = JSON.parse(data);
      if (found.error) throw described(found, response.status);
      yield found;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
  }
  throw new ServerError("The connection was lost before the answer was complete.");
}
