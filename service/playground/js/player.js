// Frames with a slider and a play button.

import { shownWidth } from "./card.js";
import { h, reducedMotion, uniqueId } from "./dom.js";

const FRAMES_PER_SECOND = 12;

/**
 * A slider over frames with a play button. `show(index)` draws a frame; `caption(index)` names it. With `bounce()` it
 * plays back and forth without end, otherwise once.
 */
export class Player {
  #show;
  #caption;
  #bounce;
  #timer = null;
  #forward = true;
  #id = uniqueId("frame");
  #slider = h("input", { id: this.#id, type: "range", min: 0, max: 0, step: 1, value: 0 });
  #output = h("output", { for: this.#id });
  #button = h("button", { type: "button", class: "play" }, "Play");

  constructor({ label, show, caption, bounce = () => false, signal }) {
    this.#show = show;
    this.#caption = caption;
    this.#bounce = bounce;
    this.#slider.addEventListener("input", () => {
      this.pause();
      this.#draw();
    });
    this.#button.addEventListener("click", () => (this.#timer ? this.pause() : this.play()));
    signal.addEventListener("abort", () => this.pause());
    this.element = h(
      "div",
      { class: "player", hidden: true },
      this.#button,
      h("label", { class: "unseen", for: this.#id }, label),
      this.#slider,
      this.#output,
    );
  }

  get index() {
    return this.#slider.valueAsNumber;
  }

  /** Set the number of frames; with `follow` show the last one. */
  count(frames, { follow = false } = {}) {
    this.element.hidden = frames < 2;
    this.#slider.max = Math.max(0, frames - 1);
    if (follow) this.#slider.value = frames - 1;
    if (frames) this.#draw();
  }

  /** Show frame `index`. */
  seek(index) {
    this.#slider.value = index;
    this.#draw();
  }

  /** Play, unless the user prefers reduced motion. */
  autoplay() {
    if (!reducedMotion()) this.play();
  }

  play() {
    this.pause();
    this.#forward = true;
    if (this.index >= Number(this.#slider.max)) this.seek(0);
    this.#timer = setInterval(() => this.#step(), 1000 / FRAMES_PER_SECOND);
    this.#button.textContent = "Pause";
  }

  pause() {
    clearInterval(this.#timer);
    this.#timer = null;
    this.#button.textContent = "Play";
  }

  #step() {
    const last = Number(this.#slider.max);
    if (this.#forward && this.index >= last) {
      if (!this.#bounce()) return this.pause();
      this.#forward = false;
    } else if (!this.#forward && this.index <= 0) this.#forward = true;
    this.seek(this.index + (this.#forward ? 1 : -1));
  }

  #draw() {
    this.#output.textContent = this.#caption(this.index);
    this.#slider.setAttribute("aria-valuetext", this.#caption(this.index));
    this.#show(this.index);
  }
}

/** A canvas for pictures of `card`'s model, about `wanted` CSS pixels wide. */
export function screen(card, wanted, label) {
  const [channels, height, columns] = card.image_shape;
  const canvas = h("canvas", {
    width: columns,
    height,
    class: `screen ${channels === 1 ? "grey" : ""}`,
    role: "img",
    "aria-label": label,
  });
  canvas.style.setProperty("--width", `${shownWidth(columns, wanted)}px`);
  return canvas;
}

/** Draw `pixels` on `canvas`, which takes their size; clear it if there are none. */
export function paint(canvas, pixels) {
  const context = canvas.getContext("2d");
  if (pixels && (canvas.width !== pixels.width || canvas.height !== pixels.height)) {
    Object.assign(canvas, { width: pixels.width, height: pixels.height });
  }
  if (pixels) context.drawImage(pixels, 0, 0);
  else context.clearRect(0, 0, canvas.width, canvas.height);
}
