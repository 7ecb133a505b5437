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

/** A file as a data URL. */
function asDataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}

/** Longest side of an upload in pixels: models are far smaller, and the service rejects large files. */
const LONGEST_UPLOAD = 512;

/** A picture file as a data URL, downscaled to LONGEST_UPLOAD: a photo has 12 megapixels. */
export async function asUpload(file) {
  const picture = await createImageBitmap(file);
  const scale = LONGEST_UPLOAD / Math.max(picture.width, picture.height);
  if (scale >= 1) return asDataUrl(file);
  const canvas = new OffscreenCanvas(Math.ceil(picture.width * scale), Math.ceil(picture.height * scale));
  canvas.getContext("2d").drawImage(picture, 0, 0, canvas.width, canvas.height);
  return asDataUrl(await canvas.convertToBlob());
}
