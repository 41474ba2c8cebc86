// Stain of the open field: a cut-off of the DAB optical density that decides positive and negative tumour nuclei at once.
// It changes what is shown and nothing in the session.

import { $, attribute, number, percent, shown, text } from "./dom.js";
import { get } from "./server.js";
import { trying } from "./words.js";

/** The open field. @type {import("./types.js").FieldNuclei | null} */
let data = null;
/** @type {({key: string} & import("./types.js").FieldStain) | null} */
let measured = null;
let used = false;
let loading = false;
let redraw = () => {};

/** Return what the measurement of a field depends on. */
const keyOf = ({ field, nuclei }) => `${field.id} ${nuclei.n.length} ${JSON.stringify(field.region)}`;

/**
 * Return the class indices by density: positive from the cut-off on, below it negative. Other classes, and nuclei that
 * were edited by hand, keep theirs.
 *
 * @param {string[]} classes
 * @param {{c: number[], touched: boolean[]}} nuclei
 * @param {number[]} density
 * @param {number} cut
 */
export function classify(classes, { c, touched }, density, cut) {
  const [positive, negative] = [classes.indexOf("positive"), classes.indexOf("negative")];
  return c.map((k, i) =>
    touched[i] || (k !== positive && k !== negative) ? k : density[i] >= cut ? positive : negative,
  );
}

/**
 * Return the numbers of positive and of all tumour nuclei that count in the field.
 *
 * @param {string[]} classes
 * @param {number[]} c class indices
 * @param {boolean[]} removed
 * @param {boolean[]} inside in the region of the field
 */
export function tally(classes, c, removed, inside) {
  const numberOf = (name) => c.filter((k, i) => classes[k] === name && !removed[i] && inside[i]).length;
  const positive = numberOf("positive");
  return { positive, tumor: positive + numberOf("negative") };
}

/** Return the measurement of the open field; null if it is switched off or not there yet. */
const current = () => (used && data && measured?.key === keyOf(data) ? measured : null);

/** Return the class indices to show, by density if that is switched on; null: those of the field. */
export function shownClasses() {
  const stain = current();
  return data && stain ? classify(data.classes, data.nuclei, stain.density, Number($("stain-range").value)) : null;
}

/** Return the density of a nucleus in words; empty if it is switched off. */
export const densityWords = (i) => {
  const density = current()?.density[i];
  return density === undefined ? "" : `DAB optical density ${density.toFixed(2)}`;
};

/**
 * Follow the open field.
 *
 * @param {import("./types.js").FieldNuclei} answer
 * @param {boolean} allowed not during a blind recount
 * @param {() => void} repaint
 */
export function follow(answer, allowed, repaint) {
  data = answer;
  redraw = repaint;
  const possible = allowed && ["positive", "negative"].every((name) => answer.classes.includes(name));
  if (!possible) used = false;
  shown($("field-stain"), possible);
  update();
}

/** Show the cut-off and the index by it. */
function update() {
  attribute($("field-stain"), "aria-pressed", used ? "true" : "false");
  shown($("stain"), used);
  const cut = Number($("stain-range").value).toFixed(2);
  text($("stain-cut"), cut);
  attribute($("stain-range"), "aria-valuetext", `DAB optical density ${cut}`);
  const [stain, c] = [current(), shownClasses()];
  if (data && stain && c) {
    const { positive, tumor } = tally(data.classes, c, data.nuclei.removed, stain.inside);
    const index = tumor ? percent(positive / tumor) : "–";
    text($("stain-words"), `Index ${index}: ${number(positive)} of ${number(tumor)} tumour nuclei (not saved)`);
  } else if (used) {
    text($("stain-words"), "Measuring…");
    measure();
  }
}

/** Measure the open field. */
async function measure() {
  if (loading) return;
  loading = true;
  while (used && data && !current()) {
    const key = keyOf(data);
    const answer = await trying(() => get(`/api/fields/${data?.field.id}/stain`));
    if (answer) measured = { key, ...answer };
    else used = false;
  }
  loading = false;
  update();
  redraw();
}

/** Switch the classes by density on or off. */
function toggle() {
  used = !used;
  update();
  redraw();
}

/** Connect the controls. */
export function connect() {
  $("field-stain").onclick = toggle;
  $("stain-range").oninput = () => {
    update();
    redraw();
  };
}
