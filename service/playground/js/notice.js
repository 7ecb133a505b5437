// One notice at the foot of the window; a new one replaces it.

import { Problem } from "./api.js";
import { h } from "./dom.js";

const SHOWN_MS = 6000;
let timer = null;

/** Show `text` for a few seconds. */
export function notify(text) {
  let notice = document.querySelector(".notice");
  if (!notice) document.body.append((notice = h("p", { class: "notice", role: "status" })));
  notice.textContent = text;
  clearTimeout(timer);
  timer = setTimeout(() => notice.remove(), SHOWN_MS);
}

/** Run `work`, and show the Problem that it throws. */
export async function attempt(work) {
  try {
    return await work();
  } catch (failure) {
    if (!(failure instanceof Problem)) throw failure;
    notify(failure.message);
    return null;
  }
}
