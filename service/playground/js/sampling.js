// The settings of sampling: steps, solver and guidance of a diffusion model, truncation of others.

import { fieldsOf, sampling, stepChoices } from "./card.js";
import { choice, group, slider } from "./controls.js";
import { promptFields } from "./prompt.js";
import { note, number } from "./state.js";

/** Steps, solver and guidance of a diffusion model, kept in the state. `task` decides which solvers are offered. */
export function samplingControls(card, state, { task = "generate", guided = true } = {}) {
  const { steps, solver, guidance } = sampling(card, task);
  const chosen = state.solver && solver.choices.includes(state.solver) ? state.solver : solver.value;
  const stops = stepChoices(steps);
  const wanted = number(state.steps, steps.value);
  return group(
    "Sampling",
    slider({
      label: "Steps",
      choices: [...new Set([...stops, wanted])].sort((a, b) => a - b),
      value: wanted,
      on: (value) => note({ steps: value }),
    }),
    guided &&
      guidance &&
      slider({
        label: "Guidance",
        min: guidance.least,
        max: Math.min(10, guidance.most),
        step: 0.5,
        value: number(state.guidance, guidance.value),
        show: (value) => value.toFixed(1),
        on: (value) => note({ guidance: value }),
      }),
    choice({ label: "Solver", choices: solver.choices, value: chosen, on: (value) => note({ solver: value }) }),
  );
}

/** Truncation of a model without steps, kept in the state. */
export function truncationControl(card, state) {
  const { truncation } = fieldsOf(card, "generate");
  if (!truncation) return null;
  return group(
    "Sampling",
    slider({
      label: "Truncation",
      min: truncation.minimum,
      max: truncation.maximum,
      step: 0.05,
      value: number(state.truncation, 1),
      show: (value) => value.toFixed(2),
      hint: "Below 1 pictures vary less.",
      on: (value) => note({ truncation: value }),
    }),
  );
}

/** The request field of `truncationControl`. */
export const truncationField = (card, state) =>
  state.truncation && "truncation" in fieldsOf(card, "generate") ? { truncation: number(state.truncation) } : {};

/** The request fields of `samplingControls`. */
export function samplingFields(card, state, task = "generate") {
  const { solver, guidance } = sampling(card, task);
  return {
    ...promptFields(card, state, task),
    ...(state.steps && { steps: number(state.steps) }),
    ...(guidance && state.guidance && { guidance_scale: number(state.guidance) }),
    ...(solver.choices.includes(state.solver) && { solver: state.solver }),
  };
}
