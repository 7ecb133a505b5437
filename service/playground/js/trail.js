// The pictures that were generated before, kept in localStorage: each leads back to its settings.

import { isGrey } from "./card.js";
import { bitmap, canvasOf, contextOf, h } from "./dom.js";

const KEY = "trail";
const MOST = 24;
const SIDE = 56;

/** Entries, latest first: the `hash` of the address, a `title`, whether it is `grey`, and a small `picture`. */
function entries() {
  try {
    const found = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

/** Store a picture of an answer with the `hash` of the address that makes it again. */
export async function remember(card, picture, hash) {
  const view = hash.slice(1).split("?")[0];
  const title = [view, card.name, picture.class_label ?? picture.prompt, `seed ${picture.seed}`].filter(Boolean).join(", ");
  const entry = { hash, title, grey: isGrey(card), picture: await small(picture) };
  const all = [entry, ...entries().filter((each) => each.hash !== hash)].slice(0, MOST);
  try {
    localStorage.setItem(KEY, JSON.stringify(all));
  } catch {
    return; // storage is full or closed: the page works without
  }
  showTrail();
}

async function small(picture) {
  const pixels = await bitmap(picture);
  const scale = Math.min(1, SIDE / Math.max(pixels.width, pixels.height));
  const canvas = canvasOf(Math.ceil(pixels.width * scale), Math.ceil(pixels.height * scale));
  contextOf(canvas).drawImage(pixels, 0, 0, canvas.width, canvas.height);
  return canvas.toDataURL();
}

/** Show the entries in the page. */
export function showTrail() {
  const strip = document.getElementById("trail");
  const all = entries();
  strip.hidden = !all.length;
  const clear = () => {
    localStorage.removeItem(KEY);
    showTrail();
  };
  strip.replaceChildren(
    h("header", { class: "row" }, h("h2", {}, "Earlier pictures"), button("Clear", clear)),
    h("div", { class: "trail-pictures" }, all.map(link)),
  );
}

const button = (text, onclick) => h("button", { type: "button", class: "quiet", onclick }, text);

const link = ({ hash, title, grey, picture }) =>
  h("a", { href: hash, title, class: grey ? "grey" : "" }, h("img", { src: picture, alt: title }));
