// What a model with prompts reads: prompt, negative prompt, LoRA, and the size of its pictures.

import { fieldsOf } from "./card.js";
import { group, list, slider, suggestions, textArea } from "./controls.js";
import { h } from "./dom.js";
import { note, number } from "./state.js";

const NO_LORA = "none";

/**
 * Prompt with examples, negative prompt and LoRA, kept in the state; null for a model that reads no text. `generate` is
 * called after the choice of an example.
 */
export function promptControls(card, state, generate) {
  if (!("prompt" in fieldsOf(card, "generate"))) return null;
  const prompt = textArea({ label: "Prompt", unseen: true, value: state.prompt, on: (value) => note({ prompt: value }) });
  const choose = (example) => {
    prompt.set(example);
    generate();
  };
  return group("Prompt", prompt, suggestions(card.examples, choose), laterControls(card, state));
}

/** Negative prompt and LoRA. On a phone they are not shown at first. */
export function laterControls(card, state, ...before) {
  const { negative_prompt: negative, lora } = fieldsOf(card, "generate");
  return h(
    "div",
    { class: "later" },
    before,
    negative && textArea({ label: "Negative prompt", value: state.negative, on: (value) => note({ negative: value }) }),
    lora?.examples?.length > 0 && loraControls(lora, state),
  );
}

/** A LoRA and its scale; the scale is shown only with a LoRA. */
function loraControls(lora, state) {
  const { minimum, maximum } = scaleOf(lora);
  const scale = slider({
    label: "LoRA scale",
    min: minimum,
    max: maximum,
    step: 0.05,
    value: number(state.lora_scale, 1),
    show: (value) => value.toFixed(2),
    hint: "0: without effect.",
    on: (value) => note({ lora_scale: value }),
  });
  const choose = (value) => {
    scale.hidden = value === NO_LORA;
    note({ lora: scale.hidden ? null : value });
  };
  const chosen = lora.examples.includes(state.lora) ? state.lora : NO_LORA;
  scale.hidden = chosen === NO_LORA;
  return [list({ label: "LoRA", choices: [NO_LORA, ...lora.examples], value: chosen, on: choose }), scale];
}

/** The bounds of a LoRA's scale in the schema of the field, which also takes a name or a list. */
function scaleOf(lora) {
  const { scale } = lora.anyOf.find(({ properties }) => properties).properties;
  return scale.anyOf?.find(({ maximum }) => maximum !== undefined) ?? scale;
}

/** Width and height of a model of several sizes, kept in the state; null for any other. `on` is called after each. */
export function sizeControls(card, state, on = () => {}) {
  const fields = fieldsOf(card, "generate");
  if (!fields.width?.multipleOf) return null;
  const side = (name, label) => {
    const { minimum, maximum, multipleOf: step } = fields[name];
    return slider({
      label,
      min: Math.ceil(minimum / step) * step,
      max: Math.floor(maximum / step) * step,
      step,
      value: sizeOf(card, state)[name],
      show: (value) => `${value} px`,
      on: (value) => {
        note({ [name]: value });
        on();
      },
    });
  };
  return group("Size", side("width", "Width"), side("height", "Height"));
}

/** The width and height in the state or a request, by default the model's own. */
export function sizeOf(card, state) {
  const [, height, width] = card.image_shape;
  return { width: number(state.width, width), height: number(state.height, height) };
}

/** The request fields of these controls in a request of `task`. */
export function promptFields(card, state, task) {
  const { prompt, negative_prompt: negative, lora, width } = fieldsOf(card, task);
  return {
    ...(prompt && state.prompt && { prompt: state.prompt }),
    ...(negative && state.negative && { negative_prompt: state.negative }),
    ...(lora?.examples?.includes(state.lora) && {
      lora: { name: state.lora, scale: number(state.lora_scale, 1) },
    }),
    ...(width?.multipleOf && (state.width || state.height) && sizeOf(card, state)),
  };
}
