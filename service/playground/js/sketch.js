// The sketch view: a control image guides where things are, the prompt says what they are.

import { controlOf, fieldsOf } from "./card.js";
import { choice, classNamesOf, group, slider } from "./controls.js";
import { bitmapOf } from "./dom.js";
import { mountPad } from "./pad-view.js";
import { samplingFields } from "./sampling.js";
import { note, number, read } from "./state.js";

/** Levels of the lines and of the ground, by the name of a ControlNet; most of them read white lines on black. */
const SKETCH = {
  ink: 0,
  paper: 255,
  brush: 1 / 64,
  caption: "Dark lines on white, as on paper. Invert turns light lines on black into that.",
};
const USUAL = {
  ink: 255,
  paper: 0,
  caption: "Most ControlNets read white lines on black. Invert turns a drawing on paper into that.",
};

export const lede = "Draw or open a control image; the pictures follow its lines.";

/** The view for `context.card`'s model. */
export const mount = (context) =>
  mountPad(context, {
    ...(controlOf(context.card, read()) === "sketch" ? SKETCH : USUAL),
    coloured: false,
    place,
    controls: controlControls,
    fields,
  });

async function place(pad, { control }) {
  if (control) pad.put(await bitmapOf(control));
  return Boolean(control);
}

/** The fields of the request that the state and the pad describe. */
function fields(card, state, pad) {
  const [label] = classNamesOf(state, card);
  const { control } = fieldsOf(card, "generate");
  const numbers = ["control_scale", "control_start", "control_end"].filter((name) => state[name] !== undefined);
  return {
    control_image: pad.image,
    ...Object.fromEntries(numbers.map((name) => [name, number(state[name])])),
    ...(control?.enum?.includes(state.control) && { control: state.control }),
    ...(label !== undefined && { class_label: label }),
    ...samplingFields(card, state),
  };
}

/** Which ControlNet reads the image, how strongly it acts and during which share of the steps. */
function controlControls(card, state) {
  const { control, ...schemas } = fieldsOf(card, "generate");
  const share = (label, name, value, hint) =>
    slider({
      label,
      min: schemas[name].minimum,
      max: schemas[name].maximum,
      step: 0.05,
      value: number(state[name], value),
      show: (chosen) => chosen.toFixed(2),
      hint,
      on: (chosen) => note({ [name]: chosen }),
    });
  return group(
    "Control",
    control?.enum?.length > 1 &&
      choice({
        label: "ControlNet",
        choices: control.enum,
        value: state.control ?? control.default,
        on: (value) => note({ control: value }),
      }),
    share("Strength", "control_scale", 1, "0 ignores the image."),
    share("From", "control_start", 0),
    share("To", "control_end", 1, "Share of the steps during which the image acts."),
  );
}
