// The map view: training pictures in the latent plane, and the decoded picture of any point.

import { getFile, getJson } from "./api.js";
import { isGrey } from "./card.js";
import { classChips, classNamesOf, classesOf, group } from "./controls.js";
import { h } from "./dom.js";
import { paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { note, number, read } from "./state.js";

/** Ten colours for all types of colour vision: M. A. Petroff, arXiv:2107.02270. */
const COLOURS = [
  "#3f90da",
  "#ffa90e",
  "#bd1f01",
  "#94a4a2",
  "#832db6",
  "#a96b59",
  "#e76300",
  "#b9ac70",
  "#717581",
  "#92dadd",
];
const colourOf = (label) => COLOURS[label % COLOURS.length];

/** Points per axis: nearby positions snap to one point, whose answer the browser caches. */
const PLACES = 200;
const RESOLUTION = 1120;

export const lede = "Training pictures in the latent plane. Drag to decode any point.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const progress = new Progress();
  const run = runner(progress, signal);
  const sprite = h("canvas", { class: isGrey(card) ? "grey" : "" });
  const canvas = h("canvas", { class: "points", width: RESOLUTION, height: RESOLUTION });
  const sky = h(
    "div",
    {
      class: "sky",
      tabIndex: 0,
      role: "application",
      "aria-label": "Latent map. Arrow keys move the decoded point.",
    },
    sprite,
    canvas,
  );
  const picture = screen(card, 252, "The picture at this point");
  const caption = h("figcaption");
  const view = { card, sky, sprite, canvas, picture, caption, progress, signal };
  let explorer = null;
  const load = () =>
    run(async (stop) => {
      const [label] = classNamesOf(read(), card);
      const query = label === undefined ? "" : `?class_label=${encodeURIComponent(label)}`;
      const map = await getJson(`latent-map/${card.name}${query}`, stop);
      const tiles = await createImageBitmap(await getFile(map.grid.url, { signal: stop }));
      Object.assign(sprite, { width: tiles.width, height: tiles.height });
      paint(sprite, tiles);
      progress.idle();
      explorer ??= new Explorer(view, map);
      explorer.go(number(read().x, 0), number(read().y, 0));
    });
  aside.append(
    h(
      "form",
      { onsubmit: (event) => event.preventDefault() },
      classChips({
        names: card.class_names,
        selected: classesOf(read(), card).slice(0, 1),
        several: false,
        hint: "Class of the background and of the picture.",
        on: ([found]) => {
          note({ classes: found });
          load();
        },
      }),
      group("Training pictures", legend(card.class_names)),
    ),
  );
  stage.append(
    progress.element,
    progress.failure,
    h("div", { class: "plane" }, sky, h("figure", {}, h("div", { class: "mat" }, picture), caption)),
  );
  load();
}

const legend = (names) =>
  h(
    "div",
    { class: "legend" },
    names.map((name, label) => {
      const dot = h("i");
      dot.style.setProperty("--colour", colourOf(label));
      return h("span", {}, dot, name);
    }),
  );

/** The current point: marked on the map, and decoded by one request at a time. */
class Explorer {
  #at = { x: 0, y: 0 };
  #wanted = null;
  #busy = false;
  #view;
  #points;
  #x;
  #y;

  constructor(view, { points, grid }) {
    this.#view = view;
    this.#points = points;
    this.#x = extent(grid.x);
    this.#y = extent(grid.y.toReversed());
    this.#listen(view.sky);
  }

  /** Move the point by mouse, touch and keys on `sky`. */
  #listen(sky) {
    const follow = (event) => {
      const box = sky.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width;
      const down = (event.clientY - box.top) / box.height;
      this.go(between(this.#x, across), between(this.#y, 1 - down));
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
      const width = ([low, high]) => (high - low) / 40;
      this.go(this.#at.x + step[0] * width(this.#x), this.#at.y + step[1] * width(this.#y));
    });
  }

  /** Move to a point. */
  go(x, y) {
    this.#at = { x: snap(x, this.#x), y: snap(y, this.#y) };
    note(this.#at);
    this.#draw();
    this.decode();
  }

  /** Decode the point. While a request runs, only the latest point waits. */
  async decode() {
    this.#wanted = this.#at;
    if (this.#busy) return;
    this.#busy = true;
    const { card, picture, caption, progress, signal } = this.#view;
    try {
      while (this.#wanted) {
        const { x, y } = this.#wanted;
        this.#wanted = null;
        const [label] = classNamesOf(read(), card);
        const labels = label === undefined ? [] : [["class_label", label]];
        const query = new URLSearchParams([["point", x], ["point", y], ["version", card.version], ...labels]);
        paint(picture, await createImageBitmap(await getFile(`generate/${card.name}?${query}`, { signal })));
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
    const { canvas } = this.#view;
    const context = canvas.getContext("2d");
    const left = (x) => part(x, this.#x) * RESOLUTION;
    const top = (y) => (1 - part(y, this.#y)) * RESOLUTION;
    const dot = (x, y, radius) => {
      context.beginPath();
      context.arc(left(x), top(y), radius, 0, 2 * Math.PI);
    };
    context.clearRect(0, 0, RESOLUTION, RESOLUTION);
    const [chosen] = classesOf(read(), this.#view.card);
    for (const [x, y, label] of this.#points) {
      context.globalAlpha = chosen === undefined || label === chosen ? 1 : 0.12;
      context.fillStyle = colourOf(label);
      dot(x, y, 5);
      context.fill();
    }
    context.globalAlpha = 1;
    // Black inside white is visible on any background.
    for (const [style, width] of [
      ["white", 9],
      ["black", 4],
    ]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      dot(this.#at.x, this.#at.y, 22);
      context.stroke();
    }
  }
}

/** Extent of a grid of pictures with centres at `lines`: half a picture more at both ends. */
function extent(lines) {
  const half = (lines[1] - lines[0]) / 2;
  return [lines[0] - half, lines.at(-1) + half];
}

const part = (value, [low, high]) => (value - low) / (high - low);
const between = ([low, high], share) => low + share * (high - low);

/** The nearest of the PLACES points in `range`. */
function snap(value, range) {
  const place = Math.round(part(value, range) * PLACES);
  return Number(between(range, Math.min(PLACES, Math.max(0, place)) / PLACES).toFixed(4));
}
