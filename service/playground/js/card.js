// What a model can do and which settings it has, from its card (GET /models/{name}). No model is known by name here.

/** The settings that one task of a model has, as JSON schemas by field; none where it has no such task. */
export const fieldsOf = (card, task) => card.tasks[task] ?? {};

/** Whether the model can: generate, interpolate, image_to_image, inpaint, latent_map, ... */
export const can = (card, what) => card.does.includes(what);

/** Whether its pictures take steps. */
export const denoises = (card) => "steps" in fieldsOf(card, "generate");

/** Its settings of sampling: bounds, choices and defaults. */
export function sampling(card, task = "generate") {
  const { steps, solver, guidance_scale: guidance } = fieldsOf(card, task);
  return {
    steps: { most: steps.maximum, value: steps.default },
    solver: { choices: solver.enum, value: solver.default },
    guidance: { least: guidance.minimum, most: guidance.maximum, value: guidance.default },
  };
}

/** Numbers of steps to choose from: round ones up to the most, and the model's own. */
export function stepChoices({ most, value }) {
  const round = [1, 2, 3, 5, 8, 10, 15, 20, 30, 50, 100, 200, 500, 1000].filter((steps) => steps < most);
  return [...new Set([...round, value, most])].sort((a, b) => a - b);
}

/** Width of a picture's frame on the page: whole pixels of the picture, near `wanted`. */
export function shownWidth(card, wanted) {
  const width = card.image_shape[2];
  return width * Math.max(1, Math.round(wanted / width));
}

/** Whether its pictures have no colours, so that they can be shown dark on light as well. */
export const isGrey = (card) => card.image_shape[0] === 1;

/** One line of what it is. */
export function describe(card) {
  const [, height, width] = card.image_shape;
  const { dataset, training } = card.manifest;
  const size = training.parameters ? `${(training.parameters / 1e6).toFixed(2)} M parameters` : null;
  const classes = card.class_names.length ? `${card.class_names.length} classes` : "no classes";
  return [dataset.name, `${width} × ${height}`, classes, size, `version ${card.version}`].filter(Boolean).join(" · ");
}

/** The median of its latest answers in milliseconds, or null. */
export const p50 = (card) => card.latency?.request?.p50_ms ?? null;
