// The film view: the denoising steps of one picture, live, and the same seed at several guidance scales.

import { getFile, stream } from "./api.js";
import { guidesClasses, isGrey, sampling } from "./card.js";
import { classNamesOf, group, oneClass, seedField, seedForm, seedOf, sendButton } from "./controls.js";
import { copyLink } from "./copy.js";
import { bitmap, download, enlargement, h, uniqueId } from "./dom.js";
import { Player, paint, screen } from "./player.js";
import { Progress, runner } from "./progress.js";
import { promptControls, sizeControls } from "./prompt.js";
import { samplingControls, samplingFields } from "./sampling.js";
import { note, number, read } from "./state.js";
import { remember } from "./trail.js";

const COMPARED = [1, 3, 5, 7];
const MOST_FRAMES = 50;

export const lede = "From noise to a picture, step by step.";

/** The frames of one picture at one guidance scale, and the canvases that show them, by kind. */
class Film {
  frames = [];
  #screens;

  constructor(scale, screens) {
    this.scale = scale;
    this.#screens = screens;
  }

  /** Show frame `index`, or the latest if it has not arrived. */
  show(index) {
    const frame = this.frames[Math.min(index, this.frames.length - 1)];
    for (const [kind, canvas] of Object.entries(this.#screens)) paint(canvas, frame?.[kind]);
  }
}

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const progress = new Progress();
  const run = runner(progress, signal);
  const noisy = screen(card, 252, "The noisy state");
  const clean = screen(card, 252, "The predicted picture");
  const compared = h("div", { class: "compared" });
  const strip = h("div", { class: "strip", role: "group", "aria-label": "Steps" });
  let films = [];
  const player = new Player({
    label: "Step",
    signal,
    caption: (index) => captionOf(films[0]?.frames[index]),
    show: (index) => {
      films.forEach((film) => film.show(index));
      [...strip.children].forEach((each, at) => each.setAttribute("aria-current", at === index));
    },
  });
  const generate = () =>
    run(async (stop) => {
      films = prepareFilms(card, { noisy, clean, compared });
      strip.replaceChildren();
      await generateFilms(card, films, player, progress, stop);
      strip.replaceChildren(...films[0].frames.map((frame, at) => stripFrame(card, frame, () => player.seek(at))));
      player.seek(films[0].frames.length - 1);
    });
  settings(card, aside, generate);
  const onclick = () => run((stop) => saveFilm(card, progress, stop));
  const gif = h("button", { type: "button", onclick }, "Save as GIF");
  stage.append(
    progress.element,
    progress.failure,
    h(
      "div",
      { class: "projection" },
      h(
        "figure",
        {},
        h("div", { class: "mat" }, noisy),
        h("figcaption", {}, h("i", {}, "x"), h("sub", {}, "t"), " noisy state"),
      ),
      h(
        "figure",
        {},
        h("div", { class: "mat" }, clean),
        h("figcaption", {}, h("i", {}, "x̂"), h("sub", {}, "0"), " predicted picture"),
      ),
      compared,
    ),
    player.element,
    strip,
    h("div", { class: "actions" }, gif, copyLink()),
  );
  generate();
}

function settings(card, aside, generate) {
  const state = read();
  const seed = seedField({ seed: seedOf(state), locked: Boolean(state.lock), on: note });
  aside.append(
    seedForm(
      seed,
      generate,
      promptControls(card, state, generate),
      oneClass(card, state, generate),
      group("Picture", seed),
      sizeControls(card, state),
      samplingControls(card, state),
      guidesClasses(card) && compareBox(state, generate),
      sendButton("Generate"),
    ),
  );
}

function compareBox(state, generate) {
  const id = uniqueId("compare");
  const box = h("input", {
    id,
    type: "checkbox",
    checked: state.compare !== "0",
    onchange: () => {
      note({ compare: box.checked ? null : 0 });
      generate();
    },
  });
  return h("div", { class: "check" }, box, h("label", { for: id }, `Compare guidance ${COMPARED.join(" · ")}`));
}

/** A frame of the strip: the noisy state and the predicted picture. */
function stripFrame(card, frame, onclick) {
  const canvases = ["xt", "x0"].map((kind) => {
    const [, height, width] = card.image_shape;
    const canvas = h("canvas", { width, height, class: isGrey(card) ? "grey" : "" });
    paint(canvas, frame[kind]);
    return canvas;
  });
  return h("button", { type: "button", class: "frame both", "aria-label": captionOf(frame), onclick }, canvases);
}

function captionOf(frame) {
  if (!frame) return "";
  return frame.t === null ? "the picture" : `step ${frame.step} of ${frame.steps} · t ${frame.t.toFixed(2)}`;
}

/** The main film, and one for each guidance scale to compare. */
function prepareFilms(card, { noisy, clean, compared }) {
  const state = read();
  const { guidance } = sampling(card);
  const compares = guidesClasses(card) && state.compare !== "0";
  const scales = COMPARED.filter((scale) => compares && scale >= guidance.least && scale <= guidance.most);
  const screens = scales.map((scale) =>
    screen(card, 112, `The predicted picture at guidance ${scale}`),
  );
  const figures = screens.map((canvas, at) =>
    h("figure", {}, h("div", { class: "mat" }, canvas), h("figcaption", {}, `guidance ${scales[at]}`)),
  );
  compared.replaceChildren(...figures);
  return [
    new Film(number(state.guidance, guidance?.value), { xt: noisy, x0: clean }),
    ...scales.map((scale, at) => new Film(scale, { x0: screens[at] })),
  ];
}

async function generateFilms(card, films, player, progress, stop) {
  const { hash } = location;
  player.pause();
  player.count(0);
  films.forEach((film) => film.show(0));
  const answers = await Promise.all(
    films.map((film, at) => generateFilm(card, film, at ? {} : { player, progress }, stop)),
  );
  player.count(films[0].frames.length, { follow: true });
  progress.done(films.length > 1 ? `${films.length} films` : "1 film", answers[0].timings, answers[0].warnings);
  remember(card, answers[0].images[0], hash);
}

/** The request of one film at guidance `scale`. */
function requestOf(card, state, scale) {
  const [label] = classNamesOf(state, card);
  const fields = samplingFields(card, state);
  const steps = fields.steps ?? sampling(card).steps.value;
  return {
    seed: seedOf(state),
    ...(label !== undefined && { class_label: label }),
    ...fields,
    ...(guidesClasses(card) && { guidance_scale: scale }),
    preview_every: Math.max(1, Math.ceil(steps / MOST_FRAMES)),
    preview_kind: "both",
  };
}

/** Save the film as a GIF. */
async function saveFilm(card, progress, signal) {
  const state = read();
  const body = requestOf(card, state, number(state.guidance, sampling(card).guidance?.value));
  const scale = enlargement(2 * card.image_shape[2]);
  const file = await getFile(`generate/${card.name}`, { body: { ...body, scale, layout: "film" }, accept: "image/gif", signal });
  download(file, `${card.name}-${seedOf(state)}-film.gif`);
  progress.idle("Saved");
}

/** Generate one film, live; only the first one reports progress. */
async function generateFilm(card, film, { player, progress }, stop) {
  const body = requestOf(card, read(), film.scale);
  // Decoding is asynchronous; the chain keeps frames in order.
  let last = Promise.resolve();
  const add = (event) => {
    last = last.then(async () => {
      const pixels = await bitmap(event);
      if (stop.aborted) return; // the player has the frames of a newer request
      let frame = film.frames.find((each) => each.step === event.step);
      if (!frame) film.frames.push((frame = { step: event.step, steps: event.steps, t: event.t }));
      frame[event.kind] = pixels;
      player?.count(film.frames.length, { follow: true });
      if (!player) film.show(Infinity);
    });
  };
  const on = {
    queued: (event) => progress?.queued(event),
    started: () => progress?.running(0, "First step"),
    preview: (event) => {
      add(event);
      progress?.running(event.step / event.steps, `Step ${event.step} of ${event.steps}`);
    },
  };
  const answer = await stream(`generate/${card.name}`, body, on, stop);
  await last;
  const picture = await bitmap(answer.images[0]);
  stop.throwIfAborted();
  const steps = answer.params.steps;
  film.frames.push({ step: steps, steps, t: null, xt: picture, x0: picture });
  return answer;
}
