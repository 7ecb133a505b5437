// Copying text to the clipboard.

import { h } from "./dom.js";

const SHOWN_MS = 1600;

/** A button that copies `text()`; without access to the clipboard it shows the text in `code`, selected. */
export function copyButton(label, text, code = null) {
  const button = h("button", { type: "button" }, label);
  button.addEventListener("click", async () => {
    if (code) code.textContent = text();
    button.textContent = await copy(text(), code);
    setTimeout(() => (button.textContent = label), SHOWN_MS);
  });
  return button;
}

/** What became of it. The clipboard needs localhost or TLS. */
async function copy(text, code) {
  try {
    await navigator.clipboard.writeText(text);
    return "Copied";
  } catch {
    if (!code) return "The clipboard is closed";
    getSelection().selectAllChildren(code);
    return "Selected: press Ctrl+C";
  }
}

/** A button that copies the address of the page with its settings. */
export const copyLink = () => copyButton("Copy link", () => location.href);
