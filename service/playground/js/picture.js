// The dialog of one picture: its parameters and actions.

import { can, denoises, isGrey } from "./card.js";
import { getFile, inspect } from "./api.js";
import { dataUrl, download, h, pngBlob } from "./dom.js";
import { change } from "./state.js";
import { keepImage } from "./held.js";

/** A picture in the grid, as a button that opens it. */
export function tile(picture, open, grey) {
  const name = `${picture.class_label ?? "picture"}, seed ${picture.seed}`;
  const image = h("img", { src: dataUrl(picture), alt: name, draggable: false });
  return h("button", { type: "button", class: `tile ${grey ? "grey" : ""}`, title: name, onclick: open }, image);
}

/** Open `pictures[index]` of `card`'s model in a dialog; the arrow keys show its neighbours. */
export function openPicture(pictures, index, card) {
  const dialog = h("dialog", {
    class: "picture",
    "aria-label": "A picture and its parameters",
    onclose: () => dialog.remove(),
  });
  const show = (at) => {
    index = (at + pictures.length) % pictures.length;
    dialog.replaceChildren(...content(pictures[index], card, dialog));
    describe(pictures[index], dialog).catch((problem) => fail(dialog, problem));
  };
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") show(index + 1);
    if (event.key === "ArrowLeft") show(index - 1);
  });
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  document.body.append(dialog);
  show(index);
  dialog.showModal();
}

function content(picture, card, dialog) {
  const leave = (patch) => () => {
    dialog.close();
    change(patch);
  };
  const action = (text, onclick) => h("button", { type: "button", onclick }, text);
  const { seed } = picture;
  const label = card.class_names.indexOf(picture.class_label);
  const classes = label < 0 ? null : label;
  return [
    h(
      "div",
      { class: `mat ${isGrey(card) ? "grey" : ""}` },
      h("img", { src: dataUrl(picture), alt: picture.class_label ?? "picture" }),
    ),
    h(
      "div",
      { class: "about" },
      h(
        "header",
        {},
        h("h2", {}, picture.class_label ?? "No class"),
        h(
          "button",
          { type: "button", class: "quiet close", "aria-label": "Close", onclick: () => dialog.close() },
          "Close",
        ),
      ),
      h("dl", { class: "facts" }),
      h(
        "div",
        { class: "actions" },
        picture.alone && action("Use as seed", leave({ view: "gallery", seed, lock: 1, classes })),
        picture.alone &&
          can(card, "interpolate") &&
          action("Interpolate from", leave({ view: "interpolate", from: seed, classes })),
        picture.alone &&
          can(card, "interpolate") &&
          action("Interpolate to", leave({ view: "interpolate", to: seed, classes })),
        picture.alone && denoises(card) && action("Film", leave({ view: "film", seed, classes })),
        action("Use as image", () => {
          keepImage(pngBlob(picture));
          leave({ view: "draw" })();
        }),
      ),
      h("div", { class: "commands", hidden: true }),
    ),
  ];
}

async function describe(picture, dialog) {
  const png = pngBlob(picture);
  const found = await inspect(png);
  const facts = dialog.querySelector(".facts");
  if (!facts) return;
  const shown = { model: `${found.model} ${found.model_version}`, ...found.params };
  facts.append(
    ...Object.entries(shown)
      .filter(([, value]) => value !== null && String(value).length < 64)
      .map(([name, value]) => h("div", {}, h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, String(value)))),
  );
  const commands = dialog.querySelector(".commands");
  const name = `${found.model}-${picture.seed ?? "picture"}`;
  const asNpy = () =>
    getFile(found.path, { body: found.params, accept: "application/x-npy" })
      .then((file) => download(file, `${name}.npy`))
      .catch((problem) => fail(dialog, problem));
  const code = h("pre", { tabIndex: 0, "aria-label": "Command" }, found.curl);
  commands.append(
    code,
    h(
      "div",
      { class: "actions" },
      copyButton("Copy as curl", found.curl, code),
      copyButton("Copy as Python", found.python, code),
      h("button", { type: "button", onclick: () => download(png, `${name}.png`) }, "PNG"),
      h("button", { type: "button", onclick: asNpy }, "npy"),
    ),
  );
  commands.hidden = false;
}

/** Show an error in the dialog. */
function fail(dialog, problem) {
  dialog
    .querySelector(".about")
    ?.append(h("p", { class: "hint", role: "alert" }, `${problem.title}: ${problem.message}`));
}

function copyButton(text, command, code) {
  const button = h("button", { type: "button" }, text);
  button.addEventListener("click", async () => {
    code.textContent = command;
    button.textContent = (await copy(command, code)) ? "Copied" : "Selected: press Ctrl+C";
    setTimeout(() => (button.textContent = text), 1600);
  });
  return button;
}

// The clipboard needs localhost or TLS; otherwise the text is selected.
async function copy(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(code);
    return false;
  }
}
