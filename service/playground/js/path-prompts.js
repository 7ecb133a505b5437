// The points of a path with their prompts, for models that read text.

import { readsText } from "./card.js";
import { group, suggestions, textArea } from "./controls.js";
import { MOST_VIA, viaOf } from "./ends.js";
import { laterControls } from "./prompt.js";
import { note, read } from "./state.js";

/**
 * The prompts of the end points and of points between, kept in the state; null for a model that reads no text. The
 * element's method `swap()` exchanges the ends.
 */
export function promptsOfPath(card, state, walk) {
  if (!readsText(card)) return null;
  const field = (name, label, more) =>
    textArea({ label, value: state[name], on: (value) => note({ [name]: value }), ...more });
  const from = field("prompt", "From");
  const to = field("to_prompt", "To", { hint: card.examples.length ? "Or one of these:" : undefined });
  const via = field("via_prompts", "Via", { lines: true, hint: "One prompt per line." });
  const choose = (example) => {
    to.set(example);
    walk();
  };
  const element = group("Prompts", from, to, suggestions(card.examples, choose), laterControls(card, state, via));
  element.swap = () => {
    const { prompt, to_prompt: other = prompt } = read();
    from.set(other);
    to.set(prompt);
  };
  return element;
}

/** Prompts of the points between, in the state as lines; an empty line is a point with the prompt of the path. */
const viaPromptsOf = (card, { via_prompts: lines = "" }) =>
  readsText(card) && lines.trim()
    ? lines
        .trimEnd()
        .split("\n")
        .map((line) => line.trim())
    : [];

/** The points of a request: the ends, and between them those with a seed or a prompt of their own. */
export function pointsOf(card, state, { from, to }) {
  const [seeds, prompts] = [viaOf(state), viaPromptsOf(card, state)];
  const between = Math.min(MOST_VIA, Math.max(seeds.length, prompts.length));
  const via = Array.from({ length: between }, (_, at) => ({
    seed: seeds[at] ?? from.point.seed,
    ...(prompts[at] && { prompt: prompts[at] }),
  }));
  const last = readsText(card) && state.to_prompt ? { prompt: state.to_prompt } : {};
  return [from.point, ...via, { ...to.point, ...last }];
}
