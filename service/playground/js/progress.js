// Progress of a request in one line: queued with its position, running, done, or failed.

import { duration, h } from "./dom.js";

export class Progress {
  #text = h("span", { class: "progress-text" });
  #bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  #failure = h("div", { class: "failure", role: "alert", hidden: true });

  constructor() {
    this.element = h("div", { class: "progress", role: "status" }, this.#text, this.#bar);
    this.element.dataset.state = "idle";
    this.failure = this.#failure;
  }

  /** No request is running. */
  idle(text = "") {
    this.#set("idle", text, 0);
  }

  /** The request was sent; no event has arrived. */
  sent() {
    this.#set("queued", "Sent", 0);
  }

  /** The request is queued. */
  queued({ queue_position: position, eta_ms: eta }) {
    const place = position ? `${position} ${position === 1 ? "picture" : "pictures"} ahead` : "Next in the queue";
    this.#set("queued", eta ? `${place} · about ${duration(eta)}` : place, 0);
  }

  /** The request is being computed: `done` from 0 to 1. */
  running(done, text) {
    this.#set("running", text, done);
  }

  /** Done; shows the answer's timings. */
  done(what, timings) {
    const steps = timings.ms_per_step ? [`${duration(timings.ms_per_step)} per step`] : [];
    const parts = [`${what} in ${duration(timings.total_ms)}`, `queue ${duration(timings.queue_ms)}`, ...steps];
    this.#set("done", parts.join(" · "), 1);
  }

  /** Failed: shows the error, the fields at fault and a retry button. */
  failed(problem, retry) {
    this.#set("failed", "", 0);
    const wait = problem.retryAfter ? ` Try again in ${problem.retryAfter} s.` : "";
    this.#failure.replaceChildren(
      h("h3", {}, problem.title || "The request failed"),
      h("p", {}, `${problem.message}${wait}`),
      ...(problem.errors ?? []).map(({ field, message, allowed }) =>
        h(
          "p",
          { class: "hint" },
          h("code", {}, field || "request"),
          ` ${message}`,
          allowed ? `. Allowed: ${allowed}` : "",
        ),
      ),
      h("button", { type: "button", class: "primary", onclick: retry }, "Try again"),
    );
    this.#failure.hidden = false;
  }

  #set(state, text, value) {
    this.element.dataset.state = state;
    this.#text.textContent = text;
    this.#bar.value = value;
    this.#failure.hidden = true;
  }
}

/**
 * Run `work(signal)`, one at a time: a newer call and the view's signal abort it. `progress` shows its error with a
 * button that runs it again.
 */
export function runner(progress, viewSignal) {
  let current = null;
  return async function run(work) {
    current?.abort();
    const own = (current = new AbortController());
    progress.sent();
    try {
      await work(AbortSignal.any([own.signal, viewSignal]));
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (!("errors" in failure)) throw failure;
      progress.failed(failure, () => run(work));
    }
  };
}
