// The gallery view: seeds as columns, classes as rows.

import { getFile } from "./api.js";
import { denoises, isFine, readsText } from "./card.js";
import {
  classChips,
  classNamesOf,
  classesOf,
  group,
  seedField,
  seedForm,
  seedOf,
  slider,
  sendButton,
} from "./controls.js";
import { copyLink } from "./copy.js";
import { download, h } from "./dom.js";
import { Progress, runner } from "./progress.js";
import { promptControls, sizeControls } from "./prompt.js";
import { samplingControls, samplingFields, truncationControl, truncationField } from "./sampling.js";
import { Sheet } from "./sheet.js";
import { note, number, read } from "./state.js";

/** Default number of pictures: in all, and for each selected class. */
const PICTURES = 24;
const OF_EACH = 8;
/** Of a prompt; a large picture takes seconds. */
const OF_PROMPT = 16;
const LARGE_OF_PROMPT = 2;

export const lede = "Each picture has a seed; the same seed gives the same picture.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const progress = new Progress();
  const run = runner(progress, signal);
  const sheet = new Sheet(card);
  const files = h("div", { class: "actions", hidden: true });
  const save = (params, accept, ending) =>
    run(async (stop) => {
      const file = await getFile(`generate/${card.name}`, { body: params, accept, signal: stop });
      download(file, `${card.name}.${ending}`);
      progress.idle();
    });
  const generate = () =>
    run(async (stop) => {
      files.hidden = true;
      const state = read();
      const rows = classNamesOf(state, card);
      const { params } = await sheet.fill(requestOf(state, card), rows, progress, stop);
      offerFiles(files, (accept, ending) => save(params, accept, ending));
    });
  settings(card, aside, generate);
  stage.append(progress.element, progress.failure, sheet.element, files);
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
      classChips({
        names: card.class_names,
        selected: classesOf(state, card),
        several: true,
        on: (found) => {
          note({ classes: found.join(",") });
          generate();
        },
      }),
      group(
        "Pictures",
        slider({ label: "How many", min: 1, max: card.limits.n, value: countOf(state, card), on: (n) => note({ n }) }),
        seed,
      ),
      sizeControls(card, state),
      denoises(card) ? samplingControls(card, state) : truncationControl(card, state),
      sendButton("Generate"),
    ),
  );
}

/** Number of pictures: of each selected class, or in all. */
function countOf(state, card) {
  const classes = classesOf(state, card).length;
  const usual = readsText(card) ? (isFine(card) ? LARGE_OF_PROMPT : OF_PROMPT) : classes ? OF_EACH : PICTURES;
  return Math.min(number(state.n, usual), Math.floor(card.limits.n / Math.max(1, classes)));
}

/** The request for `state`: one row for each class, the same seeds in every row. */
function requestOf(state, card) {
  const classes = classNamesOf(state, card);
  const n = countOf(state, card);
  const seed = seedOf(state);
  const extra = denoises(card) ? samplingFields(card, state) : truncationField(card, state);
  if (!classes.length) return { n, seed, ...extra };
  if (classes.length === 1) return { n, seed, class_label: classes[0], ...extra };
  const seeds = Array.from({ length: n }, (_, index) => (seed + index) % 2 ** 32);
  return {
    seeds: classes.flatMap(() => seeds),
    class_label: classes.flatMap((each) => seeds.map(() => each)),
    ...extra,
  };
}

function offerFiles(files, save) {
  const button = (text, accept) =>
    h("button", { type: "button", class: "quiet", onclick: () => save(accept, text.toLowerCase()) }, text);
  files.replaceChildren(
    h("span", { class: "hint" }, "Save all as"),
    button("PNG", "image/png"),
    button("WebP", "image/webp"),
    button("npy", "application/x-npy"),
    button("zip", "application/zip"),
    copyLink(),
    h("p", { class: "hint" }, "Drop or paste a PNG of this service on the page to restore its settings."),
  );
  files.hidden = false;
}
