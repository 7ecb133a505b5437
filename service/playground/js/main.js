// The frame of the page: model, view, theme. Everything else belongs to the views.

import { getJson, inspect } from "./api.js";
import { can, denoises, describe, p50 } from "./card.js";
import { duration, h } from "./dom.js";
import * as draw from "./draw.js";
import * as film from "./film.js";
import * as gallery from "./gallery.js";
import * as interpolate from "./interpolate.js";
import { followStats } from "./live.js";
import * as map from "./map.js";
import { Progress } from "./progress.js";
import { change, listen, read } from "./state.js";
import { installTheme } from "./theme.js";

const VIEWS = [
  { name: "gallery", title: "Gallery", view: gallery, fits: (card) => can(card, "generate") },
  { name: "interpolate", title: "Interpolate", view: interpolate, fits: (card) => can(card, "interpolate") },
  { name: "film", title: "Film", view: film, fits: denoises },
  { name: "map", title: "Map", view: map, fits: (card) => can(card, "latent_map") },
  { name: "draw", title: "Draw", view: draw, fits: (card) => can(card, "image_to_image") || can(card, "variations") },
];

const main = document.getElementById("main");
let cards = [];
let mounted = new AbortController();

async function start() {
  const progress = new Progress();
  try {
    const all = await getJson("models");
    cards = all.filter((card) => VIEWS.some(({ fits }) => fits(card)));
  } catch (problem) {
    main.replaceChildren(progress.failure);
    progress.failed(problem, start);
    return;
  }
  if (!cards.length) return main.replaceChildren(empty());
  listen(show);
  takeDrops();
  show();
  followStats(document.getElementById("live"), cards, showLatency);
}

const empty = () =>
  h(
    "div",
    { class: "empty" },
    h("h1", {}, "No model is served"),
    h(
      "p",
      {},
      "Export one into the weights folder and restart the service: ",
      h("code", {}, "python -m trainer export runs/vae weights/vae"),
    ),
  );

/** Build the page for the state. */
function show() {
  const state = read();
  const card = cards.find(({ name }) => name === state.model) ?? cards.find(denoises) ?? cards[0];
  const views = VIEWS.filter(({ fits }) => fits(card));
  const chosen = views.find(({ name }) => name === state.view) ?? views[0];
  if (chosen.name !== state.view || card.name !== state.model) {
    change({ view: chosen.name, model: card.name }, { replace: true, quiet: true });
  }
  mounted.abort();
  mounted = new AbortController();
  showModels(card);
  showViews(views, chosen);
  const aside = h("aside", { class: "settings", "aria-label": "Settings" });
  const stage = h("section", { class: "stage", id: "stage", tabIndex: -1, "aria-label": chosen.title });
  stage.append(h("header", { class: "title" }, h("h1", {}, chosen.title), h("p", { class: "lede" }, chosen.view.lede)));
  document.getElementById("about").textContent = describe(card);
  main.replaceChildren(aside, stage);
  document.title = `${chosen.title} · ${card.name} · genserve`;
  chosen.view.mount({ card, stage, aside, signal: mounted.signal });
}

/** A row of links that look like tabs; the current one has aria-current. */
function links(element, items) {
  const focused = element.contains(document.activeElement);
  element.replaceChildren(
    ...items.map(({ here, patch, content }) =>
      h(
        "a",
        {
          href: "#",
          "aria-current": here ? "page" : undefined,
          onclick: (event) => {
            event.preventDefault();
            change(patch);
          },
        },
        ...content,
      ),
    ),
  );
  if (focused) element.querySelector("[aria-current]")?.focus();
}

function showModels(card) {
  links(
    document.getElementById("models"),
    cards.map((each) => ({
      here: each === card,
      // Sampling settings are not valid for another model.
      patch: {
        model: each.name,
        steps: null,
        solver: null,
        guidance: null,
        truncation: null,
        spread: null,
        strength: null,
      },
      content: [
        h("b", {}, each.name),
        h("span", { class: "figure", "data-model": each.name }, p50(each) === null ? "" : `p50 ${duration(p50(each))}`),
      ],
    })),
  );
}

function showViews(views, chosen) {
  links(
    document.getElementById("views"),
    views.map((each) => ({ here: each === chosen, patch: { view: each.name }, content: [each.title] })),
  );
}

function showLatency(model, ms) {
  const card = cards.find(({ name }) => name === model);
  if (ms === null) return;
  card.latency = { ...card.latency, request: { ...card.latency?.request, p50_ms: ms } };
  document.querySelector(`[data-model="${model}"]`)?.replaceChildren(`p50 ${duration(ms)}`);
}

/** A dropped PNG of this service restores its settings. */
function takeDrops() {
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", async (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) await restore(file);
  });
}

async function restore(file) {
  const notice = h("p", { class: "notice", role: "status" });
  try {
    const { model, path, params } = await inspect(file);
    const names = cards.find(({ name }) => name === model)?.class_names ?? [];
    const labels = [params.class_label].flat().filter((label) => label !== null && label !== undefined);
    const shared = {
      model,
      classes: [...new Set(labels)]
        .map((label) => names.indexOf(label))
        .filter((index) => index >= 0)
        .join(","),
      steps: params.steps,
      solver: params.solver,
      guidance: params.guidance_scale,
      prompt: [params.prompt].flat()[0],
      negative: [params.negative_prompt].flat()[0],
      lora: [params.lora].flat()[0]?.name,
    };
    if (path === "/interpolate")
      change({
        view: "interpolate",
        from: params.from?.seed,
        to: params.to?.seed,
        frames: params.frames,
        method: params.method,
        ...shared,
      });
    else change({ view: "gallery", n: params.n, seed: params.seed ?? params.seeds?.[0], lock: 1, ...shared });
    notice.textContent = "Settings restored from the picture.";
  } catch (problem) {
    notice.textContent = problem.message;
  }
  document.body.append(notice);
  setTimeout(() => notice.remove(), 5000);
}

installTheme(document.getElementById("theme"), document.getElementById("tone"));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("stage")?.focus();
});
start();
