// The pictures that are passed to a view. They are too long for the address.

let pictures = {};

/** Store pictures for the next view: data URLs `image`, `mask`, `control`, `from`, `to`, or a `file`. */
export function hold(held) {
  pictures = held;
}

/** Return the stored pictures and forget them. */
export function takeHeld() {
  const kept = pictures;
  pictures = {};
  return kept;
}
