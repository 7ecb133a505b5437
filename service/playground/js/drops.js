// Files dropped or pasted on the page: a picture of this service restores its settings, any other one is drawn on.

import { inspect, Problem } from "./api.js";
import { can } from "./card.js";
import { openFile } from "./fit-dialog.js";
import { hold } from "./held.js";
import { attempt, notify } from "./notice.js";
import { settingsOf } from "./restore.js";
import { change, read } from "./state.js";

/** Take files for the models of `cards`. Views that have a place for a picture handle the event before. */
export function takeDrops(cards) {
  addEventListener("dragover", (event) => event.preventDefault());
  for (const [name, data] of [["drop", "dataTransfer"], ["paste", "clipboardData"]]) {
    addEventListener(name, (event) => {
      if (event.defaultPrevented) return;
      const [file] = event[data]?.files ?? [];
      if (!file && name === "paste") return;
      event.preventDefault();
      if (file) attempt(() => take(file, cards));
    });
  }
}

async function take(file, cards) {
  await openFile(file); // throws for a file that is no picture
  const found = await inspect(file).catch((failure) => {
    if (failure instanceof Problem && failure.status >= 400 && failure.status < 500) return null;
    throw failure;
  });
  if (!found) return drawOn(file, cards);
  const card = cards.find(({ name }) => name === found.model);
  if (!card) return notify(`The model ${found.model} of this picture is not served.`);
  const { patch, held, missing } = settingsOf(found.path, found.params, card);
  hold(held);
  change(patch);
  notify(message(found, missing));
}

/** What was restored, and what was not. */
function message({ model, model_version: made, served_version: served }, missing) {
  const but = missing.length ? ` Not restored: ${missing.join(", ")}.` : "";
  const other = made === served ? "" : ` The picture is from version ${made} of ${model}; ${served} may draw it otherwise.`;
  return `Settings restored from the picture.${but}${other}`;
}

/** Open a picture of another origin in the draw view. */
function drawOn(file, cards) {
  const card = cards.find(({ name }) => name === read().model);
  if (!can(card, "image_to_image") && !can(card, "variations")) {
    return notify(`The file has no settings of this service, and ${card.name} does not start from pictures.`);
  }
  hold({ file });
  change({ view: "draw" });
}
