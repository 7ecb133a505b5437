// A grid of pictures that fills while they are generated.

import { stream } from "./api.js";
import { denoises, isGrey, sampling, shownWidth } from "./card.js";
import { bitmap, h } from "./dom.js";
import { openPicture, tile } from "./picture.js";

const WANTED_TILE = matchMedia("(width < 900px)").matches ? 84 : 112;
/** Previews of each picture. */
const PREVIEWS = 6;

export class Sheet {
  element = h("div", { class: "sheet" });
  #card;
  #slots = [];
  #made = [];

  constructor(card) {
    this.#card = card;
    this.element.style.setProperty("--tile", `${shownWidth(card, WANTED_TILE)}px`);
  }

  /** Generate the pictures of `body` in rows named `rows` (or one row without a name). Throws as `stream`. */
  async fill(body, rows, progress, stop) {
    const total = body.seeds?.length ?? body.n;
    this.#layOut(total, rows);
    const every = denoises(this.#card) ? { preview_every: Math.max(1, Math.ceil(this.#steps(body) / PREVIEWS)) } : {};
    const on = {
      queued: (event) => progress.queued(event),
      started: () => progress.running(0, "Computing"),
      preview: async (event) => this.#preview(event.index, await bitmap(event)),
      image: (picture) => {
        this.#put({ ...picture, alone: !body.image });
        progress.running(this.#pictures.length / total, `${this.#pictures.length} of ${total}`);
      },
    };
    const answer = await stream(`generate/${this.#card.name}`, { ...body, ...every }, on, stop);
    this.element.setAttribute("aria-busy", "false");
    progress.done(total === 1 ? "1 picture" : `${total} pictures`, answer.timings);
    return answer;
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
