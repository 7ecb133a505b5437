// The draw view: image to image, variations and inpainting from a drawing or a file.

import { can, denoises, fieldsOf, isGrey, shownWidth } from "./card.js";
import {
  classChips,
  classNamesOf,
  classesOf,
  group,
  promptControls,
  samplingControls,
  samplingFields,
  seedField,
  seedForm,
  seedOf,
  choice,
  slider,
  sendButton,
} from "./controls.js";
import { h } from "./dom.js";
import { takeImage } from "./held.js";
import { Pad } from "./pad.js";
import { Progress, runner } from "./progress.js";
import { Sheet } from "./sheet.js";
import { note, number, read } from "./state.js";

const VARIANTS = 4;
const STRENGTH = 0.6;

export const lede = "Draw or open a picture; the model generates new ones from it.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. */
export function mount({ card, stage, aside, signal }) {
  const [, height, width] = card.image_shape;
  const pad = new Pad(width, height, shownWidth(card, 308), isGrey(card));
  const progress = new Progress();
  const run = runner(progress, signal);
  const sheet = new Sheet(card);
  const nothing = h("p", { class: "hint empty-note" }, "Nothing drawn yet. Draw on the pad, then generate.");
  const make = () => {
    if (!pad.image) return pad.element.focus();
    nothing.hidden = true;
    return run((stop) => sheet.fill(requestOf(read(), card, pad), [], progress, stop));
  };
  settings(card, aside, make);
  stage.append(
    h(
      "div",
      { class: "workbench" },
      h("div", { class: "mat" }, pad.element),
      h("div", { class: "tools" }, tools(card, pad)),
    ),
    progress.element,
    progress.failure,
    nothing,
    sheet.element,
  );
  const kept = takeImage();
  if (kept) place(kept, pad).then(make);
  takeFiles(pad, signal);
}

/** The request that the state and the pad describe. */
function requestOf(state, card, pad) {
  const [label] = classNamesOf(state, card);
  const mask = can(card, "inpaint") ? pad.mask : null;
  return {
    n: VARIANTS,
    seed: seedOf(state),
    image: pad.image,
    ...(mask && { mask }),
    ...(label !== undefined && { class_label: label }),
    ...(denoises(card) && { strength: number(state.strength, STRENGTH), ...samplingFields(card, state) }),
    ...(state.spread && "spread" in fieldsOf(card, "generate") && { spread: number(state.spread) }),
  };
}

function settings(card, aside, make) {
  const state = read();
  const seed = seedField({ seed: seedOf(state), locked: Boolean(state.lock), on: note });
  aside.append(
    seedForm(
      seed,
      make,
      promptControls(card, state),
      classChips({
        names: card.class_names,
        selected: classesOf(state, card).slice(0, 1),
        several: false,
        hint: "None selected: no class.",
        on: ([found]) => note({ classes: found }),
      }),
      changeControl(card, state),
      group("Pictures", seed),
      denoises(card) && samplingControls(card, state),
      sendButton("Generate"),
    ),
  );
}

/** How much the pictures may differ from the drawing. */
function changeControl(card, state) {
  const { spread, strength } = fieldsOf(card, "generate");
  const [name, { maximum }, value] = strength ? ["strength", strength, STRENGTH] : ["spread", spread, 1];
  return group(
    "Change",
    slider({
      label: name === "strength" ? "Strength" : "Spread",
      min: name === "strength" ? 0.05 : 0,
      max: maximum,
      step: 0.05,
      value: number(state[name], value),
      show: (chosen) => chosen.toFixed(2),
      hint: name === "strength" ? "Low keeps the drawing, 1 ignores it." : "0 is the model's reconstruction.",
      on: (chosen) => note({ [name]: chosen }),
    }),
  );
}

function tools(card, pad) {
  const file = h("input", {
    type: "file",
    accept: "image/png,image/jpeg,image/webp",
    class: "unseen",
    onchange: () => file.files[0] && place(file.files[0], pad),
  });
  return [
    can(card, "inpaint") &&
      choice({ label: "Brush", choices: ["draw", "mask"], value: "draw", on: (mode) => (pad.mode = mode) }),
    slider({
      label: "Width",
      min: 0.5,
      max: 6,
      step: 0.1,
      value: pad.radius,
      show: (value) => `${(2 * value).toFixed(0)} px`,
      on: (radius) => (pad.radius = radius),
    }),
    slider({
      label: "Ink",
      min: 0,
      max: 255,
      value: pad.level,
      show: (value) => `${Math.round(value / 2.55)} %`,
      on: (level) => (pad.level = level),
    }),
    h(
      "div",
      { class: "actions" },
      h("button", { type: "button", onclick: () => pad.undo() }, "Undo"),
      h("button", { type: "button", onclick: () => pad.clear() }, "Clear"),
      h("label", { class: "button" }, file, "Open a picture"),
    ),
    can(card, "inpaint") &&
      h(
        "div",
        { class: "polarity" },
        h("span", {}, h("i", { class: "painted" }), "Masked: regenerated. White in a mask file."),
        h("span", {}, h("i", { class: "kept" }), "Not masked: kept. Black in a mask file."),
      ),
  ];
}

async function place(blob, pad) {
  pad.put(await createImageBitmap(blob));
}

/** Put a dropped picture onto the pad. */
function takeFiles(pad, signal) {
  const onto = pad.element;
  onto.addEventListener(
    "drop",
    (event) => {
      event.preventDefault();
      const [file] = event.dataTransfer.files;
      if (file) place(file, pad);
    },
    { signal },
  );
}
