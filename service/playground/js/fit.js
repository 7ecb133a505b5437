// Fitting a photo to the pictures that a model learnt from: crop, brightness, contrast, inversion. Levels are 0 to 1.

import { canvasOf, contextOf } from "./dom.js";

/** Longest side in pixels at which a photo is examined, and at which it is kept. */
const EXAMINED = 64;
const KEPT = 512;
/** Largest difference of border levels of an even background. */
const EVEN = 0.15;
/** Smallest difference of a channel from the background that belongs to the object. */
const OBJECT = 0.12;
/** Share of the frame that the object fills, and the level of its strongest part. */
const FILLS = 0.96;
const STRONG = 0.85;
const MOST_CONTRAST = 2.5;

/** A crop to the centre that keeps all tones. `x` and `y`: the crop's centre, from -1 to 1 across the photo. */
export const PLAIN = { invert: false, brightness: 0, contrast: 1, zoom: 1, x: 0, y: 0 };

const luminance = (data, at) => (0.299 * data[at] + 0.587 * data[at + 1] + 0.114 * data[at + 2]) / 255;

/** Replace colours by grey, in place. */
export function toGrey({ data }) {
  for (let at = 0; at < data.length; at += 4) {
    const grey = 255 * luminance(data, at);
    data.set([grey, grey, grey], at);
  }
}

/** `picture` on white, scaled to at most `side` pixels. */
export function scaled(picture, side = KEPT) {
  const scale = Math.min(1, side / Math.max(picture.width, picture.height));
  const [width, height] = [picture.width, picture.height].map((each) => Math.max(1, Math.round(each * scale)));
  const canvas = canvasOf(width, height);
  const context = contextOf(canvas);
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(picture, 0, 0, width, height);
  return canvas;
}

/** The picture of `width` × `height` pixels that `settings` make of `source`, a canvas. */
export function fitted(source, { width, height }, { invert, brightness, contrast, zoom, x, y }, grey) {
  const scale = zoom * Math.max(width / source.width, height / source.height);
  const canvas = canvasOf(width, height);
  const context = contextOf(canvas);
  const [red, green, blue] = backgroundOf(contextOf(source).getImageData(0, 0, source.width, source.height)).colour;
  context.fillStyle = `rgb(${red} ${green} ${blue})`;
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  const left = width / 2 - (scale * source.width * (1 + x)) / 2;
  const top = height / 2 - (scale * source.height * (1 + y)) / 2;
  context.drawImage(source, left, top, scale * source.width, scale * source.height);
  const pixels = context.getImageData(0, 0, width, height);
  if (grey) toGrey(pixels);
  const { data } = pixels;
  for (let at = 0; at < data.length; at += 1) {
    if (at % 4 === 3) continue;
    const level = 255 * ((data[at] / 255 - 0.5) * contrast + 0.5 + brightness);
    data[at] = invert ? 255 - level : level;
  }
  context.putImageData(pixels, 0, 0);
  return canvas;
}

/**
 * The settings for a photo of one object on an even background, for a model whose pictures have the background level
 * `ground` (null: unknown): the object fills the frame, and for grey models background and tones match. PLAIN for any
 * other photo.
 */
export function suggest(source, frame, ground, grey) {
  const small = scaled(source, EXAMINED);
  const pixels = contextOf(small).getImageData(0, 0, small.width, small.height);
  const background = backgroundOf(pixels);
  const box = ground === null || !background.even ? null : objectOf(pixels, background.colour);
  if (!box) return PLAIN;
  const cover = Math.max(frame.width / small.width, frame.height / small.height);
  const zoom = (FILLS * Math.min(frame.width / box.width, frame.height / box.height)) / cover;
  const crop = { zoom, x: (2 * box.x) / small.width - 1, y: (2 * box.y) / small.height - 1 };
  return { ...PLAIN, ...crop, ...(grey && tones(background.level, box.level, ground)) };
}

/** Inversion, brightness and contrast that map `level` to `ground`, and `object` to the other end. */
function tones(level, object, ground) {
  const invert = Math.abs(1 - level - ground) < Math.abs(level - ground);
  const goal = invert ? 1 - ground : ground;
  const reach = goal > 0.5 ? goal - (1 - STRONG) : STRONG - goal;
  const contrast = Math.min(MOST_CONTRAST, Math.max(1, reach / Math.max(0.01, Math.abs(object - level))));
  return { invert, contrast, brightness: goal - 0.5 - (level - 0.5) * contrast };
}

/** The median colour and level of a picture's border, and whether the border is even. */
function backgroundOf({ data, width, height }) {
  const border = [];
  for (let x = 0; x < width; x += 1) border.push(4 * x, 4 * (width * (height - 1) + x));
  for (let y = 0; y < height; y += 1) border.push(4 * width * y, 4 * (width * y + width - 1));
  const levels = border.map((at) => luminance(data, at)).sort((a, b) => a - b);
  const part = (share) => levels[Math.floor(share * (levels.length - 1))];
  const colour = [0, 1, 2].map((channel) => median(border.map((at) => data[at + channel])));
  return { colour, level: part(0.5), even: part(0.9) - part(0.1) < EVEN };
}

/** Centre, size and strongest level of what differs from `colour`; null if nothing does. */
function objectOf({ data, width, height }, colour) {
  const found = [];
  for (let at = 0; at < data.length; at += 4) {
    const apart = Math.max(...colour.map((value, channel) => Math.abs(data[at + channel] - value)));
    if (apart > 255 * OBJECT) found.push(at / 4);
  }
  if (!found.length) return null;
  const [left, right] = extremes(found.map((index) => index % width));
  const [top, bottom] = extremes(found.map((index) => Math.floor(index / width)));
  const ground = luminance(colour, 0);
  const byStrength = (a, b) => Math.abs(a - ground) - Math.abs(b - ground);
  const levels = found.map((index) => luminance(data, 4 * index)).sort(byStrength);
  return {
    x: (left + right + 1) / 2,
    y: (top + bottom + 1) / 2,
    width: right - left + 1,
    height: bottom - top + 1,
    level: levels[Math.floor(0.95 * (levels.length - 1))],
  };
}

const extremes = (values) => [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];

/** The middle one of `values`. */
export const median = (values) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)];

/** The background level of a sheet of pictures of `width` × `height` pixels, by their corners; null if it varies. */
export function groundOf(sheet, { width, height }) {
  const canvas = scaled(sheet, Infinity);
  const { data } = contextOf(canvas).getImageData(0, 0, canvas.width, canvas.height);
  const levels = [];
  for (let top = 0; top + height <= canvas.height; top += height)
    for (let left = 0; left + width <= canvas.width; left += width)
      for (const y of [top, top + height - 1])
        for (const x of [left, left + width - 1]) levels.push(luminance(data, 4 * (canvas.width * y + x)));
  const middle = median(levels);
  const near = levels.filter((level) => Math.abs(level - middle) < EVEN).length;
  return near > 0.7 * levels.length ? middle : null;
}
