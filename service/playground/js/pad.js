// A draw pad with a model's resolution: a picture, a mask on top, a brush for both, and undo.

import { canvasOf, contextOf, h } from "./dom.js";
import { toGrey } from "./fit.js";

/** Bytes of earlier states that are kept for undo. */
const UNDO_BYTES = 2 ** 26;

/**
 * A pad of `width` × `height` pixels, shown `shown` pixels wide; `grey`: for a model of grey pictures; `paper`: the
 * colour of an empty pad.
 */
export class Pad {
  /** "draw" or "mask". */
  mode = "draw";
  /** Colour of the brush. */
  ink = "rgb(200 200 200)";
  #radius;
  #grey;
  #paper;
  #picture;
  #mask;
  #brush = h("span", { class: "brush", "aria-hidden": "true" });
  #cursor;
  #past = [];
  #last = null;

  constructor(width, height, shown, { grey, paper }) {
    this.#grey = grey;
    this.#paper = paper;
    this.#picture = canvasOf(width, height, `picture ${grey ? "grey" : ""}`);
    this.#mask = canvasOf(width, height, "mask");
    this.element = h(
      "div",
      {
        class: "pad",
        tabIndex: 0,
        role: "application",
        "aria-label": "Draw pad. Arrow keys move the brush, space paints.",
      },
      this.#picture,
      this.#mask,
      this.#brush,
    );
    this.element.style.setProperty("--width", `${shown}px`);
    this.#wipe();
    this.radius = width / 24;
    this.#point({ x: width / 2, y: height / 2 });
    this.#listen();
  }

  /** Radius of the brush in pixels. */
  get radius() {
    return this.#radius;
  }

  set radius(radius) {
    this.#radius = radius;
    this.element.style.setProperty("--brush", `${(200 * radius) / this.#picture.width}%`);
  }

  get width() {
    return this.#picture.width;
  }

  get height() {
    return this.#picture.height;
  }

  /** Load a picture, cropped to its centre. */
  put(pixels) {
    this.#remember();
    this.#cover(this.#picture, pixels);
    if (!this.#grey) return;
    const whole = this.#pixels(this.#picture);
    toGrey(whole);
    contextOf(this.#picture).putImageData(whole, 0, 0);
  }

  /** Load a mask: white is regenerated. */
  putMask(pixels) {
    this.#remember();
    this.#cover(this.#mask, pixels);
    const whole = this.#pixels(this.#mask);
    const [red, green, blue] = contextColour(this.#colour());
    for (let at = 0; at < whole.data.length; at += 4) whole.data.set([red, green, blue, whole.data[at]], at);
    contextOf(this.#mask).putImageData(whole, 0, 0);
  }

  /** Clear picture and mask. */
  clear() {
    this.#remember();
    this.#wipe();
  }

  /** Paint the whole picture with the brush's colour. */
  fill() {
    this.#remember();
    const context = contextOf(this.#picture);
    context.fillStyle = this.ink;
    context.fillRect(0, 0, this.width, this.height);
  }

  /** Replace light by dark. */
  invert() {
    this.#remember();
    const whole = this.#pixels(this.#picture);
    for (let at = 0; at < whole.data.length; at += 1) if (at % 4 !== 3) whole.data[at] = 255 - whole.data[at];
    contextOf(this.#picture).putImageData(whole, 0, 0);
  }

  /** Undo the last change. */
  undo() {
    const before = this.#past.pop();
    if (!before) return;
    contextOf(this.#picture).putImageData(before.picture, 0, 0);
    contextOf(this.#mask).putImageData(before.mask, 0, 0);
  }

  /** Change the size; the picture is stretched, and earlier states are forgotten. */
  resize(width, height) {
    this.#past = [];
    for (const canvas of [this.#picture, this.#mask]) {
      const before = canvasOf(canvas.width, canvas.height);
      contextOf(before).drawImage(canvas, 0, 0);
      Object.assign(canvas, { width, height });
      contextOf(canvas).drawImage(before, 0, 0, width, height);
    }
    this.radius = this.#radius;
  }

  /** The picture as a data URI; null if it has one colour. */
  get image() {
    const { data } = this.#pixels(this.#picture);
    return data.some((value, at) => value !== data[at % 4]) ? this.#picture.toDataURL() : null;
  }

  /** The mask as a data URI, white = regenerate; null if empty. */
  get mask() {
    const alpha = this.#pixels(this.#mask).data.filter((_, at) => at % 4 === 3);
    if (!alpha.some(Boolean)) return null;
    const pixels = new ImageData(this.width, this.height);
    alpha.forEach((value, at) => pixels.data.set([value, value, value, 255], 4 * at));
    const canvas = canvasOf(this.width, this.height);
    contextOf(canvas).putImageData(pixels, 0, 0);
    return canvas.toDataURL();
  }

  #pixels(canvas) {
    return contextOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  }

  #cover(canvas, pixels) {
    const { width, height } = canvas;
    const scale = Math.max(width / pixels.width, height / pixels.height);
    const [across, down] = [pixels.width * scale, pixels.height * scale];
    const context = contextOf(canvas);
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(pixels, (width - across) / 2, (height - down) / 2, across, down);
  }

  #wipe() {
    const context = contextOf(this.#picture);
    context.fillStyle = this.#paper;
    context.fillRect(0, 0, this.width, this.height);
    contextOf(this.#mask).clearRect(0, 0, this.width, this.height);
  }

  #remember() {
    this.#past.push({ picture: this.#pixels(this.#picture), mask: this.#pixels(this.#mask) });
    const most = Math.max(8, Math.floor(UNDO_BYTES / (8 * this.width * this.height)));
    if (this.#past.length > most) this.#past.shift();
  }

  #listen() {
    const { element } = this;
    const place = (event) => {
      const box = element.getBoundingClientRect();
      const scale = this.width / box.width;
      return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      this.#remember();
      this.#stroke((this.#last = place(event)));
    });
    element.addEventListener("pointermove", (event) => {
      this.#point(place(event));
      if (this.#last) this.#stroke(place(event));
    });
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, () => (this.#last = null));
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const far = event.shiftKey ? 4 : 1;
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (step) this.#point({ x: this.#cursor.x + far * step[0], y: this.#cursor.y + far * step[1] });
    else if (event.key === " ") {
      this.#remember();
      this.#last = this.#cursor;
      this.#stroke(this.#cursor);
      this.#last = null;
    } else return;
    event.preventDefault();
  }

  /** Show the brush at a position on the pad. */
  #point({ x, y }) {
    this.#cursor = { x: Math.min(this.width, Math.max(0, x)), y: Math.min(this.height, Math.max(0, y)) };
    this.#brush.style.setProperty("--x", `${(100 * this.#cursor.x) / this.width}%`);
    this.#brush.style.setProperty("--y", `${(100 * this.#cursor.y) / this.height}%`);
  }

  #colour() {
    return getComputedStyle(this.element).color;
  }

  /** Paint a line from the last position to `to`. */
  #stroke(to) {
    const context = contextOf(this.mode === "mask" ? this.#mask : this.#picture);
    context.strokeStyle = this.mode === "mask" ? this.#colour() : this.ink;
    context.lineWidth = 2 * this.radius;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(this.#last.x, this.#last.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    this.#last = to;
  }
}

/** Red, green and blue, 0 to 255, of a CSS colour. */
function contextColour(colour) {
  const context = contextOf(canvasOf(1, 1));
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return context.getImageData(0, 0, 1, 1).data;
}
