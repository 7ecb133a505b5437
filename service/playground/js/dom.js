// Elements are built without HTML strings, so that no data of the service is parsed as HTML.

/**
 * An element. `on*` properties are listeners, `aria`, `role`, `for` and data-* are attributes, the rest are properties.
 * Children that are null or false are left out.
 */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "list")
      element.setAttribute(name, value);
    else element[name === "class" ? "className" : name] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

let count = 0;

/** A unique element id. */
export const uniqueId = (name) => `${name}-${++count}`;

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Milliseconds as text: "84 ms", "1.2 s". */
export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 1 : 0)} s`;
}

/** Width in pixels of a picture that is saved enlarged, and the largest factor that the service accepts. */
const ENLARGED = 512;
const MOST_SCALE = 32;

/** The factor that makes a picture of `width` pixels comfortably large. */
export const enlargement = (width) => Math.min(MOST_SCALE, Math.max(1, Math.floor(ENLARGED / width)));

/** Save a blob as a file. */
export function download(blob, name) {
  const url = URL.createObjectURL(blob);
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

/** The PNG file of a picture in an answer. */
export const pngBlob = (picture) => new Blob([fromBase64(picture.b64_json)], { type: "image/png" });

/** A picture in an answer as a data URL. */
export const dataUrl = (picture) => `data:${picture.mime};base64,${picture.b64_json}`;

/** The pixels of a picture, ready to draw. */
export const bitmap = (picture) => createImageBitmap(pngBlob(picture));

/** A canvas of `width` × `height` pixels. */
export const canvasOf = (width, height, name = "") => h("canvas", { width, height, class: name });

/** The context of a canvas whose pixels are read often. */
export const contextOf = (canvas) => canvas.getContext("2d", { willReadFrequently: true });

/** The pixels of a picture at a data URL. Decoded here: the page's policy forbids to fetch one. */
export const bitmapOf = (url) => createImageBitmap(new Blob([fromBase64(url.slice(url.indexOf(",") + 1))]));
