/** The models that the server has, and its defaults. */

import { get } from "./api.js";

/**
 * @typedef {{id: string, max_model_len: number, n_parameters: number, weight_type: string}} Model
 * @typedef {Record<string, number>} Defaults of the fields of a request
 */

/** @returns {Promise<Model[]>} */
export async function models() {
  return (await get("v1/models")).data;
}

/**
 * Return the defaults of a kind of request.
 *
 * @param {"chat" | "completions"} kind
 * @returns {Promise<Defaults>}
 */
export async function defaults(kind) {
  return (await get("page/defaults.json"))[kind];
}
