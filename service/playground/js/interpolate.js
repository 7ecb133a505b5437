// The interpolate view: a path between two pictures; one request returns all frames.

import { getFile, stream } from "./api.js";
import { bars } from "./chart.js";
import { denoises, isGrey, readsText, sampling } from "./card.js";
import { choice, classNamesOf, group, oneClass, sendButton, slider } from "./controls.js";
import { copyLink } from "./copy.js";
import { bitmap, dataUrl, download, enlargement, h } from "./dom.js";
import { End, swap, viaField } from "./ends.js";
import { takeHeld } from "./held.js";
import { pointsOf, promptsOfPath } from "./path-prompts.js";
import { Player, paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { sizeControls } from "./prompt.js";
import { samplingControls, samplingFields } from "./sampling.js";
import { anySeed, change, note, number, read } from "./state.js";
import { remember } from "./trail.js";

const FRAMES = 24;
/** Previews of each frame. */
const PREVIEWS = 3;
const METHODS = ["auto", "linear", "slerp"];
const WAYS = ["there and back", "once"];

export const lede = "A path between two pictures. Move the slider or press Play.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  begin(card, read());
  const progress = new Progress();
  const run = runner(progress, signal);
  const canvas = screen(card, 336, "The current frame");
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
  const held = takeHeld();
  for (const name of ["from", "to"]) if (held[name]) ends[name].set(held[name]);
  settings(card, aside, ends, walk);
  const save = (text, accept, ending) => {
    const onclick = () => run((stop) => saveFilm(card, ends, { accept, ending }, progress, stop));
    return h("button", { type: "button", onclick }, text);
  };
  stage.append(
    progress.element,
    progress.failure,
    h("div", { class: "walk" }, ends.from.figure, h("div", { class: "mat" }, canvas), ends.to.figure),
    player.element,
    curve,
    strip,
    h(
      "div",
      { class: "actions" },
      save("Save as GIF", "image/gif", "gif"),
      save("Save as PNG strip", "image/png", "png"),
      copyLink(),
    ),
  );
  walk();
}

/** Complete the end points in the state. Between two prompts the noise stays the same: they make the difference. */
function begin(card, state) {
  const fresh = !state.from && !state.to;
  const prompt = state.to_prompt ?? (fresh && readsText(card) ? card.examples.find((each) => each !== state.prompt) : null);
  const from = state.from ?? state.seed ?? anySeed();
  note({ from, to: state.to ?? (prompt ? from : anySeed()), to_prompt: prompt });
}

function settings(card, aside, ends, walk) {
  const state = read();
  const prompts = promptsOfPath(card, state, walk);
  const submit = (event) => {
    event.preventDefault();
    change({}, { quiet: true });
    walk();
  };
  aside.append(
    h(
      "form",
      { onsubmit: submit },
      prompts,
      group("End points", ends.from.field, viaField(state), ends.to.field, swap(ends, prompts, walk)),
      oneClass(card, state, walk),
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
      sizeControls(card, state),
      denoises(card) && samplingControls(card, state, { task: "interpolate" }),
      sendButton("Generate"),
    ),
  );
}

/** The request for `state` and the end points. */
function requestOf(state, card, ends) {
  const [label] = classNamesOf(state, card);
  const points = pointsOf(card, state, ends);
  return {
    model: card.name,
    ...(points.length > 2 ? { points } : { from: points[0], to: points[1] }),
    frames: Math.min(Math.max(number(state.frames, FRAMES), points.length), card.limits.frames),
    ...(label !== undefined && { class_label: label }),
    ...(METHODS.includes(state.method) && { method: state.method }),
    ...(denoises(card) ? samplingFields(card, state, "interpolate") : {}),
  };
}

async function fill({ card, frames, strip, curve, ends, player, progress }, stop) {
  const { hash } = location;
  const body = requestOf(read(), card, ends);
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
  const shares = new Array(body.frames).fill(0);
  const put = (picture, share) => {
    slots[picture.index].replaceChildren(h("img", { src: dataUrl(picture), alt: "" }));
    shares[picture.index] = share;
    const done = shares.filter((each) => each === 1).length;
    progress.running(shares.reduce((sum, each) => sum + each) / body.frames, `${done} of ${body.frames}`);
  };
  const on = {
    queued: (event) => progress.queued(event),
    started: () => progress.running(0, "Computing"),
    preview: (event) => put(event, Math.min(0.99, event.step / event.steps)),
    image: (picture) => put(picture, 1),
  };
  const answer = await stream("interpolate", { ...body, ...previews(card, body) }, on, stop);
  const pictures = await Promise.all(answer.images.map(bitmap));
  stop.throwIfAborted(); // a newer request has the player
  frames.splice(0, Infinity, ...pictures);
  ends.from.show(answer.images[0]);
  ends.to.show(answer.images.at(-1));
  drawCurve(curve, answer.path);
  progress.done(`${frames.length} frames`, answer.timings, answer.warnings);
  if (!ends.from.picture && !ends.to.picture) remember(card, answer.images[0], hash);
  player.count(frames.length);
  player.autoplay();
}

function previews(card, body) {
  if (!denoises(card)) return {};
  const steps = body.steps ?? sampling(card, "interpolate").steps.value;
  return { preview_every: Math.max(1, Math.ceil(steps / PREVIEWS)) };
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

async function saveFilm(card, ends, { accept, ending }, progress, stop) {
  const scale = accept === "image/gif" ? enlargement(card.image_shape[2]) : 1;
  const body = { ...requestOf(read(), card, ends), scale, ...(accept === "image/gif" && { loop: !read().once }) };
  download(await getFile("interpolate", { body, accept, signal: stop }), `${card.name}-walk.${ending}`);
  progress.idle("Saved");
}
