// The picture that one view hands to another; it is in no address, being too long for one.

let image = null;

/** Keep `blob`, a picture's file, for the view that takes it. */
export function keepImage(blob) {
  image = blob;
}

/** The picture that was kept, once. */
export function takeImage() {
  const kept = image;
  image = null;
  return kept;
}
