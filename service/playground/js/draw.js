// The draw view: image to image, variations and inpainting from a drawing or a file.

import { can, denoises, fieldsOf, readsText } from "./card.js";
import { classNamesOf, group, slider } from "./controls.js";
import { bitmapOf } from "./dom.js";
import { mountPad } from "./pad-view.js";
import { samplingFields } from "./sampling.js";
import { note, number } from "./state.js";

const STRENGTH = 0.6;
/** Levels of brush and ground: like the pictures of Fashion-MNIST, or like paper. */
const LIGHT_ON_DARK = { ink: 200, paper: 0 };
const ON_PAPER = { ink: 40, paper: 255 };

export const lede = "Draw or open a picture; the model generates new ones from it.";

/** The view for `context.card`'s model. */
export const mount = (context) =>
  mountPad(context, {
    masked: can(context.card, "inpaint"),
    ...(readsText(context.card) ? ON_PAPER : LIGHT_ON_DARK),
    caption: "New pictures start from this one.",
    hint: "None selected: no class.",
    place,
    controls: changeControl,
    fields,
  });

async function place(pad, { image, mask, file }, open) {
  if (file) return open(file);
  if (image) pad.put(await bitmapOf(image));
  if (mask) pad.putMask(await bitmapOf(mask));
  return Boolean(image);
}

/** The fields of the request that the state and the pad describe. */
function fields(card, state, pad) {
  const [label] = classNamesOf(state, card);
  const mask = can(card, "inpaint") ? pad.mask : null;
  return {
    image: pad.image,
    ...(mask && { mask }),
    ...(label !== undefined && { class_label: label }),
    ...(denoises(card) && { strength: number(state.strength, STRENGTH), ...samplingFields(card, state) }),
    ...(state.spread && "spread" in fieldsOf(card, "generate") && { spread: number(state.spread) }),
  };
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
