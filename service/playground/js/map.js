// The latent map: where the training pictures lie, and what lies between them.

import { getFile, getJson } from "./api.js";
import { isGrey, shownWidth } from "./card.js";
import { classChips, classesOf } from "./controls.js";
import { h } from "./dom.js";
import { paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { note, number, read } from "./state.js";

/** Ten colours that people with any colour vision tell apart: M. A. Petroff, arXiv:2107.02270. */
const COLOURS = ["#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"];
const colourOf = (label) => COLOURS[label % COLOURS.length];

/** Places across the map that are asked for: nearby ones share an answer, which the browser keeps. */
const PLACES = 200;
const RESOLUTION = 1120;

export const lede = "Training pictures as the model sees them, flattened onto a plane. Drag anywhere to see what the model makes of that place.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const progress = new Progress();
  const run = runner(progress, signal);
  const state = read();
  const sprite = h("img", { alt: "", class: isGrey(card) ? "grey" : "" });
  const canvas = h("canvas", { width: RESOLUTION, height: RESOLUTION });
  const sky = h("div", { class: "sky", tabIndex: 0, role: "application", "aria-label": "The map. Arrow keys move the place that is decoded." }, sprite, canvas);
  const picture = screen(card, shownWidth(card, 252), "The picture at this place");
  const caption = h("figcaption");
  aside.append(
    h("form", {},
      classChips({ names: card.class_names, selected: classesOf(state, card).slice(0, 1), several: false, on: ([found]) => { note({ classes: found }); explorer?.decode(); } }),
      legend(card.class_names)),
  );
  stage.append(progress.element, progress.failure, h("div", { class: "plane" }, sky, h("figure", {}, h("div", { class: "mat" }, picture), caption)));
  let explorer = null;
  run(async (stop) => {
    const map = await getJson(`/latent-map/${card.name}`, stop);
    sprite.src = map.sprite;
    explorer = new Explorer({ card, map, canvas, picture, caption, progress, signal });
    explorer.listenTo(sky);
    progress.idle();
    explorer.go(number(state.x, 0), number(state.y, 0));
  });
}

const legend = (names) =>
  h("div", { class: "legend" }, names.map((name, label) => {
    const dot = h("i");
    dot.style.setProperty("--colour", colourOf(label));
    return h("span", {}, dot, name);
  }));

/** The place that is looked at: drawn on the map, and decoded one request at a time. */
class Explorer {
  #at = { x: 0, y: 0 };
  #asked = null;
  #busy = false;
  #view;

  constructor(view) {
    this.#view = view;
  }

  /** Let mouse, finger and keys on `sky` move the place. */
  listenTo(sky) {
    const { bounds } = this.#view.map;
    const follow = (event) => {
      const box = sky.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width;
      const down = (event.clientY - box.top) / box.height;
      this.go(between(bounds.x, across), between(bounds.y, 1 - down));
    };
    sky.addEventListener("pointerdown", (event) => {
      sky.setPointerCapture(event.pointerId);
      follow(event);
    });
    sky.addEventListener("pointermove", (event) => {
      if (sky.hasPointerCapture(event.pointerId)) follow(event);
    });
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    sky.addEventListener("keydown", (event) => {
      const step = steps[event.key];
      if (!step) return;
      event.preventDefault();
      const width = (range) => (range[1] - range[0]) / 40;
      this.go(this.#at.x + step[0] * width(bounds.x), this.#at.y + step[1] * width(bounds.y));
    });
  }

  /** Look at a place. */
  go(x, y) {
    const { bounds } = this.#view.map;
    this.#at = { x: snap(x, bounds.x), y: snap(y, bounds.y) };
    note(this.#at);
    this.#draw();
    this.decode();
  }

  /** Decode the place; while one is being decoded, only the latest of the others waits. */
  async decode() {
    this.#asked = this.#at;
    if (this.#busy) return;
    this.#busy = true;
    const { card, picture, caption, progress, signal } = this.#view;
    try {
      while (this.#asked) {
        const { x, y } = this.#asked;
        this.#asked = null;
        const [label] = classesOf(read(), card);
        const query = new URLSearchParams([["point", x], ["point", y], ["version", card.version], ...(label === undefined ? [] : [["class_label", label]])]);
        paint(picture, await createImageBitmap(await getFile(`/generate/${card.name}?${query}`, { signal })));
        caption.textContent = `x ${x.toFixed(2)}, y ${y.toFixed(2)}`;
        progress.idle();
      }
    } catch (problem) {
      if (problem.name !== "AbortError") progress.failed(problem, () => this.decode());
    } finally {
      this.#busy = false;
    }
  }

  #draw() {
    const { map: { points, bounds }, canvas } = this.#view;
    const context = canvas.getContext("2d");
    const left = (x) => ((x - bounds.x[0]) / (bounds.x[1] - bounds.x[0])) * RESOLUTION;
    const top = (y) => (1 - (y - bounds.y[0]) / (bounds.y[1] - bounds.y[0])) * RESOLUTION;
    context.clearRect(0, 0, RESOLUTION, RESOLUTION);
    for (const [x, y, label] of points) {
      context.fillStyle = colourOf(label);
      context.beginPath();
      context.arc(left(x), top(y), 4, 0, 2 * Math.PI);
      context.fill();
    }
    const ink = getComputedStyle(canvas);
    context.strokeStyle = ink.color;
    context.lineWidth = 3;
    context.beginPath();
    context.arc(left(this.#at.x), top(this.#at.y), 20, 0, 2 * Math.PI);
    context.stroke();
  }
}

const between = ([low, high], part) => low + part * (high - low);

/** The nearest of the places that are asked for, inside `range`. */
function snap(value, range) {
  const place = Math.round(((value - range[0]) / (range[1] - range[0])) * PLACES);
  return Number(between(range, Math.min(PLACES, Math.max(0, place)) / PLACES).toFixed(4));
}
