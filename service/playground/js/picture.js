// The dialog of one picture: its parameters, what can be done with it, and its files.

import { getFile, inspect } from "./api.js";
import { can, denoises, fieldsOf, isGrey } from "./card.js";
import { copyButton } from "./copy.js";
import { dataUrl, download, enlargement, h, pngBlob } from "./dom.js";
import { hold } from "./held.js";
import { change } from "./state.js";

/** A picture in the grid, as a button that opens it. */
export function tile(picture, open, grey) {
  const name = `${picture.class_label ?? picture.prompt ?? "picture"}, seed ${picture.seed}`;
  const image = h("img", { src: dataUrl(picture), alt: name, draggable: false });
  return h("button", { type: "button", class: `tile ${grey ? "grey" : ""}`, title: name, onclick: open }, image);
}

const button = (text, onclick, name = "") => h("button", { type: "button", class: name, onclick }, text);

/** Open `pictures[index]` of `card`'s model in a dialog; the arrow keys show its neighbours. */
export function openPicture(pictures, index, card) {
  const dialog = h("dialog", { class: "picture", tabIndex: -1, "aria-label": "A picture and its parameters" });
  const place = h("span", { class: "hint", role: "status" });
  const shown = h("div", { class: "shown" });
  const show = (at) => {
    index = (at + pictures.length) % pictures.length;
    place.textContent = `${index + 1} of ${pictures.length}`;
    shown.replaceChildren(...content(pictures[index], card, dialog));
    // The focused button may have been replaced; without a focus in the dialog its keys do nothing.
    if (!dialog.contains(document.activeElement)) dialog.focus();
  };
  dialog.addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (by && pictures.length > 1) show(index + by);
  });
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => dialog.remove());
  const turn =
    pictures.length > 1 && [button("Previous", () => show(index - 1)), button("Next", () => show(index + 1))];
  dialog.append(h("header", { class: "row" }, turn, place, button("Close", () => dialog.close(), "quiet close")), shown);
  document.body.append(dialog);
  show(index);
  dialog.showModal();
}

function content(picture, card, dialog) {
  const facts = h("dl", { class: "facts" });
  const commands = h("div", { class: "commands", hidden: true });
  const about = h(
    "div",
    { class: "about" },
    h("h2", {}, picture.class_label ?? `Seed ${picture.seed}`),
    facts,
    h("div", { class: "actions" }, actions(picture, card, dialog)),
    commands,
  );
  describe(picture, card, facts, commands).catch((problem) => fail(about, problem));
  return [
    h(
      "div",
      { class: `mat ${isGrey(card) ? "grey" : ""}` },
      h("img", { src: dataUrl(picture), alt: picture.class_label ?? picture.prompt ?? "picture" }),
    ),
    about,
  ];
}

/** Buttons that continue with the picture in a view. */
function actions(picture, card, dialog) {
  const { seed } = picture;
  const label = card.class_names.indexOf(picture.class_label);
  const go = (text, patch) =>
    button(text, () => {
      dialog.close();
      change({ ...patch, ...(label >= 0 && { classes: label }) });
    });
  const fromSeed = picture.alone && [
    go("Lock this seed", { view: "gallery", seed, lock: 1 }),
    can(card, "interpolate") && go("Interpolate from", { view: "interpolate", from: seed }),
    can(card, "interpolate") && go("Interpolate to", { view: "interpolate", to: seed }),
    denoises(card) && go("Film", { view: "film", seed }),
    go("Compare", { view: "compare", seed }),
  ];
  const takesPictures = can(card, "image_to_image") || can(card, "variations");
  const asImage = button("Use as image", () => {
    hold({ image: dataUrl(picture) });
    dialog.close();
    change({ view: "draw" });
  });
  return [...(fromSeed || []), takesPictures && asImage];
}

/** Fill in the parameters in the picture's file, and the commands and files that they make. */
async function describe(picture, card, facts, commands) {
  const png = pngBlob(picture);
  const found = await inspect(png);
  const shown = { model: `${found.model} ${found.model_version}`, ...found.params };
  facts.append(
    ...Object.entries(shown)
      .map(([name, value]) => [name, value?.name ? `${value.name} × ${value.scale}` : value])
      .filter(([, value]) => value !== null && String(value).length < 64)
      .map(([name, value]) => h("div", {}, h("dt", {}, name.replaceAll("_", " ")), h("dd", {}, String(value)))),
  );
  const code = h("pre", { tabIndex: 0, "aria-label": "Command" }, found.curl);
  commands.append(
    code,
    h(
      "div",
      { class: "actions" },
      copyButton("Copy as curl", () => found.curl, code),
      copyButton("Copy as Python", () => found.python, code),
    ),
    h("div", { class: "actions" }, h("span", { class: "hint" }, "Save as"), files(picture, card, found, commands)),
  );
  commands.hidden = false;
}

function files(picture, card, { model, path, params }, commands) {
  const name = `${model}-${picture.seed ?? "picture"}`;
  const scale = enlargement(picture.width);
  const save = (text, accept, ending, more = {}) =>
    button(text, () =>
      getFile(path, { body: { ...params, ...more }, accept })
        .then((file) => download(file, `${name}.${ending}`))
        .catch((problem) => fail(commands, problem)),
    );
  const plain = [button("PNG", () => download(pngBlob(picture), `${name}.png`))];
  if (scale > 1) plain.push(save(`PNG ${scale} × larger`, "image/png", `${scale}x.png`, { scale }));
  const film = fieldsOf(card, "generate").layout?.enum.includes("film");
  return [
    ...plain,
    save("WebP", "image/webp", "webp", { scale }),
    film && save("Film as GIF", "image/gif", "gif", { layout: "film", scale: enlargement(2 * picture.width) }),
    save("npy", "application/x-npy", "npy"),
  ];
}

/** Show an error in `element`. */
function fail(element, problem) {
  element.append(h("p", { class: "hint", role: "alert" }, problem.message));
}
