// The picture that one view passes to another. It is too long for the address.

let image = null;

/** Store `blob`, a picture file, for the next view. */
export function keepImage(blob) {
  image = blob;
}

/** Return the stored picture and forget it. */
export function takeImage() {
  const kept = image;
  image = null;
  return kept;
}
