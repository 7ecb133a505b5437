// The walk between two pictures, all frames fetched by one request.

import { getFile, stream } from "./api.js";
import { bars } from "./chart.js";
import { can, denoises, isGrey, shownWidth } from "./card.js";
import { classChips, classesOf, group, samplingControls, samplingFields, segmented, slider, sendButton } from "./controls.js";
import { bitmap, dataUrl, download, h, uniqueId } from "./dom.js";
import { Player, paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { anySeed, change, note, number, read } from "./state.js";

const FRAMES = 24;
const METHODS = ["auto", "linear", "slerp"];
/** Pictures that were put at the ends in place of seeds, as base64. */
const uploads = { from: null, to: null };

export const lede = "Two pictures, and everything in between. Drag the slider, or let it run.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const state = read();
  if (!state.from || !state.to) note({ from: state.from ?? state.seed ?? anySeed(), to: state.to ?? anySeed() });
  const progress = new Progress();
  const run = runner(progress, signal);
  const canvas = screen(card, shownWidth(card, 336), "The frame that the slider is at");
  const ends = { from: endFigure(card, "From"), to: endFigure(card, "To") };
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
      curve.firstElementChild?.mark?.(Math.min(index, frames.length - 2));
      [...strip.children].forEach((each, at) => each.setAttribute("aria-current", at === index));
    },
  });
  const walk = () => run((stop) => fill({ card, frames, strip, curve, ends, player, progress, canvas }, stop));
  settings(card, aside, walk);
  const gif = h("button", { type: "button", onclick: () => run(() => saveGif(card, progress)) }, "Save as GIF");
  stage.append(
    progress.element,
    progress.failure,
    h("div", { class: "walk" }, ends.from, h("div", { class: "mat" }, canvas), ends.to),
    player.element,
    curve,
    strip,
    h("div", { class: "actions" }, gif),
  );
  walk();
}

function settings(card, aside, walk) {
  const state = read();
  const submit = (event) => {
    event.preventDefault();
    change({}, { quiet: true });
    walk();
  };
  aside.append(
    h("form", { onsubmit: submit },
      group("Ends", endField(card, "from", "From seed", walk), endField(card, "to", "To seed", walk), swap()),
      classChips({ names: card.class_names, selected: classesOf(state, card).slice(0, 1), several: false, on: ([found]) => note({ classes: found }) }),
      group(
        "Path",
        slider({ label: "Frames", min: 3, max: card.limits.frames, value: number(state.frames, FRAMES), on: (frames) => note({ frames }) }),
        segmented({ label: "Method", choices: METHODS, value: state.method ?? "auto", on: (method) => note({ method }) }),
        segmented({ label: "Play", choices: ["there and back", "once"], value: state.once ? "once" : "there and back", on: (way) => note({ once: way === "once" ? 1 : null }) }),
      ),
      denoises(card) && samplingControls(card, state, { task: "interpolate" }),
      sendButton("Walk"),
    ),
  );
}

/** A seed, or where the model can encode a picture, a file. */
function endField(card, end, label, walk) {
  const id = uniqueId(end);
  const input = h("input", { id, type: "number", min: 0, max: 2 ** 32 - 1, value: read()[end], oninput: () => take(number(input.value, 0)) });
  const take = (seed) => {
    uploads[end] = null;
    note({ [end]: seed });
  };
  const other = () => {
    input.value = anySeed();
    take(number(input.value));
    walk();
  };
  const file = h("input", { type: "file", accept: "image/png,image/jpeg,image/webp", class: "unseen", "aria-label": `${label}: a picture instead`, onchange: () => upload(file.files[0], end, walk) });
  return h("div", { class: "field seed" }, h("label", { for: id }, label), h("div", { class: "row" }, input,
    h("button", { type: "button", class: "quiet", onclick: other }, "Another"),
    takesPictures(card) && h("label", { class: "quiet button" }, file, "File")));
}

const takesPictures = (card) => can(card, "encode") || can(card, "invert");

async function upload(file, end, walk) {
  if (!file) return;
  const bytes = new Uint8Array(await file.arrayBuffer());
  uploads[end] = btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));
  walk();
}

const swap = () =>
  h("button", { type: "button", class: "quiet", onclick: () => {
    [uploads.from, uploads.to] = [uploads.to, uploads.from];
    const { from, to } = read();
    change({ from: to, to: from });
  } }, "Swap the ends");

function endFigure(card, name) {
  const image = h("img", { alt: "", class: isGrey(card) ? "grey" : "", hidden: true });
  return h("figure", { class: "end" }, h("div", { class: "mat small" }, image), h("figcaption", {}, name));
}

/** The request that the state describes. */
export function requestOf(state, card) {
  const [label] = classesOf(state, card);
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

async function fill({ card, frames, strip, curve, ends, player, progress, canvas }, stop) {
  const body = requestOf(read(), card);
  player.pause();
  const slots = Array.from({ length: body.frames }, (_, index) =>
    h("button", { type: "button", class: `frame ${isGrey(card) ? "grey" : ""}`, "aria-label": `Frame ${index + 1}`, onclick: () => { player.pause(); player.seek(index); } }));
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
  const answer = await stream("/interpolate", { ...body, preview_every: denoises(card) ? 0 : undefined }, on, stop);
  frames.splice(0, Infinity, ...(await Promise.all(answer.images.map(bitmap))));
  [ends.from, ends.to].forEach((end, at) => {
    const image = end.querySelector("img");
    image.src = dataUrl(answer.images.at(-at));
    image.alt = at ? "The last frame" : "The first frame";
    image.hidden = false;
  });
  canvas.dataset.frames = frames.length;
  drawCurve(curve, answer.path);
  progress.done(`${frames.length} frames`, answer.timings);
  player.count(frames.length);
  player.autoplay();
}

function drawCurve(curve, path) {
  curve.replaceChildren();
  if (!path) return;
  const chart = bars(path.step_distance, "How far each frame is from the one before");
  const psnr = (path.endpoint_psnr ?? []).filter((value) => value !== null);
  const note = psnr.length ? ` The ends are given back with ${psnr.map((value) => `${value.toFixed(1)} dB`).join(" and ")}.` : "";
  curve.append(chart, h("p", { class: "hint" }, `How far each frame is from the one before it.${note}`));
}

async function saveGif(card, progress) {
  const body = requestOf(read(), card);
  download(await getFile("/interpolate", { body: { ...body, scale: 8 }, accept: "image/gif" }), `${card.name}-walk.gif`);
  progress.idle("Saved");
}
