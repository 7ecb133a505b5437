// The interpolate view: a path between two pictures; one request returns all frames.

import { getFile, stream } from "./api.js";
import { bars } from "./chart.js";
import { can, denoises, isGrey, shownWidth } from "./card.js";
import {
  classChips,
  classNamesOf,
  classesOf,
  group,
  samplingControls,
  samplingFields,
  choice,
  slider,
  sendButton,
} from "./controls.js";
import { asUpload, bitmap, dataUrl, download, h, uniqueId } from "./dom.js";
import { Player, paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { anySeed, change, note, number, read } from "./state.js";

const FRAMES = 24;
const METHODS = ["auto", "linear", "slerp"];
const WAYS = ["there and back", "once"];
/** Uploaded pictures that replace the seeds of end points, as data URLs: too long for the address. */
const uploads = { from: null, to: null };

export const lede = "A path between two pictures. Move the slider or press Play.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const state = read();
  if (!state.from || !state.to) note({ from: state.from ?? state.seed ?? anySeed(), to: state.to ?? anySeed() });
  const progress = new Progress();
  const run = runner(progress, signal);
  const canvas = screen(card, shownWidth(card, 336), "The current frame");
  const strip = h("div", { class: "strip", role: "group", "aria-label": "Frames" });
  const curve = h("div", { class: "curve" });
  const frames = [];
  const player = new Player({
    label: "Frame",
    caption: (index) => `${index + 1} / ${frames.length}`,
    bounce: () => read().once !== "1",
    signal,
    show: (index) => {
      paint(canvas, frames[index]);
      curve.firstElementChild?.mark(index);
      [...strip.children].forEach((each, at) => each.setAttribute("aria-current", at === index));
    },
  });
  const walk = () => run((stop) => fill({ card, frames, strip, curve, ends, player, progress }, stop));
  const ends = { from: new End(card, "from", "From", walk), to: new End(card, "to", "To", walk) };
  settings(card, aside, ends, walk);
  const gif = h("button", { type: "button", onclick: () => run(() => saveGif(card, progress)) }, "Save as GIF");
  stage.append(
    progress.element,
    progress.failure,
    h("div", { class: "walk" }, ends.from.figure, h("div", { class: "mat" }, canvas), ends.to.figure),
    player.element,
    curve,
    strip,
    h("div", { class: "actions" }, gif),
  );
  walk();
}

function settings(card, aside, ends, walk) {
  const state = read();
  const submit = (event) => {
    event.preventDefault();
    change({}, { quiet: true });
    walk();
  };
  aside.append(
    h(
      "form",
      { onsubmit: submit },
      group("End points", ends.from.field, ends.to.field, swap()),
      classChips({
        names: card.class_names,
        selected: classesOf(state, card).slice(0, 1),
        several: false,
        on: ([found]) => note({ classes: found }),
      }),
      group(
        "Path",
        slider({
          label: "Frames",
          min: 3,
          max: card.limits.frames,
          value: number(state.frames, FRAMES),
          on: (frames) => note({ frames }),
        }),
        choice({
          label: "Method",
          choices: METHODS,
          value: state.method ?? METHODS[0],
          on: (method) => note({ method }),
        }),
        choice({
          label: "Play",
          choices: WAYS,
          value: WAYS[state.once ? 1 : 0],
          on: (way) => note({ once: way === WAYS[1] ? 1 : null }),
        }),
      ),
      denoises(card) && samplingControls(card, state, { task: "interpolate" }),
      sendButton("Generate"),
    ),
  );
}

const swap = () => {
  const onclick = () => {
    [uploads.from, uploads.to] = [uploads.to, uploads.from];
    const { from, to } = read();
    change({ from: to, to: from });
  };
  return h("button", { type: "button", class: "quiet", onclick }, "Swap");
};

/** One end point: a seed, or an uploaded picture if the model supports it. */
class End {
  #image;
  #input;
  #name;
  #walk;

  constructor(card, name, title, walk) {
    const id = uniqueId(name);
    this.#name = name;
    this.#walk = walk;
    this.#image = h("img", { alt: "", class: isGrey(card) ? "grey" : "", hidden: true });
    this.#input = h("input", {
      id,
      type: "number",
      min: 0,
      max: 2 ** 32 - 1,
      value: read()[name],
      oninput: () => this.#take(),
    });
    this.field = h("div", { class: "field" }, h("label", { for: id }, `${title} seed`), this.#input);
    const another = h("button", { type: "button", class: "quiet", onclick: () => this.#another() }, "New seed");
    const takesPictures = can(card, "variations") || can(card, "invert");
    this.figure = h(
      "figure",
      { class: "end" },
      h("div", { class: "mat small" }, this.#image),
      h("figcaption", {}, title),
      another,
      takesPictures && this.#fileButton(title),
    );
    if (takesPictures) this.figure.addEventListener("drop", (event) => this.#dropped(event));
  }

  /** Show `picture` as this end point. */
  show(picture) {
    this.#image.src = dataUrl(picture);
    this.#image.alt = `End point: ${picture.class_label ?? "no class"}`;
    this.#image.hidden = false;
  }

  #take() {
    uploads[this.#name] = null;
    note({ [this.#name]: number(this.#input.value, 0) });
  }

  #another() {
    this.#input.value = anySeed();
    this.#take();
    this.#walk();
  }

  #fileButton(title) {
    const file = h("input", {
      type: "file",
      accept: "image/png,image/jpeg,image/webp",
      class: "unseen",
      "aria-label": `${title}: upload a picture`,
    });
    file.addEventListener("change", () => file.files[0] && this.#upload(file.files[0]));
    return h("label", { class: "quiet button" }, file, "Upload");
  }

  #dropped(event) {
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) this.#upload(file);
  }

  async #upload(file) {
    uploads[this.#name] = await asUpload(file);
    this.#walk();
  }
}

/** The request for `state`. */
export function requestOf(state, card) {
  const [label] = classNamesOf(state, card);
  const end = (name) => (uploads[name] ? { image: uploads[name] } : { seed: number(state[name], 0) });
  return {
    model: card.name,
    from: end("from"),
    to: end("to"),
    frames: Math.min(number(state.frames, FRAMES), card.limits.frames),
    ...(label !== undefined && { class_label: label }),
    ...(METHODS.includes(state.method) && { method: state.method }),
    ...(denoises(card) ? samplingFields(card, state, "interpolate") : {}),
  };
}

async function fill({ card, frames, strip, curve, ends, player, progress }, stop) {
  const body = requestOf(read(), card);
  player.pause();
  const slots = Array.from({ length: body.frames }, (_, index) =>
    h("button", {
      type: "button",
      class: `frame ${isGrey(card) ? "grey" : ""}`,
      "aria-label": `Frame ${index + 1}`,
      onclick: () => {
        player.pause();
        player.seek(index);
      },
    }),
  );
  strip.replaceChildren(...slots);
  let done = 0;
  const on = {
    queued: (event) => progress.queued(event),
    started: () => progress.running(0, "Computing"),
    image: (picture) => {
      slots[picture.index].replaceChildren(h("img", { src: dataUrl(picture), alt: "" }));
      progress.running(++done / body.frames, `${done} of ${body.frames}`);
    },
  };
  const answer = await stream("interpolate", { ...body, preview_every: denoises(card) ? 0 : undefined }, on, stop);
  frames.splice(0, Infinity, ...(await Promise.all(answer.images.map(bitmap))));
  ends.from.show(answer.images[0]);
  ends.to.show(answer.images.at(-1));
  drawCurve(curve, answer.path);
  progress.done(`${frames.length} frames`, answer.timings);
  player.count(frames.length);
  player.autoplay();
}

function drawCurve(curve, path) {
  curve.replaceChildren();
  if (!path) return;
  const chart = bars(path.step_distance, "Difference of each frame from the one before");
  const psnr = (path.endpoint_psnr ?? []).filter((value) => value !== null);
  const note = psnr.length
    ? ` Reconstruction of the end points: ${psnr.map((value) => `${value.toFixed(1)} dB`).join(" and ")}.`
    : "";
  curve.append(chart, h("p", { class: "hint" }, `Difference of each frame from the one before.${note}`));
}

async function saveGif(card, progress) {
  const body = requestOf(read(), card);
  download(
    await getFile("interpolate", { body: { ...body, scale: 8, loop: !read().once }, accept: "image/gif" }),
    `${card.name}-walk.gif`,
  );
  progress.idle("Saved");
}
