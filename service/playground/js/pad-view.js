// A view that generates from what is on the pad; Draw and Sketch differ in what the picture means.

import { denoises } from "./card.js";
import { classChips, classesOf, group, seedField, seedForm, seedOf, sendButton, slider } from "./controls.js";
import { h } from "./dom.js";
import { takeHeld } from "./held.js";
import { Progress, runner } from "./progress.js";
import { promptControls, sizeControls, sizeOf } from "./prompt.js";
import { samplingControls } from "./sampling.js";
import { Sheet } from "./sheet.js";
import { note, number, read } from "./state.js";
import { workbench } from "./workbench.js";

const VARIANTS = 4;
const MOST_VARIANTS = 16;

/**
 * Build the view. `kind` is what sets it apart: the options of `workbench` for its pad, `place(pad, held,
 * open)`, which puts a picture of another view on the pad and returns whether there was one, `controls(card, state)` and
 * `fields(card, state, pad)` of the request, and `hint` at the classes.
 */
export function mountPad({ card, stage, aside, signal }, kind) {
  const size = sizeOf(card, read());
  const { pad, open, element } = workbench(card, { size, signal, ...kind });
  const progress = new Progress();
  const run = runner(progress, signal);
  const sheet = new Sheet(card);
  const nothing = h("p", { class: "hint empty-note" }, "Nothing drawn yet. Draw on the pad, then generate.");
  const make = () => {
    if (!pad.image) return pad.element.focus();
    nothing.hidden = true;
    return run((stop) => sheet.fill(requestOf(card, pad, kind), [], progress, stop));
  };
  settings(card, aside, make, kind, pad);
  stage.append(element, progress.element, progress.failure, nothing, sheet.element);
  kind.place(pad, takeHeld(), open).then((placed) => placed && make());
}

function requestOf(card, pad, kind) {
  const state = read();
  return { n: number(state.n, VARIANTS), seed: seedOf(state), ...kind.fields(card, state, pad) };
}

function settings(card, aside, make, { controls, hint }, pad) {
  const state = read();
  const seed = seedField({ seed: seedOf(state), locked: Boolean(state.lock), on: note });
  const count = slider({
    label: "How many",
    min: 1,
    max: Math.min(MOST_VARIANTS, card.limits.n),
    value: number(state.n, VARIANTS),
    on: (n) => note({ n }),
  });
  const resize = () => {
    const { width, height } = sizeOf(card, read());
    pad.resize(width, height);
  };
  const classes = classChips({
    names: card.class_names,
    selected: classesOf(state, card).slice(0, 1),
    several: false,
    hint,
    on: ([found]) => {
      note({ classes: found });
      if (pad.image) make();
    },
  });
  aside.append(
    seedForm(
      seed,
      make,
      promptControls(card, state, () => pad.image && make()),
      classes,
      controls(card, state),
      group("Pictures", count, seed),
      sizeControls(card, state, resize),
      denoises(card) && samplingControls(card, state),
      sendButton("Generate"),
    ),
  );
}
