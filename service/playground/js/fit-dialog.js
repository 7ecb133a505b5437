// Reading a picture file, and the dialog that fits it to a model: it shows what the model will get.

import { getFile, getJson, Problem } from "./api.js";
import { can, isGrey, readsText, shownWidth } from "./card.js";
import { slider } from "./controls.js";
import { canvasOf, contextOf, h, uniqueId } from "./dom.js";
import { fitted, groundOf, PLAIN, scaled, suggest } from "./fit.js";

/** Width in CSS pixels of the two pictures in the dialog. */
const SHOWN = 224;

/** Types of picture files that can be opened. */
export const PICTURES = "image/png,image/jpeg,image/webp";

/** The pixels of a picture file. Throws Problem if it is none. */
export async function openFile(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    const detail = `${file.name || "The file"} cannot be read. Choose a PNG, JPEG or WebP picture.`;
    throw new Problem({ title: "Not a picture", detail });
  }
}

/**
 * The canvas of `size` that the user makes of `file` in the dialog; null if cancelled. A file that has that size is not
 * asked about. Throws Problem if it is not a picture.
 */
export async function fitFile(file, card, size) {
  const pixels = await openFile(file);
  if (pixels.width === size.width && pixels.height === size.height) return asIs(pixels, size);
  const ground = await groundLevel(card).catch(() => null);
  return new Promise((resolve) => openDialog(scaled(pixels), { card, size, ground, resolve }));
}

function asIs(pixels, { width, height }) {
  const canvas = canvasOf(width, height);
  contextOf(canvas).drawImage(pixels, 0, 0);
  return canvas;
}

/** The background level of the model's own pictures; null if it is unknown. A fixed seed, so that the answer is cached. */
async function groundLevel(card) {
  const [, height, width] = card.image_shape;
  if (readsText(card)) return null;
  const query = new URLSearchParams({ seed: 0, n: 4, layout: "sprite", version: card.version });
  if (can(card, "generate")) return groundOf(await bitmapAt(`generate/${card.name}?${query}`), { width, height });
  if (!can(card, "latent_map")) return null;
  const { grid } = await getJson(`latent-map/${card.name}`);
  return groundOf(await bitmapAt(grid.url), { width, height });
}

const bitmapAt = async (path) => createImageBitmap(await getFile(path));

function openDialog(source, { card, size, ground, resolve }) {
  const grey = isGrey(card);
  let settings = suggest(source, size, ground, grey);
  const result = canvasOf(size.width, size.height, "screen");
  result.style.setProperty("--width", `${shownWidth(size.width, SHOWN)}px`);
  result.setAttribute("role", "img");
  result.setAttribute("aria-label", "What the model gets");
  const draw = () => contextOf(result).drawImage(fitted(source, size, settings, grey), 0, 0);
  const controls = h("div", { class: "fit-controls" });
  const show = (chosen) => {
    settings = { ...chosen };
    controls.replaceChildren(...fields(settings, draw));
    draw();
  };
  const dialog = h(
    "dialog",
    { class: "fit", "aria-label": "Fit the picture" },
    h("h2", {}, "Fit the picture"),
    h("div", { class: "pair" }, before(source), after(result, size, grey)),
    controls,
    h(
      "div",
      { class: "actions" },
      button("Use this picture", () => dialog.close("use"), "primary"),
      button("Suggested", () => show(suggest(source, size, ground, grey))),
      button("Unchanged", () => show(PLAIN)),
      button("Cancel", () => dialog.close(), "quiet"),
    ),
  );
  dialog.addEventListener("close", () => {
    dialog.remove();
    resolve(dialog.returnValue === "use" ? fitted(source, size, settings, grey) : null);
  });
  document.body.append(dialog);
  show(settings);
  dialog.showModal();
}

const button = (text, onclick, name = "") => h("button", { type: "button", class: name, onclick }, text);

function before(source) {
  source.setAttribute("role", "img");
  source.setAttribute("aria-label", "The file");
  return h("figure", {}, h("div", { class: "mat small" }, source), h("figcaption", {}, "The file"));
}

const after = (result, { width, height }, grey) =>
  h(
    "figure",
    {},
    h("div", { class: "mat small" }, result),
    h("figcaption", {}, `What the model gets: ${width} × ${height}${grey ? ", grey" : ""}`),
  );

/** Controls that change `settings` and call `draw`. */
function fields(settings, draw) {
  const of = (label, name, min, max) =>
    slider({
      label,
      min,
      max,
      step: 0.01,
      value: settings[name],
      show: (value) => value.toFixed(2),
      on: (value) => {
        settings[name] = value;
        draw();
      },
    });
  return [
    invertBox(settings, draw),
    of("Brightness", "brightness", -1, 1),
    of("Contrast", "contrast", 0.2, 4),
    of("Zoom", "zoom", 0.2, 6),
    of("Crop across", "x", -1, 1),
    of("Crop down", "y", -1, 1),
  ];
}

function invertBox(settings, draw) {
  const id = uniqueId("invert");
  const onchange = () => {
    settings.invert = box.checked;
    draw();
  };
  const box = h("input", { id, type: "checkbox", checked: settings.invert, onchange });
  return h("div", { class: "check" }, box, h("label", { for: id }, "Invert light and dark"));
}
