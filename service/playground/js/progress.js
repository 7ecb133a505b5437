// How a request stands, in one line under its pictures' title: waiting with its place, computing, done, or failed.

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

  /** Nothing under way. */
  idle(text = "") {
    this.#set("idle", text, 0);
  }

  /** Sent, and not heard of. */
  sent() {
    this.#set("queued", "Sent", 0);
  }

  /** In the queue, as the event says. */
  queued({ queue_position: position, eta_ms: eta }) {
    const place = position ? `${position} ${position === 1 ? "picture" : "pictures"} ahead` : "Next in line";
    this.#set("queued", eta ? `${place} · about ${duration(eta)}` : place, 0);
  }

  /** Being computed: `done` of 1, and what of. */
  running(done, text) {
    this.#set("running", text, done);
  }

  /** Done, with the answer's timings. */
  done(what, timings) {
    const steps = timings.ms_per_step ? [`${duration(timings.ms_per_step)} a step`] : [];
    const parts = [`${what} in ${duration(timings.total_ms)}`, `queue ${duration(timings.queue_ms)}`, ...steps];
    this.#set("done", parts.join(" · "), 1);
  }

  /** Failed: what the service says, the field at fault, and a way to try again. */
  failed(problem, retry) {
    this.#set("failed", "", 0);
    const wait = problem.retryAfter ? ` The service asks to wait ${problem.retryAfter} s.` : "";
    this.#failure.replaceChildren(
      h("h3", {}, problem.title || "That did not work"),
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
 * Run `work(signal)` as the only one of its kind: a newer one stops it, `signal` of the view does too, and what goes
 * wrong is shown by `progress`, with a button that runs it again.
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
