// The window of a map: which part of the plane it shows, and where points are in it.

const MOST_ZOOM = 8;
/** Points per axis without zoom: nearby positions snap to one point, whose answer the browser caches. */
const PLACES = 200;

export class Plane {
  zoom = 1;
  #whole;
  #shown;

  /** `x` and `y`: lowest and highest value of the axes. */
  constructor(x, y) {
    this.#whole = this.#shown = { x, y };
  }

  /** The point at shares of the window's width, from the left, and of its height, from the top. */
  at(across, down) {
    return this.snap({ x: between(this.#shown.x, across), y: between(this.#shown.y, 1 - down) });
  }

  /** Those shares for a point; outside of 0 to 1 if the window does not show it. */
  place({ x, y }) {
    return { across: part(x, this.#shown.x), down: 1 - part(y, this.#shown.y) };
  }

  /** The nearest point that can be chosen. */
  snap({ x, y }) {
    const nearest = (value, range) => {
      const places = PLACES * this.zoom;
      const place = Math.min(places, Math.max(0, Math.round(part(value, range) * places)));
      return Number(between(range, place / places).toFixed(4));
    };
    return { x: nearest(x, this.#whole.x), y: nearest(y, this.#whole.y) };
  }

  /** The point that is `right` and `up` steps away, of which the window has 40. */
  step({ x, y }, right, up) {
    const width = ([low, high]) => (high - low) / 40;
    return this.snap({ x: x + right * width(this.#shown.x), y: y + up * width(this.#shown.y) });
  }

  /** Show more or less; `point` keeps its place. */
  scale(factor, point) {
    const { across, down } = this.place(point);
    this.zoom = Math.min(MOST_ZOOM, Math.max(1, this.zoom * factor));
    this.#move(point, across, down);
  }

  /** Move the window so that it shows `point`. */
  reveal(point) {
    const { across, down } = this.place(point);
    if (Math.min(across, down) < 0 || Math.max(across, down) > 1) this.#move(point, 0.5, 0.5);
  }

  /** The CSS transform of a picture of the whole plane that fills the window without zoom. */
  get transform() {
    const left = part(this.#whole.x[0], this.#shown.x);
    const top = 1 - part(this.#whole.y[1], this.#shown.y);
    return `translate(${100 * left}%, ${100 * top}%) scale(${this.zoom})`;
  }

  /** Show `point` at those shares of the window, or as near as the plane's borders allow. */
  #move({ x, y }, across, down) {
    const window = (value, share, [low, high]) => {
      const width = (high - low) / this.zoom;
      const first = Math.min(high - width, Math.max(low, value - share * width));
      return [first, first + width];
    };
    this.#shown = { x: window(x, across, this.#whole.x), y: window(y, 1 - down, this.#whole.y) };
  }
}

const part = (value, [low, high]) => (value - low) / (high - low);
const between = ([low, high], share) => low + share * (high - low);
