// The points of a path: the end points, each a seed or an uploaded picture, and the seeds between them.

import { can, isGrey } from "./card.js";
import { dataUrl, h, uniqueId } from "./dom.js";
import { fitFile } from "./fit-dialog.js";
import { attempt } from "./notice.js";
import { anySeed, change, note, number, read } from "./state.js";
import { fileButton } from "./workbench.js";

/** A path has at most 8 points. */
export const MOST_VIA = 6;

/** A button that exchanges the end points and walks the new path. `prompts`: the fields of `promptsOfPath`, if any. */
export function swap(ends, prompts, walk) {
  const onclick = () => {
    const { from, to } = read();
    const pictures = [ends.from.picture, ends.to.picture];
    change({ from: to, to: from }, { quiet: true });
    ends.from.set(pictures[1]);
    ends.to.set(pictures[0]);
    prompts?.swap();
    walk();
  };
  return h("button", { type: "button", class: "quiet", onclick }, "Swap");
}

/** One end point: a seed, or an uploaded picture, which replaces the seed until it is removed. */
export class End {
  #image = h("img", { alt: "", hidden: true });
  #input;
  #name;
  #walk;
  #picture = null;
  #seed;
  #uploaded;

  constructor(card, name, title, walk) {
    const id = uniqueId(name);
    this.#name = name;
    this.#walk = walk;
    if (isGrey(card)) this.#image.className = "grey";
    const value = read()[name];
    const oninput = () => note({ [name]: number(this.#input.value, 0) });
    this.#input = h("input", { id, type: "number", min: 0, max: 2 ** 32 - 1, value, oninput });
    this.#seed = h("div", { class: "field" }, h("label", { for: id }, `${title} seed`), this.#input);
    this.#uploaded = h(
      "div",
      { class: "field", hidden: true },
      h("span", { class: "hint" }, `${title}: uploaded picture`),
      h("button", { type: "button", onclick: () => this.#remove() }, "Remove"),
    );
    this.field = h("div", {}, this.#seed, this.#uploaded);
    this.figure = h(
      "figure",
      { class: "end" },
      h("div", { class: "mat small" }, this.#image),
      h("figcaption", {}, title),
      h("button", { type: "button", class: "quiet", onclick: () => this.#another() }, "New seed"),
    );
    if (can(card, "variations") || can(card, "invert")) this.#takeFiles(card, title);
  }

  /** The point in a request. */
  get point() {
    return this.#picture ? { image: this.#picture } : { seed: number(this.#input.value, 0) };
  }

  /** The uploaded picture as a data URL, or null. */
  get picture() {
    return this.#picture;
  }

  /** Replace the point: a picture as a data URL, or null for the seed in the state. */
  set(picture) {
    this.#picture = picture;
    this.#input.value = read()[this.#name];
    this.#seed.hidden = Boolean(picture);
    this.#uploaded.hidden = !picture;
  }

  /** Show `picture` of an answer as this end point. */
  show(picture) {
    this.#image.src = dataUrl(picture);
    this.#image.alt = `End point: ${picture.class_label ?? "no class"}`;
    this.#image.hidden = false;
  }

  #remove() {
    this.set(null);
    this.#input.focus();
    this.#walk();
  }

  #another() {
    note({ [this.#name]: anySeed() });
    this.set(null);
    this.#walk();
  }

  #takeFiles(card, title) {
    const [, height, width] = card.image_shape;
    const open = (file) =>
      attempt(async () => {
        const picture = await fitFile(file, card, { width, height });
        if (!picture) return;
        this.set(picture.toDataURL());
        this.#walk();
      });
    this.figure.append(fileButton("Upload", open, `${title}: upload a picture`));
    this.figure.addEventListener("drop", (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) open(file);
    });
  }
}

/** Seeds between the end points, in the state as a list with commas. */
export const viaOf = (state) =>
  (state.via ?? "")
    .split(/[\s,]+/)
    .filter((text) => /^\d+$/.test(text) && Number(text) < 2 ** 32)
    .map(Number)
    .slice(0, MOST_VIA);

/** A field for those seeds. */
export function viaField(state) {
  const id = uniqueId("via");
  const oninput = () => note({ via: viaOf({ via: input.value }).join(",") });
  const input = h("input", { id, type: "text", inputMode: "numeric", placeholder: "none", value: state.via ?? "", oninput });
  return h("div", { class: "field" }, h("label", { for: id }, "Via seeds"), input);
}
