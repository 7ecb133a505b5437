// A pad with its tools: brush, files, undo. The views Draw and Sketch use it.

import { isGrey, shownWidth } from "./card.js";
import { choice, slider } from "./controls.js";
import { h, uniqueId } from "./dom.js";
import { fitFile, openFile, PICTURES } from "./fit-dialog.js";
import { attempt } from "./notice.js";
import { Pad } from "./pad.js";

const SHOWN = 308;
/** Largest radius of the brush, as a share of the pad's width. */
const WIDEST = 0.2;
/** Its usual radius. */
const BRUSH = 1 / 24;

/**
 * A pad of `size` pixels and its tools for `card`'s model; `masked`: with a mask; `ink` and `paper`: levels of the brush
 * and of the empty pad, 0 to 255; `brush`: its radius as a share of the pad's width; `caption`: below the pad.
 * `coloured`: with colours, if the pictures have them. `open(file)` fits a file to the pad; it returns whether the user took it.
 */
export function workbench(card, { size, masked, ink, paper = 0, brush = BRUSH, coloured = true, signal, caption }) {
  const look = { grey: isGrey(card), paper: greyInk(paper) };
  const pad = new Pad(size.width, size.height, shownWidth(size.width, SHOWN), look);
  pad.ink = greyInk(ink);
  pad.radius = brush * size.width;
  const open = (file) =>
    attempt(async () => {
      const picture = await fitFile(file, card, pad);
      if (picture) pad.put(picture);
      return Boolean(picture);
    });
  takeFiles(pad, open, signal);
  const element = h(
    "div",
    { class: "workbench" },
    h("figure", {}, h("div", { class: "mat" }, pad.element), h("figcaption", {}, caption, toneNote(card))),
    h("div", { class: "tools" }, tools(card, pad, open, { masked, ink, coloured })),
  );
  return { pad, open, element };
}

/** How the page shows what the model gets; visible only while grey pictures are shown inverted. */
const toneNote = (card) =>
  isGrey(card) &&
  h("span", { class: "only-inverted" }, " The page shows the pad inverted; the model gets light on dark.");

const greyInk = (level) => `rgb(${level} ${level} ${level})`;

function tools(card, pad, open, { masked, ink, coloured }) {
  const action = (text, onclick) => h("button", { type: "button", onclick }, text);
  return [
    masked && choice({ label: "Brush", choices: ["draw", "mask"], value: "draw", on: (mode) => (pad.mode = mode) }),
    slider({
      label: "Width",
      min: pad.width / 128,
      max: WIDEST * pad.width,
      step: pad.width / 256,
      value: pad.radius,
      show: (value) => `${(2 * value).toFixed(0)} px`,
      on: (radius) => (pad.radius = radius),
    }),
    isGrey(card) || !coloured ? greyTool(pad, ink) : colourTool(pad, ink),
    h(
      "div",
      { class: "actions" },
      action("Undo", () => pad.undo()),
      action("Clear", () => pad.clear()),
      action("Fill", () => pad.fill()),
      action("Invert", () => pad.invert()),
      fileButton("Open a picture", open),
      masked && fileButton("Open a mask", (file) => attempt(async () => pad.putMask(await openFile(file)))),
    ),
    h("p", { class: "hint" }, "Or drop or paste a picture."),
    masked && polarity(),
  ];
}

const greyTool = (pad, ink) =>
  slider({
    label: "Ink",
    min: 0,
    max: 255,
    value: ink,
    show: (value) => `${Math.round(value / 2.55)} %`,
    on: (level) => (pad.ink = greyInk(level)),
  });

function colourTool(pad, ink) {
  const id = uniqueId("ink");
  const hex = ink.toString(16).padStart(2, "0");
  const input = h("input", { id, type: "color", value: `#${hex}${hex}${hex}`, oninput: () => (pad.ink = input.value) });
  return h("div", { class: "field" }, h("label", { for: id }, "Ink"), input);
}

/** A button that opens a picture file; `on` receives the file. */
export function fileButton(text, on, label = text) {
  const file = h("input", {
    type: "file",
    accept: PICTURES,
    class: "unseen",
    "aria-label": label,
    onchange: () => {
      const [chosen] = file.files;
      file.value = ""; // the same file can be chosen again
      if (chosen) on(chosen);
    },
  });
  return h("label", { class: "button" }, file, text);
}

const polarity = () =>
  h(
    "div",
    { class: "polarity" },
    h("span", {}, h("i", { class: "painted" }), "Masked: regenerated. White in a mask file."),
    h("span", {}, h("i", { class: "kept" }), "Not masked: kept. Black in a mask file."),
  );

/** Open dropped and pasted pictures on the pad. */
function takeFiles(pad, open, signal) {
  const take = (data) => (event) => {
    const [file] = event[data]?.files ?? [];
    if (!file) return;
    event.preventDefault();
    open(file);
  };
  pad.element.addEventListener("drop", take("dataTransfer"), { signal });
  document.addEventListener("paste", take("clipboardData"), { signal });
}
