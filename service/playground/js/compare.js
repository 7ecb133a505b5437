// The compare view: the same seeds with several models, or with several values of one setting.

import { can, denoises, fieldsOf, guidesClasses, readsText, sampling, stepChoices } from "./card.js";
import { choice, classNamesOf, group, oneClass, seedField, seedForm, seedOf, sendButton, slider } from "./controls.js";
import { copyLink } from "./copy.js";
import { duration, h } from "./dom.js";
import { Progress, runner } from "./progress.js";
import { promptControls, promptFields, sizeControls } from "./prompt.js";
import { samplingControls, samplingFields, truncationControl, truncationField } from "./sampling.js";
import { Sheet } from "./sheet.js";
import { note, number, read } from "./state.js";

const PICTURES = 4;
const MOST_PICTURES = 16;
const GUIDANCE = [1, 2, 3, 5, 7, 10];
/** Step counts to compare, spread over those that the model offers. */
const STEP_COUNTS = 5;
const TRUNCATIONS = [0.25, 0.5, 0.75, 1];

export const lede = "The same seeds, by every model or with several settings, and what each takes.";

/** The view for `card`'s model in `stage`, its settings in `aside`, until `signal`. `cards`: all models. */
export function mount({ card, cards, stage, aside, signal }) {
  const progress = new Progress();
  const run = runner(progress, signal);
  const rows = h("div", { class: "comparison" });
  const generate = () => run((stop) => compare({ card, cards, rows, progress }, stop));
  settings(card, cards, aside, generate);
  stage.append(progress.element, progress.failure, rows, h("div", { class: "actions" }, copyLink()));
  generate();
}

/** What can be compared: by name, the rows as `{title, card, fields}`. */
function axesOf(card, cards, state) {
  const rivals = cards.filter((other) => comparable(card, other, state));
  const { steps, guidance, solver } = denoises(card) ? sampling(card) : {};
  const ofOne = (title, fields) => ({ title, card, fields });
  const axes = {
    models: rivals.length > 1 && rivals.map((each) => ({ title: each.name, card: each, fields: {} })),
    guidance:
      guidance &&
      (guidesClasses(card) || readsText(card)) &&
      GUIDANCE.filter((scale) => scale >= guidance.least && scale <= guidance.most).map((scale) =>
        ofOne(`guidance ${scale}`, { guidance_scale: scale }),
      ),
    steps: steps && spread(stepChoices(steps), steps).map((count) => ofOne(plural(count, "step"), { steps: count })),
    solver: solver?.choices.length > 1 && solver.choices.map((name) => ofOne(name, { solver: name })),
    truncation:
      "truncation" in fieldsOf(card, "generate") &&
      TRUNCATIONS.map((value) => ofOne(`truncation ${value}`, { truncation: value })),
  };
  return Object.fromEntries(Object.entries(axes).filter(([, found]) => found));
}

/** Whether `other` draws what the state asks of `card`. */
function comparable(card, other, state) {
  const names = classNamesOf(state, card);
  return (
    can(other, "generate") && readsText(other) === readsText(card) && names.every((name) => other.class_names.includes(name))
  );
}

/** Up to STEP_COUNTS of `choices` from 1 to twice the default. */
function spread(choices, { value }) {
  const useful = choices.filter((count) => count <= 2 * value);
  const last = useful.length - 1;
  const picked = Array.from({ length: STEP_COUNTS }, (_, at) => useful[Math.round((at * last) / (STEP_COUNTS - 1))]);
  return [...new Set(picked)];
}

const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;

/** Generate the rows one after the other, so that each one's time is its own. */
async function compare({ card, cards, rows, progress }, stop) {
  const state = read();
  const axes = axesOf(card, cards, state);
  const chosen = axes[state.by] ?? Object.values(axes)[0] ?? [];
  const lines = chosen.map((each) => line(each));
  rows.replaceChildren(...lines.map(({ element }) => element));
  const spent = { total_ms: 0, queue_ms: 0 };
  for (const [index, { title, sheet, card: own, fields, report }] of lines.entries()) {
    const quiet = {
      queued: (event) => progress.queued(event),
      running: (done, text) => progress.running((index + done) / lines.length, `${title}: ${text}`),
      done: (_, timings) => report(timings, qualityOf(own, own === card ? { ...state, ...fields } : {})),
    };
    const { timings } = await sheet.fill(requestOf(state, own, card, fields), [], quiet, stop);
    for (const name of Object.keys(spent)) spent[name] += timings[name];
  }
  progress.done(plural(lines.length, "row"), spent);
}

/** One row: a title, its time, the model's measured quality, and its pictures. */
function line({ title, card, fields }) {
  const sheet = new Sheet(card);
  const facts = h("p", { class: "hint" }, "waiting");
  const report = ({ compute_ms: computed, total_ms: total }, quality) => {
    const parts = [`${duration(computed)} computing`, `${duration(total)} in all`, quality];
    facts.textContent = parts.filter(Boolean).join(" · ");
  };
  const element = h("section", { class: "compared-row" }, h("header", {}, h("h2", {}, title), facts), sheet.element);
  return { title, card, fields, sheet, report, element };
}

/** The model's measured quality with `settings`, of the state or a row; empty if that was not measured. */
function qualityOf(card, settings) {
  if (["guidance", "guidance_scale", "truncation"].some((name) => name in settings)) return "";
  const { steps, solver } = denoises(card) ? sampling(card) : {};
  const count = number(settings.steps, steps?.value);
  // A model without steps has no sampler.
  const names = [null, undefined, `${settings.solver ?? solver?.value} ${plural(count, "step")}`];
  const found = card.manifest.quality?.find(({ sampler }) => names.includes(sampler));
  return found ? `${found.metric} ${found.value.toPrecision(2)}` : "";
}

/** The request of a row: the sampling settings in the state are those of the chosen model `card`. */
function requestOf(state, own, card, fields) {
  const [label] = classNamesOf(state, card);
  const ours = denoises(card) ? samplingFields(card, state) : truncationField(card, state);
  const { prompt, negative_prompt: negative } = promptFields(own, state, "generate");
  const theirs = { ...(prompt && { prompt }), ...(negative && { negative_prompt: negative }) };
  const request = {
    n: Math.min(number(state.n, PICTURES), MOST_PICTURES),
    seed: seedOf(state),
    ...(label !== undefined && { class_label: label }),
    ...(own === card ? ours : theirs),
    ...fields,
  };
  // Without guidance a negative prompt is an error.
  if (request.guidance_scale === 1) delete request.negative_prompt;
  return request;
}

function settings(card, cards, aside, generate) {
  const state = read();
  const seed = seedField({ seed: seedOf(state), locked: Boolean(state.lock), on: note });
  const axes = Object.keys(axesOf(card, cards, state));
  aside.append(
    seedForm(
      seed,
      generate,
      promptControls(card, state, generate),
      choice({
        label: "Compare",
        choices: axes,
        value: axes.includes(state.by) ? state.by : axes[0],
        on: (by) => {
          note({ by });
          generate();
        },
      }),
      oneClass(card, state, generate),
      group(
        "Pictures",
        slider({
          label: "How many",
          min: 1,
          max: MOST_PICTURES,
          value: Math.min(number(state.n, PICTURES), MOST_PICTURES),
          on: (n) => note({ n }),
        }),
        seed,
      ),
      sizeControls(card, state),
      denoises(card) ? samplingControls(card, state) : truncationControl(card, state),
      sendButton("Generate"),
    ),
  );
}
