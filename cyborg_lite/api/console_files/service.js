// SPDX-License-Identifier: Apache-2.0
// Asks the accelerator API, by paths relative to this page. Knows no view and no Keystone.

/** The microversion that this page was written for: services and orphans are its newest part. */
export const MICROVERSION = "2.10";
const HEADER = "OpenStack-API-Version";
const ROOT = new URL("../v2/", import.meta.url);
const PAGE = 50;
/** Longer than the service itself waits for anything. */
const ANSWER_WITHIN_MS = 120_000;

const TITLES = {
  400: "The service can't make sense of this",
  401: "The service does not know you any more",
  403: "The service does not let you do this",
  404: "There is no such thing",
  406: "The service speaks another version than this page",
  409: "This is not possible at the moment",
  500: "Something went wrong in the service",
  502: "The service can't answer now",
  503: "The service can't answer now",
  504: "The service can't answer now",
};

/** Whether an error will pass: a service, or a proxy before it, that can't answer for a while. */
export function passes(error) {
  return error instanceof Silent || [502, 503, 504].includes(error.status);
}

/** An error that the service answered with; `message` is its own text. */
export class Refused extends Error {
  constructor(status, message, requestId) {
    super(message);
    this.status = status;
    this.requestId = requestId;
    this.title = TITLES[status] ?? `The service answered ${status}`;
  }
}

/** No answer at all. */
export class Silent extends Error {
  constructor() {
    super("No answer came. Does the service run, and does the network work? Look again before you"
      + " repeat a change: it may have been made.");
    this.title = "The service can't be reached";
  }
}

export class Service {
  #token;
  #onUnknown;

  /** onUnknown: called when the token is no longer good. */
  constructor(token, onUnknown) {
    this.#token = token;
    this.#onUnknown = onUnknown;
  }

  /** GET; returns what the JSON says. Throws Refused, Silent. */
  get(path, query = {}, signal = undefined) {
    return this.#ask("GET", address(path, query), undefined, signal);
  }

  put(path, query, body, signal = undefined) {
    return this.#ask("PUT", address(path, query), body, signal);
  }

  /** The first page of a list: {entries, next}; next() gives the following, or is null. */
  list(path, name, query = {}, signal = undefined) {
    return this.#page(address(path, { limit: PAGE, ...query }), name, signal);
  }

  async #page(url, name, signal) {
    const reply = await this.#ask("GET", url, undefined, signal);
    const link = (reply[`${name}_links`] ?? []).find((one) => one.rel === "next");
    if (!link) return { entries: reply[name], next: null };
    // the service may know itself by another address than the browser: only the query counts
    const following = new URL(url);
    following.search = new URL(link.href, url).search;
    following.searchParams.set("limit", PAGE);
    return { entries: reply[name], next: () => this.#page(following, name, signal) };
  }

  async #ask(method, url, body, signal) {
    const headers = { Accept: "application/json", [HEADER]: `accelerator ${MICROVERSION}` };
    if (this.#token) headers["X-Auth-Token"] = this.#token;
    if (body !== undefined) headers["Content-Type"] = "application/json";
    let reply;
    const late = AbortSignal.timeout(ANSWER_WITHIN_MS);
    try {
      reply = await fetch(url, {
        method, headers, signal: signal ? AbortSignal.any([signal, late]) : late,
        credentials: "omit", cache: "no-store", redirect: "error",
        body: body === undefined ? undefined : JSON.stringify(body) });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Silent();
    }
    const answer = await reply.json().catch((error) => {
      if (error.name === "AbortError") throw error;
      return null;
    });
    // a proxy's own page, or half of an answer, is none
    if (reply.ok && answer === null) throw new Silent();
    if (reply.ok) return answer;
    const refused = new Refused(
      reply.status, answer?.error_message?.faultstring || reply.statusText || "No reason is given.",
      reply.headers.get("x-openstack-request-id"));
    if (reply.status === 401) this.#onUnknown(refused);
    throw refused;
  }
}

function address(path, query) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}
