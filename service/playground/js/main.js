// The frame of the page: model, view, theme. Everything else belongs to the views.

import { getJson } from "./api.js";
import { can, denoises, describe, isFine, p50, readsText } from "./card.js";
import * as compare from "./compare.js";
import { duration, h } from "./dom.js";
import * as draw from "./draw.js";
import { takeDrops } from "./drops.js";
import * as film from "./film.js";
import * as gallery from "./gallery.js";
import * as interpolate from "./interpolate.js";
import { installForget } from "./key.js";
import { followStats } from "./live.js";
import * as map from "./map.js";
import { Progress } from "./progress.js";
import * as sketch from "./sketch.js";
import { change, listen, note, read } from "./state.js";
import { installTheme } from "./theme.js";
import { showTrail } from "./trail.js";

const VIEWS = [
  { name: "gallery", title: "Gallery", view: gallery, fits: (card) => can(card, "generate") },
  { name: "interpolate", title: "Interpolate", view: interpolate, fits: (card) => can(card, "interpolate") },
  { name: "film", title: "Film", view: film, fits: denoises },
  { name: "map", title: "Map", view: map, fits: (card) => can(card, "latent_map") },
  { name: "draw", title: "Draw", view: draw, fits: (card) => can(card, "image_to_image") || can(card, "variations") },
  { name: "sketch", title: "Sketch", view: sketch, fits: (card) => can(card, "control") },
  { name: "compare", title: "Compare", view: compare, fits: (card) => can(card, "generate") },
];

/** Settings that are not valid for another model. */
const OF_MODEL = [
  ...["steps", "solver", "guidance", "truncation", "spread", "strength", "width", "height", "lora", "lora_scale"],
  ...["control", "control_scale", "control_start", "control_end", "by"],
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
  takeDrops(cards);
  show();
  showTrail();
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

/** The model that the page opens with: one of prompts whose pictures are small enough to be quick, or a diffusion model. */
const first = () =>
  cards.find((card) => readsText(card) && !isFine(card)) ?? cards.find(denoises) ?? cards[0];

/** The prompt to start with, as a change of the state: an example where there is none. */
const promptOf = (card, { prompt }) => (readsText(card) && !prompt ? { prompt: card.examples[0] } : {});

/** Build the page for the state. */
function show() {
  const state = read();
  const card = cards.find(({ name }) => name === state.model) ?? first();
  const views = VIEWS.filter(({ fits }) => fits(card));
  const chosen = views.find(({ name }) => name === state.view) ?? views[0];
  if (chosen.name !== state.view || card.name !== state.model) {
    change({ view: chosen.name, model: card.name }, { replace: true, quiet: true });
  }
  // An address without a seed does not stand for any pictures yet.
  if (!state.seed && !state.from) note(promptOf(card, state));
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
  document.documentElement.dataset.detail = isFine(card) ? "fine" : "coarse";
  chosen.view.mount({ card, cards, stage, aside, signal: mounted.signal });
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
            change(patch());
          },
        },
        ...content,
      ),
    ),
  );
  const here = element.querySelector("[aria-current]");
  if (focused) here?.focus();
  if (here) centre(here, element);
}

/** Scroll `row` so that `item` is in its middle; on a phone it may be far to the right. */
function centre(item, row) {
  row.scrollLeft = item.offsetLeft - row.offsetLeft - (row.clientWidth - item.offsetWidth) / 2;
}

function showModels(card) {
  links(
    document.getElementById("models"),
    cards.map((each) => ({
      here: each === card,
      patch: () => ({
        ...Object.fromEntries(OF_MODEL.map((name) => [name, null])),
        ...promptOf(each, read()),
        model: each.name,
      }),
      content: [
        h("b", {}, each.name),
        h("span", { class: "figure", "data-model": each.name }, `p50 ${duration(p50(each))}`),
      ],
    })),
  );
}

function showViews(views, chosen) {
  links(
    document.getElementById("views"),
    views.map((each) => ({ here: each === chosen, patch: () => ({ view: each.name }), content: [each.title] })),
  );
}

function showLatency(model, ms) {
  const card = cards.find(({ name }) => name === model);
  if (ms === null) return;
  card.latency = { ...card.latency, request: { ...card.latency?.request, p50_ms: ms } };
  document.querySelector(`[data-model="${model}"]`)?.replaceChildren(`p50 ${duration(ms)}`);
}

installForget();
installTheme(document.getElementById("theme"), document.getElementById("tone"));
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault();
  document.getElementById("stage")?.focus();
});
start();
