// A grid of pictures that fills while they are generated.

import { stream } from "./api.js";
import { denoises, isGrey, sampling, shownWidth } from "./card.js";
import { bitmap, h } from "./dom.js";
import { openPicture, tile } from "./picture.js";
import { sizeOf } from "./prompt.js";
import { remember } from "./trail.js";

const WANTED_TILE = matchMedia("(width < 900px)").matches ? 84 : 112;
/** Previews of each picture. */
const PREVIEWS = 6;

export class Sheet {
  element = h("div", { class: "sheet" });
  #card;
  #slots = [];
  #made = [];
  /** Share of its steps that each picture has taken. */
  #shares = [];

  constructor(card) {
    this.#card = card;
  }

  /** Generate the pictures of `body` in rows named `rows` (or one row without a name). Throws as `stream`. */
  async fill(body, rows, progress, stop) {
    const total = body.seeds?.length ?? body.n;
    this.#shape(sizeOf(this.#card, body));
    const slots = this.#layOut(total, rows);
    const every = denoises(this.#card) ? { preview_every: Math.max(1, Math.ceil(this.#steps(body) / PREVIEWS)) } : {};
    const { hash } = location;
    const alone = !body.image && !body.control_image;
    const report = (index, share) => {
      this.#shares[index] = share;
      progress.running(this.#shares.reduce((sum, each) => sum + each) / total, `${this.#pictures.length} of ${total}`);
    };
    const on = {
      queued: (event) => progress.queued(event),
      started: () => progress.running(0, "Computing"),
      preview: async (event) => {
        report(event.index, event.step / event.steps);
        const pixels = await bitmap(event);
        if (slots === this.#slots) this.#preview(event.index, pixels);
      },
      image: (picture) => {
        this.#put({ ...picture, alone, prompt: body.prompt });
        report(picture.index, 1);
      },
    };
    try {
      const answer = await stream(`generate/${this.#card.name}`, { ...body, ...every }, on, stop);
      progress.done(total === 1 ? "1 picture" : `${total} pictures`, answer.timings, answer.warnings);
      if (alone) remember(this.#card, { ...answer.images[0], prompt: body.prompt }, hash);
      return answer;
    } finally {
      if (slots === this.#slots) this.#finish(); // else a newer request has the sheet
    }
  }

  #shape({ width, height }) {
    this.element.style.setProperty("--tile", `${shownWidth(width, WANTED_TILE)}px`);
    this.element.style.setProperty("--aspect", `${width} / ${height}`);
  }

  get #pictures() {
    return this.#made.filter(Boolean);
  }

  #steps(body) {
    return body.steps ?? sampling(this.#card).steps.value;
  }

  #layOut(total, rows) {
    const tone = isGrey(this.#card) ? "grey" : "";
    this.#made = [];
    this.#shares = new Array(total).fill(0);
    this.#slots = Array.from({ length: total }, () => h("div", { class: `tile slot ${tone}` }));
    const columns = rows.length ? total / rows.length : total;
    const sections = (rows.length ? rows : [null]).map((name, row) =>
      h(
        "section",
        { class: "sheet-row" },
        name && h("h2", {}, name),
        h("div", { class: "tiles" }, this.#slots.slice(row * columns, (row + 1) * columns)),
      ),
    );
    this.element.setAttribute("aria-busy", "true");
    this.element.replaceChildren(...sections);
    return this.#slots;
  }

  /** Remove the places of pictures that did not come. */
  #finish() {
    this.element.setAttribute("aria-busy", "false");
    for (const slot of this.element.querySelectorAll(".slot")) slot.remove();
    for (const row of this.element.querySelectorAll(".sheet-row:not(:has(.tile))")) row.remove();
  }

  /** Show a preview in the slot of its picture. */
  #preview(index, pixels) {
    const slot = this.#slots[index];
    if (!slot.classList.contains("slot")) return;
    let canvas = slot.querySelector("canvas");
    if (!canvas) slot.append((canvas = h("canvas", { width: pixels.width, height: pixels.height })));
    canvas.getContext("2d").drawImage(pixels, 0, 0);
  }

  #put(picture) {
    this.#made[picture.index] = picture;
    const open = () => openPicture(this.#pictures, this.#pictures.indexOf(picture), this.#card);
    const shown = tile(picture, open, isGrey(this.#card));
    this.#slots[picture.index].replaceWith(shown);
    this.#slots[picture.index] = shown;
  }
}
