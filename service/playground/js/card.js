// A model's abilities and settings, from its card (GET /models/{name}). The page does not depend on model names.

/** The fields of one task of a model as JSON schemas, by name; empty if the model does not have the task. */
export const fieldsOf = (card, task) => card.tasks[task] ?? {};

/** Whether the model supports a task: generate, interpolate, image_to_image, inpaint, latent_map, ... */
export const can = (card, what) => card.does.includes(what);

/** Whether it is a diffusion model: its pictures take steps. */
export const denoises = (card) => "steps" in fieldsOf(card, "generate");

/** Whether its pictures are of a prompt. */
export const readsText = (card) => "prompt" in fieldsOf(card, "generate");

/** Models whose pictures have more pixels across are shown smooth when they are scaled, and are slow on a CPU. */
const FINE = 128;

export const isFine = (card) => card.image_shape[2] > FINE;

/** The ControlNet in the state, else the default one; undefined for a model without. */
export function controlOf(card, state) {
  const { control } = fieldsOf(card, "generate");
  return control?.enum?.includes(state.control) ? state.control : control?.default ?? control?.enum?.[0];
}

/** Whether a class can be guided towards. */
export const guidesClasses = (card) => card.class_names.length > 0 && "guidance_scale" in fieldsOf(card, "generate");

/** Its sampling settings: bounds, choices and defaults; no guidance for a model that has none. */
export function sampling(card, task = "generate") {
  const { steps, solver, guidance_scale: guidance } = fieldsOf(card, task);
  return {
    steps: { most: steps.maximum, value: steps.default },
    solver: { choices: solver.enum, value: solver.default },
    guidance: guidance && { least: guidance.minimum, most: guidance.maximum, value: guidance.default },
  };
}

/** Step counts to choose from: round numbers up to the maximum, and the model's default. */
export function stepChoices({ most, value }) {
  const round = [1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000].filter((steps) => steps < most);
  return [...new Set([...round, value, most])].sort((a, b) => a - b);
}

/** Width on the page in CSS pixels of a picture of `width` pixels: near `wanted`, a whole multiple if it is enlarged. */
export const shownWidth = (width, wanted) =>
  width >= wanted ? wanted : width * Math.max(1, Math.round(wanted / width));

/** Whether its pictures are grey, so that they can be shown inverted. */
export const isGrey = (card) => card.image_shape[0] === 1;

/** A one-line description. */
export function describe(card) {
  const [, height, width] = card.image_shape;
  const { dataset, training, pipeline } = card.manifest;
  const parameters = (training ?? pipeline)?.parameters;
  const size = parameters ? `${(parameters / 1e6).toFixed(2)} M parameters` : null;
  const classes = readsText(card) ? "prompts" : card.class_names.length ? `${card.class_names.length} classes` : "no classes";
  const name = dataset?.name ?? pipeline?.class_name;
  return [name, `${width} × ${height}`, classes, size, `version ${card.version}`].filter(Boolean).join(" · ");
}

/** Median latency of its latest answers in milliseconds, or null. */
export const p50 = (card) => card.latency?.request?.p50_ms ?? null;
