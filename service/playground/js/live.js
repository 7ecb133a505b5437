// Live status: latency and queue of each model, from /stats.

import { getJson } from "./api.js";
import { bars } from "./chart.js";
import { duration, h } from "./dom.js";

const EVERY_MS = 5000;

/** Update `element` while the page is visible; `onMedian(model, p50_ms)` receives the median latencies. */
export async function followStats(element, cards, onMedian) {
  for (;;) {
    if (!document.hidden) await update(element, cards, onMedian);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

async function update(element, cards, onMedian) {
  let stats;
  try {
    stats = await getJson("stats?window=60", { ask: false });
  } catch (problem) {
    element.replaceChildren(h("p", { class: "hint" }, problem.title));
    return;
  }
  const rows = cards.filter(({ name }) => name in stats.models).map(({ name }) => row(name, stats));
  element.replaceChildren(h("h2", {}, "Last minute"), h("div", { class: "meters" }, rows));
  for (const [name, { latency }] of Object.entries(stats.models)) onMedian(name, latency.request.p50_ms);
}

function row(name, { models, window_s: window, step_s: step }) {
  const { requests, pictures, errors, queued_rows: queued, live_rows: live, latency, history } = models[name];
  // After a start the history is short; the chart still covers the whole window.
  const chart = (values, label) =>
    bars([...Array(Math.max(0, window / step - values.length)).fill(null), ...values], label);
  const { p50_ms: p50, p95_ms: p95 } = latency.request;
  const parts = [
    plural(requests, "request"),
    plural(pictures, "picture"),
    `p95 ${duration(p95)}`,
    live && `${live} in progress`,
    ...Object.entries(errors).map(([code, count]) => `${count} ${code}`),
  ].filter(Boolean);
  return h(
    "article",
    { class: "meter" },
    h("h3", {}, name),
    meter("p50", duration(p50), chart(history.p50_ms, `${name}: median latency in the last minute`)),
    meter("queue", String(queued), chart(history.queued_rows, `${name}: pictures waiting in the last minute`)),
    h("p", { class: "hint" }, parts.join(" · ")),
  );
}

const meter = (name, value, chart) => h("div", { class: "reading" }, h("span", {}, name), h("b", {}, value), chart);

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
