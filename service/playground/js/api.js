// Requests to the service, and the one error type that the page shows.

import { askForKey, currentKey, presenting } from "./key.js";
import { readEvents } from "./sse.js";

/** An error to show to the user. `errors` lists the fields at fault: `field`, `message`, `allowed`. */
export class Problem extends Error {
  constructor({ title, detail, status = 0, errors = [], retryAfter = null }) {
    // The countdown replaces the sentence's last words.
    super(detail.replace(/ Try again in \d+ s\.$/, ""));
    this.title = TITLES[status] ?? title;
    this.status = status;
    this.errors = errors.map(({ pointer, message, allowed }) => ({ field: pointer.slice(2), message, allowed }));
    this.retryAfter = Number(retryAfter) || null;
  }
}

/** Titles for people by status; the service sends the names of HTTP. */
const TITLES = {
  401: "An API key is needed",
  404: "Not found",
  413: "The picture is too large",
  415: "The picture cannot be read",
  422: "A setting does not fit",
  429: "Too many pictures at once",
  500: "The model failed",
  503: "The service is busy",
  504: "It took too long",
};

const UNREACHABLE = {
  title: "The service does not answer",
  detail: "It may have stopped, or the network is down. Your settings are kept.",
};
const CUT_OFF = {
  title: "The connection ended early",
  detail: "The service closed the connection before the pictures were done.",
};

/** What is shown instead of the names of headers. */
const NO_KEY = "The service answers only requests with a key.";

async function send(path, options, key) {
  try {
    return await fetch(path, { ...options, headers: { ...options.headers, ...presenting(key) } });
  } catch (failure) {
    if (failure.name === "AbortError") throw failure;
    throw new Problem(UNREACHABLE);
  }
}

/** The answer to a request. If the service wants a key, or another one, the user is asked, unless `ask` is false. */
async function request(path, options, ask = true) {
  const key = currentKey();
  const response = await send(path, options, key);
  if (response.ok) return response;
  const document = await response.json().catch(() => ({ title: `Status ${response.status}`, detail: "" }));
  if (response.status === 401 || document.code === "wrong-scope") {
    // The key may have been entered while this request was on its way.
    const changed = currentKey() !== key || (ask && (await askForKey(key && document.detail)));
    if (changed) return request(path, options, ask);
    if (!key) document.detail = NO_KEY;
  }
  throw new Problem({ ...document, status: response.status, retryAfter: response.headers.get("Retry-After") });
}

/** The JSON at `path`. */
export async function getJson(path, { signal, ask } = {}) {
  return (await request(path, { signal, headers: { Accept: "application/json" } }, ask)).json();
}

/** The file at `path`; with a JSON `body`, the answer to its POST. */
export async function getFile(path, { body, accept = "image/png", signal } = {}) {
  const options = body ? { method: "POST", body: JSON.stringify(body) } : {};
  return (await request(path, { ...options, signal, headers: { Accept: accept } })).blob();
}

/** The parameters in a PNG of this service. */
export async function inspect(png) {
  return (await request("inspect", { method: "POST", body: png })).json();
}

/**
 * POST `body` and read the event stream. `on` maps event names to functions; the data of `completed`, the last event,
 * is returned. Throws Problem, and AbortError when `signal` aborts.
 */
export async function stream(path, body, on, signal) {
  const headers = { Accept: "text/event-stream" };
  const response = await request(path, { method: "POST", body: JSON.stringify(body), headers, signal });
  try {
    for await (const { name, data } of readEvents(response.body)) {
      if (name === "completed") return data;
      if (name === "error") throw new Problem(data);
      on[name]?.(data);
    }
  } catch (failure) {
    if (failure instanceof Problem || failure.name === "AbortError") throw failure;
  }
  throw new Problem(CUT_OFF);
}
