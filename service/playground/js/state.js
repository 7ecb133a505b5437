// The state is the fragment of the address, `#film?model=ddpm&seed=7`: it can be shared, and "back" works.

let listener = () => {};

/** The state: `view`, and other values as strings. */
export function read() {
  const [view, query = ""] = location.hash.slice(1).split("?");
  return { ...Object.fromEntries(new URLSearchParams(query)), view };
}

/**
 * Change part of the state; null removes a value. Adds a history entry unless `replace`. Calls the listener unless
 * `quiet`, which is for controls that already show the change.
 */
export function change(patch, { replace = false, quiet = false } = {}) {
  const { view, ...values } = { ...read(), ...patch };
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept.map(([name, value]) => [name, String(value)]));
  const hash = `#${view}${kept.length ? `?${query}` : ""}`;
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
  if (!quiet) listener();
}

/** Store a control's value without a history entry. */
export const note = (patch) => change(patch, { replace: true, quiet: true });

/** Call `call` when the page or the browser's buttons change the state. */
export function listen(call) {
  listener = call;
  addEventListener("popstate", () => listener());
}

/** A value of the state as a number, or `fallback`. */
export function number(value, fallback) {
  const found = Number.parseFloat(value);
  return Number.isFinite(found) ? found : fallback;
}

/** A random seed. */
export const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
