// A draw pad with a model's resolution: a picture, a mask on top, a brush for both, and undo.

import { h } from "./dom.js";

const UNDO = 40;

/** A pad of `width` × `height` pixels, shown `shown` pixels wide. */
export class Pad {
  /** "draw" or "mask". */
  mode = "draw";
  /** Grey level of the brush, 0 to 255, and its radius in pixels. */
  level = 200;
  radius = 1.2;
  #picture;
  #mask;
  #cursor;
  #past = [];
  #last = null;

  constructor(width, height, shown, grey) {
    const layer = (name) => h("canvas", { width, height, class: name });
    this.#picture = layer(`picture ${grey ? "grey" : ""}`);
    this.#mask = layer("mask");
    this.#cursor = { x: width / 2, y: height / 2 };
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
    );
    this.element.style.setProperty("--width", `${shown}px`);
    for (const canvas of [this.#picture, this.#mask]) canvas.getContext("2d", { willReadFrequently: true });
    this.#wipe();
    this.#listen();
  }

  /** Load a picture, cropped to its centre. */
  put(pixels) {
    this.#remember();
    const { width, height } = this.#picture;
    const scale = Math.max(width / pixels.width, height / pixels.height);
    const [across, down] = [pixels.width * scale, pixels.height * scale];
    const context = this.#picture.getContext("2d");
    context.imageSmoothingEnabled = scale < 1;
    context.drawImage(pixels, (width - across) / 2, (height - down) / 2, across, down);
  }

  /** Clear picture and mask. */
  clear() {
    this.#remember();
    this.#wipe();
  }

  /** Undo the last change. */
  undo() {
    const before = this.#past.pop();
    if (!before) return;
    this.#picture.getContext("2d").putImageData(before.picture, 0, 0);
    this.#mask.getContext("2d").putImageData(before.mask, 0, 0);
  }

  /** The picture as a data URI; null if nothing is drawn. */
  get image() {
    return this.#pixels(this.#picture).some((value, at) => at % 4 !== 3 && value > 0)
      ? this.#picture.toDataURL()
      : null;
  }

  /** The mask as a data URI, white = regenerate; null if empty. */
  get mask() {
    const alpha = this.#pixels(this.#mask).filter((_, at) => at % 4 === 3);
    if (!alpha.some(Boolean)) return null;
    const { width, height } = this.#mask;
    const pixels = new ImageData(width, height);
    alpha.forEach((value, at) => pixels.data.set([value, value, value, 255], 4 * at));
    const canvas = h("canvas", { width, height });
    canvas.getContext("2d").putImageData(pixels, 0, 0);
    return canvas.toDataURL();
  }

  #pixels(canvas) {
    return canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  }

  #wipe() {
    const { width, height } = this.#picture;
    const context = this.#picture.getContext("2d");
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    this.#mask.getContext("2d").clearRect(0, 0, width, height);
  }

  #remember() {
    const whole = (canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    this.#past.push({ picture: whole(this.#picture), mask: whole(this.#mask) });
    if (this.#past.length > UNDO) this.#past.shift();
  }

  #listen() {
    const { element } = this;
    const place = (event) => {
      const box = element.getBoundingClientRect();
      const scale = this.#picture.width / box.width;
      return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
    };
    element.addEventListener("pointerdown", (event) => {
      element.setPointerCapture(event.pointerId);
      this.#remember();
      this.#stroke((this.#last = place(event)));
    });
    element.addEventListener("pointermove", (event) => {
      if (this.#last) this.#stroke(place(event));
    });
    for (const name of ["pointerup", "pointercancel"]) element.addEventListener(name, () => (this.#last = null));
    element.addEventListener("keydown", (event) => this.#key(event));
  }

  #key(event) {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (event.key === "z" && (event.ctrlKey || event.metaKey)) this.undo();
    else if (step) this.#cursor = { x: this.#cursor.x + step[0], y: this.#cursor.y + step[1] };
    else if (event.key === " ") {
      this.#remember();
      this.#last = this.#cursor;
      this.#stroke(this.#cursor);
      this.#last = null;
    } else return;
    event.preventDefault();
  }

  /** Paint a line from the last position to `to`. */
  #stroke(to) {
    const canvas = this.mode === "mask" ? this.#mask : this.#picture;
    const context = canvas.getContext("2d");
    const grey = `rgb(${this.level} ${this.level} ${this.level})`;
    context.strokeStyle = this.mode === "mask" ? getComputedStyle(this.element).color : grey;
    context.lineWidth = 2 * this.radius;
    context.lineCap = context.lineJoin = "round";
    context.beginPath();
    context.moveTo(this.#last.x, this.#last.y);
    context.lineTo(to.x + 0.01, to.y);
    context.stroke();
    this.#last = to;
  }
}
