// The service at this moment: latency and queue of each model, from /stats.

import { getJson } from "./api.js";
import { bars } from "./chart.js";
import { duration, h } from "./dom.js";

const EVERY_MS = 5000;

/** Keep `element` up to date while the page is seen; `told(model, p50_ms)` hears the medians. */
export async function followStats(element, cards, told) {
  for (;;) {
    if (!document.hidden) await look(element, cards, told);
    await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
  }
}

async function look(element, cards, told) {
  let stats;
  try {
    stats = await getJson("/stats?window=60");
  } catch (problem) {
    element.replaceChildren(h("p", { class: "hint" }, problem.title));
    return;
  }
  const rows = cards.filter(({ name }) => name in stats.models).map(({ name }) => row(name, stats.models[name]));
  element.replaceChildren(h("h2", {}, "At this moment"), h("div", { class: "meters" }, rows));
  for (const [name, { latency }] of Object.entries(stats.models)) told(name, latency.request.p50_ms);
}

function row(name, { requests, pictures, errors, queued_rows: queued, live_rows: live, latency, history }) {
  const { p50_ms: p50, p95_ms: p95 } = latency.request;
  const parts = [
    `${plural(requests, "request")} and ${plural(pictures, "picture")} in a minute`,
    `p95 ${duration(p95)}`,
    live && `${live} under way`,
    ...Object.entries(errors).map(([code, count]) => `${count} ${code}`),
  ].filter(Boolean);
  return h(
    "article",
    { class: "meter" },
    h("h3", {}, name),
    meter("p50", duration(p50), bars(history.p50_ms, `${name}: median latency over the last minutes`)),
    meter("queue", String(queued), bars(history.queued_rows, `${name}: pictures waiting over the last minutes`)),
    h("p", { class: "hint" }, parts.join(" · ")),
  );
}

const meter = (name, value, chart) => h("div", { class: "reading" }, h("span", {}, name), h("b", {}, value), chart);

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
