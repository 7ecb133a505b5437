// The map view: training pictures in the latent plane, and the decoded picture of any point.

import { getFile, getJson } from "./api.js";
import { can, isGrey } from "./card.js";
import { classNamesOf, classesOf, group, oneClass } from "./controls.js";
import { h } from "./dom.js";
import { hold } from "./held.js";
import { Plane } from "./plane.js";
import { paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { change, note, number, read } from "./state.js";

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

const RESOLUTION = 1120;

export const lede = "Training pictures in the latent plane. Each place decodes to a picture.";

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
      "aria-label": "Latent map. Arrow keys move the decoded point, plus and minus zoom.",
    },
    sprite,
    canvas,
  );
  const picture = screen(card, 252, "The picture at this point");
  const caption = h("figcaption");
  const view = { card, sky, sprite, canvas, picture, caption, progress, signal };
  const use =
    can(card, "variations") &&
    h("button", { type: "button", onclick: () => explorer?.use(() => change({ view: "draw" })) }, "Use this point");
  let explorer = null;
  const load = () =>
    run(async (stop) => {
      const [label] = classNamesOf(read(), card);
      const query = label === undefined ? "" : `?class_label=${encodeURIComponent(label)}`;
      const map = await getJson(`latent-map/${card.name}${query}`, { signal: stop });
      const tiles = await createImageBitmap(await getFile(map.grid.url, { signal: stop }));
      Object.assign(sprite, { width: tiles.width, height: tiles.height });
      paint(sprite, tiles);
      progress.idle();
      explorer ??= new Explorer(view, map);
      explorer.go({ x: number(read().x, 0), y: number(read().y, 0) });
    });
  aside.append(
    h(
      "form",
      { onsubmit: (event) => event.preventDefault() },
      oneClass(card, read(), load, "Class of the background and of the picture."),
      group("Training pictures", legend(card.class_names)),
    ),
  );
  stage.append(
    progress.element,
    progress.failure,
    h(
      "div",
      { class: "plane" },
      h("div", { class: "sky-frame" }, sky, zoomButtons((factor) => explorer?.zoom(factor))),
      h("figure", {}, h("div", { class: "mat" }, picture), caption, use),
    ),
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

function zoomButtons(zoom) {
  const button = (text, label, factor) =>
    h("button", { type: "button", class: "quiet", "aria-label": label, onclick: () => zoom(factor) }, text);
  return h(
    "div",
    { class: "actions" },
    button("+", "Zoom in", 2),
    button("−", "Zoom out", 1 / 2),
    h("p", { class: "hint" }, "Click or drag to keep a point."),
  );
}

/** The current point: marked on the map, and decoded by one request at a time. A mouse that hovers decodes others. */
class Explorer {
  #at = { x: 0, y: 0 };
  #wanted = null;
  #shown = null;
  #busy = null;
  #view;
  #points;
  #plane;

  constructor(view, { points, grid }) {
    this.#view = view;
    this.#points = points;
    this.#plane = new Plane(extent(grid.x), extent(grid.y.toReversed()));
    this.#listen(view.sky);
  }

  /** Move the point by mouse, touch and keys on `sky`. */
  #listen(sky) {
    const under = (event) => {
      const box = sky.getBoundingClientRect();
      return this.#plane.at((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    };
    sky.addEventListener("pointerdown", (event) => {
      sky.setPointerCapture(event.pointerId);
      this.go(under(event));
    });
    sky.addEventListener("pointermove", (event) => {
      if (sky.hasPointerCapture(event.pointerId)) this.go(under(event));
      else if (event.pointerType === "mouse") this.decode(under(event));
    });
    sky.addEventListener("pointerleave", () => this.decode(this.#at));
    sky.addEventListener("wheel", (event) => {
      if (!event.ctrlKey) return; // also two fingers that pinch a touchpad
      event.preventDefault();
      this.zoom(2 ** (-event.deltaY / 100), under(event));
    });
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const factors = { "+": 2, "=": 2, "-": 1 / 2 };
    sky.addEventListener("keydown", (event) => {
      const [step, factor] = [steps[event.key], factors[event.key]];
      if (event.ctrlKey || event.metaKey || !(step || factor)) return;
      event.preventDefault();
      if (step) this.go(this.#plane.step(this.#at, ...step));
      else this.zoom(factor);
    });
  }

  /** Move to a point. */
  go(point) {
    this.#at = this.#plane.snap(point);
    this.#plane.reveal(this.#at);
    note(this.#at);
    this.#draw();
    this.decode(this.#at);
  }

  /** Show a smaller or larger part of the plane around a point, the current one by default. */
  zoom(factor, point = this.#at) {
    this.#plane.scale(factor, point);
    this.#draw();
  }

  /** Hold the picture of the current point for the next view, and call `then`. */
  async use(then) {
    await this.decode(this.#at);
    if (this.#shown !== this.#at) return;
    hold({ image: this.#view.picture.toDataURL() });
    then();
  }

  /** Decode a point. While a request runs, only the latest point waits. */
  decode(point) {
    this.#wanted = point;
    return (this.#busy ??= this.#decodeWanted().finally(() => (this.#busy = null)));
  }

  async #decodeWanted() {
    const { card, picture, caption, progress, signal } = this.#view;
    try {
      while (this.#wanted) {
        const point = this.#wanted;
        const { x, y } = point;
        this.#wanted = null;
        const [label] = classNamesOf(read(), card);
        const labels = label === undefined ? [] : [["class_label", label]];
        const query = new URLSearchParams([["point", x], ["point", y], ["version", card.version], ...labels]);
        paint(picture, await createImageBitmap(await getFile(`generate/${card.name}?${query}`, { signal })));
        this.#shown = point;
        caption.textContent = `x ${x.toFixed(2)}, y ${y.toFixed(2)}`;
        progress.idle();
      }
    } catch (problem) {
      if (problem.name !== "AbortError") progress.failed(problem, () => this.decode(this.#at));
    }
  }

  #draw() {
    const { canvas, sprite } = this.#view;
    sprite.style.setProperty("transform", this.#plane.transform);
    const context = canvas.getContext("2d");
    const dot = (x, y, radius) => {
      const { across, down } = this.#plane.place({ x, y });
      context.beginPath();
      context.arc(across * RESOLUTION, down * RESOLUTION, radius, 0, 2 * Math.PI);
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
