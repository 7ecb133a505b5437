// What the page shows is its address behind '#': `#film?model=ddpm&seed=7`. So it can be shared, and "back" works.

let listener = () => {};

/** The state: `view`, and strings by name. */
export function read() {
  const [view, query = ""] = location.hash.slice(1).split("?");
  return { ...Object.fromEntries(new URLSearchParams(query)), view };
}

/**
 * Change some of the state; null removes. A step in the history, unless `replace`. Who listens hears of it, unless
 * `quiet`: for a control that shows its own change already.
 */
export function change(patch, { replace = false, quiet = false } = {}) {
  const { view, ...values } = { ...read(), ...patch };
  const kept = Object.entries(values).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const query = new URLSearchParams(kept.map(([name, value]) => [name, String(value)]));
  const hash = `#${view}${kept.length ? `?${query}` : ""}`;
  if (hash !== location.hash) history[replace ? "replaceState" : "pushState"](null, "", hash);
  if (!quiet) listener();
}

/** A note of a control's value: not a step in the history. */
export const note = (patch) => change(patch, { replace: true, quiet: true });

/** Call `call` when the state has changed, by the page, a link or the browser's buttons. */
export function listen(call) {
  listener = call;
  addEventListener("popstate", () => listener());
}

/** A number of the state, or else `fallback`. */
export function number(value, fallback) {
  const found = Number.parseFloat(value);
  return Number.isFinite(found) ? found : fallback;
}

/** Any seed. */
export const anySeed = () => crypto.getRandomValues(new Uint32Array(1))[0];
