// Restoring the settings in a picture's file: the state that they are, and the pictures that the address cannot hold.

import { can } from "./card.js";

/** Settings that the state keeps under the names of the fields. */
const ALIKE = "steps solver width height truncation strength spread control control_scale control_start control_end";
/** Settings of the format; the page has its own. */
const OF_FORMAT = "scale format layout quality fps loop preview_every preview_kind";
/** Settings that are restored one by one below. */
const OTHERS =
  "model n seed seeds class_label guidance_scale prompt negative_prompt lora image mask control_image point " +
  "from to points frames method";
const KNOWN = new Set([ALIKE, OF_FORMAT, OTHERS].join(" ").split(" "));

/** The values of a field that may be one for all pictures or a list. */
const listOf = (value) => (value === null || value === undefined ? [] : [value].flat());
const distinct = (values) => [...new Map(values.map((value) => [JSON.stringify(value), value])).values()];

/**
 * The settings `params` of `path` of `card`'s model: `patch`, the change of the state, `held`, the pictures for the view,
 * and `missing`, the names of the settings that the page cannot show.
 */
export function settingsOf(path, params, card) {
  const { patch: shared, missing } = sharedSettings(params, card);
  const own = path === "/interpolate" ? pathSettings(params) : pictureSettings(params, card);
  const unknown = Object.keys(params).filter((name) => !KNOWN.has(name) && params[name] !== null);
  return { patch: { ...shared, ...own.patch }, held: own.held, missing: [...missing, ...own.missing, ...unknown] };
}

/** Settings of all views. */
function sharedSettings(params, card) {
  const missing = [];
  // The page has one prompt and one LoRA for all pictures.
  const only = (name) => {
    const values = distinct(listOf(params[name]));
    if (values.length > 1) missing.push(`the other values of ${name}`);
    return values[0];
  };
  const lora = only("lora");
  const labels = distinct(listOf(params.class_label)).map((label) => card.class_names.indexOf(label));
  const patch = {
    model: card.name,
    ...Object.fromEntries(ALIKE.split(" ").map((name) => [name, params[name] ?? null])),
    guidance: params.guidance_scale ?? null,
    prompt: only("prompt") ?? null,
    negative: only("negative_prompt") ?? null,
    lora: lora?.name ?? lora ?? null,
    lora_scale: lora?.scale ?? null,
    classes: labels.filter((index) => index >= 0).join(","),
  };
  return { patch, missing };
}

/** The points of a path. Points between the ends are seeds on the page. */
function pathSettings({ points, from, to, frames, method, prompt }) {
  const promptOf = (point) => point?.prompt ?? prompt;
  const all = points ?? [from, to];
  const [first, between, last] = [all[0], all.slice(1, -1), all.at(-1)];
  const simple = (point) => point?.seed !== undefined || point?.image !== undefined;
  return {
    patch: {
      view: "interpolate",
      from: first?.seed,
      to: last?.seed,
      via: between.map(({ seed }) => seed).join(","),
      prompt: promptOf(first),
      to_prompt: promptOf(last),
      via_prompts: between.map((point) => promptOf(point) ?? "").join("\n").trimEnd(),
      frames,
      method,
    },
    held: { from: first?.image, to: last?.image },
    missing: [
      ...(between.every(({ seed }) => seed !== undefined) ? [] : ["pictures between the end points"]),
      ...(simple(first) && simple(last) ? [] : ["an end point that is neither a seed nor a picture"]),
    ],
  };
}

/** Seeds and pictures of a request to generate, and the view that has a place for them. */
function pictureSettings(params, card) {
  const { n = 1, seed, seeds, image, mask, control_image: control, point } = params;
  const rows = Math.max(1, distinct(listOf(params.class_label)).length);
  const count = seeds ? Math.ceil(seeds.length / rows) : n;
  const regular = (seeds ?? []).every((each, index) => each === (seeds[0] + (index % count)) % 2 ** 32);
  const view = image ? "draw" : control ? "sketch" : point && can(card, "latent_map") ? "map" : "gallery";
  const missing = [];
  if (!regular) missing.push("seeds that are not in sequence");
  if (image && control) missing.push("control_image");
  if (point && view !== "map") missing.push("point");
  return {
    patch: { view, n: count, seed: seed ?? seeds?.[0], lock: 1, ...(point && { x: point[0], y: point[1] }) },
    held: { image, mask, control },
    missing,
  };
}
