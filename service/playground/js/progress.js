// Progress of a request in one line: queued with its position, running, done, or failed.

import { duration, h } from "./dom.js";

/** Time without an estimate after the first step: the first ones say little. */
const ESTIMATE_AFTER_MS = 1000;
/** Automatic retries in a row of a request that the service refused for load. */
const MOST_RETRIES = 5;

export class Progress {
  #text = h("span", { class: "progress-text" });
  #bar = h("progress", { max: 1, value: 0, "aria-label": "Progress" });
  #cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  #warnings = h("div", { class: "warnings" });
  #since = null;
  #timer = null;
  /** What the button Cancel does. */
  oncancel = null;

  constructor() {
    this.#cancel.addEventListener("click", () => this.oncancel?.());
    const line = h("div", { class: "progress-line" }, h("div", { role: "status" }, this.#text), this.#cancel);
    this.element = h("div", { class: "progress" }, line, this.#bar, this.#warnings);
    this.failure = h("div", { class: "failure", hidden: true });
    this.idle();
  }

  /** No request is running. */
  idle(text = "") {
    this.#set("idle", text, 0);
  }

  /** The request was sent; no event has arrived. */
  sent() {
    this.#set("queued", "Sent", 0);
  }

  /** The user stopped the request. */
  canceled() {
    this.#set("canceled", "Cancelled", 0);
  }

  /** The request is queued. */
  queued({ queue_position: position, eta_ms: eta }) {
    const place = position ? `${position} ${position === 1 ? "picture" : "pictures"} ahead` : "Next in the queue";
    this.#set("queued", eta ? `${place} · about ${duration(eta)}` : place, 0);
  }

  /** The request is being computed: `done` from 0 to 1. */
  running(done, text) {
    this.#since ??= performance.now();
    const passed = performance.now() - this.#since;
    const left = (passed / done) * (1 - done);
    const estimate = done > 0 && passed > ESTIMATE_AFTER_MS ? ` · about ${duration(left)} left` : "";
    this.#set("running", text + estimate, done);
  }

  /** Done; shows the answer's timings and warnings. */
  done(what, timings, warnings = []) {
    const steps = timings.ms_per_step ? [`${duration(timings.ms_per_step)} per step`] : [];
    const parts = [`${what} in ${duration(timings.total_ms)}`, `queue ${duration(timings.queue_ms)}`, ...steps];
    this.#set("done", parts.join(" · "), 1);
    this.#warnings.replaceChildren(...warnings.map((text) => h("p", { class: "hint" }, text)));
  }

  /**
   * Failed: shows the error, the fields at fault and a retry button. With `automatic`, and if the service said when to
   * come back, it counts down and calls `retry` itself.
   */
  failed(problem, retry, automatic = true) {
    this.#set("failed", "", 0);
    const errors = problem.errors.map(({ field, message, allowed }) =>
      h("p", {}, h("code", {}, field || "request"), ` ${message}.`, allowed ? ` Allowed: ${allowed}.` : ""),
    );
    const text = errors.length ? errors : [h("p", {}, problem.message)];
    const again = h("button", { type: "button", class: "primary", onclick: retry }, "Try again");
    const count = h("p", { class: "hint", "aria-live": "off" });
    this.failure.replaceChildren(
      h("div", { role: "alert" }, h("h2", {}, problem.title || "The request failed"), ...text),
      count,
      h("div", { class: "actions" }, again),
    );
    this.failure.hidden = false;
    if (automatic && problem.retryAfter) this.#countDown(problem.retryAfter, retry, count, again);
  }

  #countDown(seconds, retry, count, again) {
    const stop = h("button", { type: "button", class: "quiet" }, "Stop");
    stop.addEventListener("click", () => {
      clearInterval(this.#timer);
      count.remove();
      stop.remove();
    });
    again.after(stop);
    const show = () => (count.textContent = `Trying again in ${seconds} s.`);
    show();
    this.#timer = setInterval(() => {
      if (!this.failure.isConnected) return clearInterval(this.#timer);
      seconds -= 1;
      show();
      if (seconds <= 0) retry();
    }, 1000);
  }

  #set(state, text, value) {
    clearInterval(this.#timer);
    if (state !== "running") this.#since = null;
    const over = !["queued", "running"].includes(state);
    this.element.dataset.state = state;
    this.#text.textContent = text;
    this.#bar.value = value;
    this.#cancel.hidden = over || !this.oncancel;
    this.#warnings.replaceChildren();
    this.failure.hidden = true;
  }
}

/**
 * Run `work(signal)`, one at a time: a newer call, the button Cancel and the view's signal abort it. `progress` shows
 * its error with a button that runs it again.
 */
export function runner(progress, viewSignal) {
  let current = null;
  progress.oncancel = () => {
    current?.abort();
    progress.canceled();
  };
  return async function run(work, refused = 0) {
    current?.abort();
    const own = (current = new AbortController());
    progress.sent();
    try {
      await work(AbortSignal.any([own.signal, viewSignal]));
    } catch (failure) {
      if (failure.name === "AbortError") return;
      if (!("errors" in failure)) throw failure;
      progress.failed(failure, () => run(work, refused + 1), refused < MOST_RETRIES);
    }
  };
}
