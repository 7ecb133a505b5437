// The API key of a service that needs one.
//
// It is kept in sessionStorage, which ends with the tab. localStorage would keep it on the disk, for all tabs and for
// everyone who uses this browser later. A cookie would be sent with the requests of other sites' pages too.

import { h, uniqueId } from "./dom.js";

const NAME = "api-key";
const forget = document.getElementById("forget");
let asking = null;

/** The key that requests are sent with; null without one. */
export const currentKey = () => sessionStorage.getItem(NAME);

/** Headers that present `key`. */
export const presenting = (key) => (key ? { Authorization: `Bearer ${key}` } : {});

/** The button that forgets the key, shown while there is one. The page then loads again, and asks for another one. */
export function installForget() {
  forget.addEventListener("click", () => {
    sessionStorage.removeItem(NAME);
    location.reload();
  });
  forget.hidden = !currentKey();
}

/**
 * Ask the user for a key; `refusal` says why the last one was rejected. Returns whether there is a new one. Requests
 * that need a key at the same time share one dialog.
 */
export function askForKey(refusal) {
  asking ??= openDialog(refusal).finally(() => (asking = null));
  return asking;
}

function openDialog(refusal) {
  const [input, hint] = [uniqueId("key"), uniqueId("hint")];
  // A header holds printable ASCII only. The type keeps the key from the screen, not from a password manager.
  const field = h("input", {
    ...{ id: input, type: "password", required: true, pattern: "\\s*[!-~]+\\s*", autocomplete: "off" },
    ...{ title: "letters, digits and punctuation, without spaces", "aria-describedby": hint },
  });
  const cancel = h("button", { type: "button", class: "quiet" }, "Cancel");
  const form = h(
    "form",
    {},
    h("h2", {}, "This service needs an API key"),
    refusal && h("p", { role: "alert" }, refusal),
    h("div", { class: "field" }, h("label", { for: input }, "API key"), field),
    h("p", { class: "hint", id: hint }, "The operator of the service gives you one. It is kept until you close this tab."),
    h("div", { class: "actions" }, h("button", { type: "submit", class: "primary" }, "Use this key"), cancel),
  );
  const dialog = h("dialog", { class: "key", "aria-label": "This service needs an API key" }, form);
  document.body.append(dialog);
  dialog.showModal();
  return new Promise((resolve) => {
    cancel.addEventListener("click", () => dialog.close());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      sessionStorage.setItem(NAME, field.value.trim());
      forget.hidden = false;
      dialog.close("key");
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "key");
    });
  });
}
