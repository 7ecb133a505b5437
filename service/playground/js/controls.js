// Form controls of the settings column: a label, a control and its value.

import { h, uniqueId } from "./dom.js";
import { anySeed, change, note, number } from "./state.js";

/** A named group of settings. */
export const group = (title, ...children) => h("fieldset", { class: "group" }, h("legend", {}, title), ...children);

/** The button that submits a view's settings; always visible. On a phone another one shows all settings. */
export function sendButton(text) {
  const more = h("button", { type: "button", class: "more", "aria-expanded": "false" }, "Settings");
  more.addEventListener("click", () => {
    const form = more.closest("form");
    more.setAttribute("aria-expanded", form.classList.toggle("open"));
    form.scrollIntoView({ block: "start" });
  });
  return h("div", { class: "submit" }, more, h("button", { class: "primary wide", type: "submit" }, text));
}

/** A slider that shows its value. `choices`, if given, are its values; they need not be evenly spaced. */
export function slider({ label, min, max, step = 1, value, choices, show = String, hint, on }) {
  const id = uniqueId("slider");
  const at = choices ? Math.max(0, choices.indexOf(value)) : value;
  const output = h("output", { for: id }, show(value));
  const input = h("input", {
    id,
    type: "range",
    min: choices ? 0 : min,
    max: choices ? choices.length - 1 : max,
    step: choices ? 1 : step,
  });
  input.value = at;
  const valueOf = () => (choices ? choices[input.valueAsNumber] : input.valueAsNumber);
  const update = () => {
    output.textContent = show(valueOf());
    input.setAttribute("aria-valuetext", show(valueOf()));
  };
  input.addEventListener("input", () => {
    update();
    on(valueOf());
  });
  update();
  return h(
    "div",
    { class: "field" },
    h("label", { for: id }, label),
    output,
    input,
    hint && h("p", { class: "hint" }, hint),
  );
}

/** One of several choices: up to three as buttons in a row, more as a list. */
export function choice(options) {
  return options.choices.length > 3 ? list(options) : segmented(options);
}

function segmented({ label, choices, value, on }) {
  const name = uniqueId("choice");
  const buttons = choices.map((each) => {
    const input = h("input", { type: "radio", name, value: each, checked: each === value, onchange: () => on(each) });
    return h("label", {}, input, h("span", {}, each));
  });
  return h("fieldset", { class: "field segmented" }, h("legend", {}, label), h("div", {}, buttons));
}

/** One of several choices as a list. */
export function list({ label, choices, value, on }) {
  const id = uniqueId("list");
  const select = h(
    "select",
    { id, onchange: () => on(select.value) },
    choices.map((each) => h("option", { value: each, selected: each === value }, each)),
  );
  return h("div", { class: "field" }, h("label", { for: id }, label), select);
}

/** A field for text. Enter submits its form, unless it has `lines`. Its method `set(value)` replaces the text. */
export function textArea({ label, value, on, unseen = false, lines = false, hint }) {
  const id = uniqueId("text");
  const area = h("textarea", { id, rows: 2, maxLength: 10_000, oninput: () => on(area.value) });
  area.addEventListener("keydown", (event) => {
    if (lines || event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    area.form?.requestSubmit();
  });
  const element = h(
    "div",
    { class: "field" },
    h("label", { for: id, class: unseen ? "unseen" : "" }, label),
    area,
    hint && h("p", { class: "hint" }, hint),
  );
  element.set = (text) => {
    area.value = text ?? "";
    on(area.value);
  };
  area.value = value ?? "";
  return element;
}

/** Suggestions shown at a time. */
const SHOWN = 6;

/** Buttons with suggestions, a few at a time; `on` receives the chosen one. Null without suggestions. */
export function suggestions(all, on) {
  if (!all.length) return null;
  let first = 0;
  const chips = all.slice(0, SHOWN).map((text) => {
    const chip = h("button", { type: "button", class: "chip", onclick: () => on(chip.textContent) }, text);
    return chip;
  });
  const others = () => {
    first += SHOWN;
    chips.forEach((chip, at) => (chip.textContent = all[(first + at) % all.length]));
  };
  return h(
    "div",
    { class: "chips", role: "group", "aria-label": "Examples" },
    chips,
    all.length > SHOWN && h("button", { type: "button", class: "chip quiet", onclick: others }, "Other examples"),
  );
}

const SEVERAL_HINT = "One row per class. None selected: all in turn.";
const ONE_HINT = "None selected: the seed decides.";

/** Class selection: one or several; without a selection all in turn. `on` receives the indices. */
export function classChips({ names, selected, several, hint, on }) {
  if (!names.length) return null;
  let chosen = new Set(selected);
  const chips = names.map((name, index) =>
    h("button", { type: "button", class: "chip", onclick: () => toggle(index) }, name),
  );
  const mark = () => chips.forEach((chip, index) => chip.setAttribute("aria-pressed", chosen.has(index)));
  const toggle = (index) => {
    const kept = several ? [...chosen].filter((each) => each !== index) : [];
    chosen = new Set(chosen.has(index) ? kept : [...kept, index]);
    mark();
    on([...chosen].sort((a, b) => a - b));
  };
  mark();
  return group(
    several ? "Classes" : "Class",
    h("div", { class: "chips" }, chips),
    h("p", { class: "hint" }, hint ?? (several ? SEVERAL_HINT : ONE_HINT)),
  );
}

/** Selection of one class, kept in the state; `go` makes the pictures of another one. */
export function oneClass(card, state, go, hint) {
  const selected = classesOf(state, card).slice(0, 1);
  const on = ([found]) => {
    note({ classes: found });
    go();
  };
  return classChips({ names: card.class_names, selected, several: false, hint, on });
}

/** The seed: typed, or a new random one by `draw()` (with a history entry) unless it is locked. */
export function seedField({ seed, locked, on }) {
  const id = uniqueId("seed");
  const input = h("input", {
    id,
    type: "number",
    min: 0,
    max: 2 ** 32 - 1,
    step: 1,
    value: seed,
    inputMode: "numeric",
  });
  const lock = h("button", { type: "button", class: "quiet", title: "Keep this seed for the next pictures" });
  const set = (isLocked) => {
    locked = isLocked;
    lock.textContent = locked ? "Locked" : "Lock";
    lock.setAttribute("aria-pressed", locked);
  };
  const report = () => on({ seed: number(input.value, seed), lock: locked ? 1 : null });
  lock.addEventListener("click", () => {
    set(!locked);
    report();
  });
  input.addEventListener("input", () => {
    set(true); // a typed seed must survive the next submit
    report();
  });
  set(locked);
  const element = h(
    "div",
    { class: "field seed" },
    h("label", { for: id }, "Seed"),
    h("div", { class: "row" }, input, lock),
  );
  element.draw = () => {
    if (locked) return;
    input.value = anySeed();
    change({ seed: input.value }, { quiet: true });
  };
  return element;
}

/** A form with `controls`. Submitting it draws a new seed, unless it is locked, and calls `make`. */
export function seedForm(seed, make, ...controls) {
  const onsubmit = (event) => {
    event.preventDefault();
    seed.draw();
    make();
  };
  return h("form", { onsubmit }, ...controls);
}

/** The classes in the state, as indices. */
export const classesOf = (state, card) =>
  (state.classes ?? "")
    .split(",")
    .filter(Boolean)
    .map(Number)
    .filter((index) => index < card.class_names.length);

/** The names of those classes; a number in a request could mean an index or a name. */
export const classNamesOf = (state, card) => classesOf(state, card).map((index) => card.class_names[index]);

/** The seed in the state; if there is none, a random one is stored there. */
export function seedOf(state) {
  if (state.seed !== undefined) return number(state.seed, 0);
  const seed = anySeed();
  note({ seed });
  return seed;
}
