// A captured field: its nuclei, the model's answer beside the person's, and corrections by mouse, finger or keys.

import { remove as removeField } from "./deleted.js";
import { $, attribute, make, micrometres, number, percent, rebuilt, shown, span, text, when } from "./dom.js";
import { setActive, surfaceKey } from "./live.js";
import { looks, nameOf, put, radiusOf, shape } from "./marks.js";
import { get, limits, on, post, state } from "./server.js";
import { Sketch } from "./sketch.js";
import { Surface } from "./surface.js";
import { announce, ask, toast, trying } from "./words.js";

const REACH = 4.5; // um from a nucleus' centre within which a click means it
const MAP = 120_000; // ms that the tumour map of a field may take
const REACH_PX = 12; // the same, at least, css px

/** The field that is looked at: its id; null at the live picture. */
export let open = null;

let data = null; // what the server says of it
let picture = null;
let version = -1;
let tool = null; // a class, or "remove"
let pointed = null; // the nucleus under the pointer or the cursor
let sketch = null;
let loading = null;

const surface = new Surface($("field-canvas"), {
  paint,
  click: (place, event) => (sketch ? sketch.add(place) : correct(place, event.shiftKey)),
  hold: (place) => (sketch ? null : correct(place, true)),
  hover: (place) => point(place && !sketch ? nearest(place) : null),
});

on("state", () => {
  if (open === null) return;
  const field = fieldOf(open);
  if (!field) close();
  else if (state.session.version !== version) load();
});

const fieldOf = (id) => state?.session.fields.find((field) => field.id === id);

/** Look at a field. */
export async function openField(id) {
  if (!fieldOf(id)) return;
  sketch?.end();
  if (open === null) setActive(false);
  [open, data, picture, pointed] = [id, null, null, null];
  shown($("live"), false);
  shown($("field"), true);
  document.body.classList.add("at-field");
  reveal($("field"));
  mark();
  // Nothing of the field before may be taken for this one's.
  text($("field-title"), "Field …");
  text($("field-words"), "");
  text($("field-hint"), "");
  rebuilt($("field-notes"), null, () => []);
  surface.redraw();
  $("field-canvas").focus({ preventScroll: true });
  const image = new Image();
  image.src = `/api/fields/${id}/picture.jpg`;
  const late = setTimeout(() => open === id && !picture && text($("field-hint"), "The picture of this field does not arrive: no response from kinet-trt."), limits.request);
  image
    .decode()
    .then(
      () => {
        if (open !== id) return;
        picture = image;
        surface.redraw();
      },
      () => open === id && text($("field-hint"), "The picture of this field cannot be read."),
    )
    .finally(() => clearTimeout(late));
  await load();
  if (data) announce(`Field ${data.field.number}. ${summary(data.field)}`);
}

/** Bring a part of the page into view where the page scrolls, as on a phone. */
function reveal(part) {
  const { top } = part.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 3) part.scrollIntoView({ block: "start" });
}

/** Go back to the live picture. */
export function close() {
  sketch?.end();
  open = data = picture = null;
  shown($("field"), false);
  shown($("live"), true);
  document.body.classList.remove("at-field");
  reveal($("live"));
  mark();
  setActive(true);
  $("live-canvas").focus({ preventScroll: true });
}

/** Go to the next field (1) or the one before (-1). */
export function step(way) {
  const { fields } = state.session;
  const at = fields.findIndex((field) => field.id === open);
  if (fields.length) openField(fields[(at + way + fields.length) % fields.length].id);
}

function mark() {
  for (const button of document.querySelectorAll("#thumbnails button")) attribute(button, "aria-current", Number(button.dataset.field) === open ? "true" : null);
}

/** Ask for the field anew; calls that come meanwhile are one more. */
function load() {
  loading ??= (async () => {
    do {
      const id = open;
      version = state.session.version;
      const answer = await trying(() => get(`/api/fields/${id}`));
      if (answer && open === id) show(answer);
      await pause();
    } while (open !== null && (version !== state.session.version || data?.field.id !== open));
    loading = null;
  })();
  return loading;
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 100));

function show(answer) {
  data = answer;
  const { field, classes, nuclei } = data;
  surface.show(field.width, field.height);
  pointed = pointed !== null && pointed < nuclei.n.length ? pointed : null;
  if (!classes.includes(tool) && tool !== "remove") tool = classes[0];
  rebuilt($("field-tools"), classes, () => [...classes, "remove"].map(toolButton));
  choose(tool);
  text($("field-title"), `Field ${field.number}`);
  text($("field-words"), summary(field));
  const recount = state.session.recount;
  shown($("field-finish"), recount !== null);
  text($("field-finish").firstChild, field.finished ? "Not done " : "Field done ");
  $("field-undo").disabled = !field.undoable;
  $("field-redo").disabled = !field.redoable;
  // The region belongs to the first count.
  shown($("field-whole"), recount === null && field.region !== null);
  shown($("field-map"), recount === null && Boolean(state.model.tumor_map) && field.region !== "map");
  for (const id of ["field-region", "field-delete", "field-figure"]) shown($(id), recount === null);
  attribute($("field-figure"), "href", `/api/fields/${field.id}/figure.png`);
  rebuilt($("field-notes"), [field.unlike, field.notes], () => [...(field.unlike ? [make("p", { class: "assumed" }, field.unlike)] : []), ...field.notes.map((note) => make("p", {}, note))]);
  describe();
  surface.redraw();
}

function summary(field) {
  const counts = Object.entries(field.counts).map(([name, n]) => `${number(n)} ${nameOf(name)}`);
  const parts = [...(field.index === null ? [] : [`index ${percent(field.index)}${field.interval ? ` (${span(field.interval, "–")})` : ""}`]), counts.join(", ")];
  if (field.corrections) parts.push(`${field.corrections} ${field.corrections === 1 ? "correction" : "corrections"}`);
  if (field.region) parts.push(field.region === "map" ? "limited to the tumour map" : "limited to a region");
  parts.push(micrometres(field.mpp), when(field.time).slice(11));
  return parts.join(" · ");
}

function toolButton(name, k) {
  const words = name === "remove" ? "Remove" : nameOf(name);
  const key = name === "remove" ? "X" : String(k + 1);
  const button = make("button", { type: "button", role: "radio", class: "count", "data-tool": name, title: `${words} (${key})` }, shape(name), make("span", { class: "name" }, words), make("span", { class: "cap" }, make("kbd", {}, key)));
  button.onclick = () => choose(name);
  return button;
}

/** Choose what a click does: a class, or "remove". */
export function choose(name) {
  tool = name;
  for (const button of $("field-tools").children) {
    const mine = button.dataset.tool === name;
    attribute(button, "aria-checked", mine ? "true" : "false");
    attribute(button, "tabindex", mine ? 0 : -1);
  }
}

/** Choose the n-th class. */
export function chooseClass(n) {
  if (data && n < data.classes.length) choose(data.classes[n]);
}

// --- the picture --------------------------------------------------------------------------------------------------

function paint(to) {
  surface.image(picture);
  if (!data) return;
  const { field, classes, nuclei } = data;
  if (looks.on) {
    const groups = new Map(); // "kind class size" -> places
    const add = (kind, what, size, i) => {
      const key = `${kind} ${what} ${size}`;
      if (!groups.has(key)) groups.set(key, { kind, what, size, places: [] });
      groups.get(key).places.push([surface.atX(nuclei.x[i]), surface.atY(nuclei.y[i])]);
    };
    for (let i = 0; i < nuclei.n.length; i++) {
      const [name, model] = [classes[nuclei.c[i]], classes[nuclei.m[i]]];
      if (looks.hidden.has(name)) continue;
      if (nuclei.removed[i]) {
        if (model) add("faint", model, 1.1, i);
        if (model || nuclei.touched[i]) add("sign", "removed", 1, i);
        continue;
      }
      const away = nuclei.counted && !nuclei.counted[i];
      if (nuclei.touched[i]) {
        if (model && model !== name) add("faint", model, 1.55, i);
        add("touched", name, away ? 0.6 : 1, i);
        add("sign", model ? "given" : "added", 1, i);
      } else add(away ? "away" : "plain", name, 1, i);
    }
    const r = radiusOf(field.mpp, surface.scale);
    const order = ["faint", "away", "plain", "touched", "sign"];
    for (const { kind, what, size, places } of [...groups.values()].sort((a, b) => order.indexOf(a.kind) - order.indexOf(b.kind))) {
      to.globalAlpha = looks.opacity * (kind === "faint" ? 0.6 : 1);
      put(to, kind === "faint" ? "plain" : kind, what, r * size, places);
    }
    to.globalAlpha = 1;
    if (pointed !== null) {
      to.beginPath();
      to.arc(surface.atX(nuclei.x[pointed]), surface.atY(nuclei.y[pointed]), 1.9 * r, 0, 2 * Math.PI);
      surface.line(4, "#000000a0");
      surface.line(2, "#ffd43b");
    }
  }
  if (Array.isArray(field.region)) surface.drawOutline(field.region.map(([x, y]) => ({ x, y })));
  surface.drawScaleBar(field.mpp);
  sketch?.paint();
  surface.drawCursor();
}

/** Return the nucleus that a place means, null where there is none; one that is there before one that was removed. */
function nearest({ x, y }) {
  if (!data) return null;
  const { field, nuclei } = data;
  const reach = Math.max(REACH / field.mpp, (REACH_PX * devicePixelRatio) / surface.scale);
  let [best, least] = [null, Infinity];
  for (let i = 0; i < nuclei.n.length; i++) {
    const away = Math.hypot(nuclei.x[i] - x, nuclei.y[i] - y);
    // An added one that was undone is gone for good.
    if (away > reach || (nuclei.removed[i] && nuclei.m[i] < 0 && !nuclei.touched[i])) continue;
    const rank = away + (nuclei.removed[i] ? reach : 0);
    if (rank < least) [best, least] = [i, rank];
  }
  return best;
}

function point(i) {
  if (pointed === i) return;
  pointed = i;
  describe();
  surface.redraw();
}

/** Say what the nucleus under the pointer is, and who said so. */
function describe() {
  if (!data || pointed === null) {
    text($("field-hint"), "");
    return;
  }
  const { nuclei, classes } = data;
  const [name, model] = [classes[nuclei.c[pointed]], classes[nuclei.m[pointed]]].map((one) => one && nameOf(one));
  const touched = nuclei.touched[pointed];
  let words = !model ? `${name}, added by hand` : !touched ? `${name}, found by the model` : model === name ? `${name}, found by the model and confirmed by hand` : `${name}, changed by hand; the model found ${model}`;
  if (nuclei.removed[pointed]) words = model ? `removed by hand; the model found ${model}` : "added by hand, then removed";
  else if (nuclei.counted && !nuclei.counted[pointed]) words += ". Not counted here: outside the region, or counted in another field";
  text($("field-hint"), `Nucleus ${nuclei.n[pointed]}: ${words}.`);
}

// --- corrections --------------------------------------------------------------------------------------------------

let before = Promise.resolve();

/** Do one thing after the other, in the order of the clicks, and show the field as it then is. */
function change(path, body, words, longest = undefined) {
  const id = open;
  before = before.then(async () => {
    if (await trying(() => post(`/api/fields/${id}/${path}`, body, longest))) {
      if (words) announce(words);
      version = -1;
      if (open === id) await load();
    }
  });
  return before;
}

function correct(place, remove = false) {
  if (!data || !surface.holds(place)) return;
  const i = nearest(place);
  const { nuclei } = data;
  if (remove || tool === "remove") {
    if (i !== null && !nuclei.removed[i]) change("remove", { nucleus: nuclei.n[i] }, "Removed");
    else hint("There is no nucleus here to remove.");
  } else if (i !== null) change("reclassify", { nucleus: nuclei.n[i], class: tool }, `Changed to ${nameOf(tool)}`);
  else change("add", { x: place.x, y: place.y, class: tool }, `Added ${nameOf(tool)}`);
}

function hint(words) {
  text($("field-hint"), words);
}

export const undo = () => reverse("undo", "undone", "Undone");
export const redo = () => reverse("redo", "redone", "Redone");

const KINDS = { add: "added nucleus", remove: "removal", reclassify: "change of class", region: "change of the region" };

function reverse(path, key, word) {
  const id = open;
  before = before.then(async () => {
    const answer = await trying(() => post(`/api/${path}`, { field: id }));
    if (!answer) return;
    toast(answer[key] ? `${word}: ${KINDS[answer[key].kind] ?? answer[key].kind}` : `There is nothing to ${path}.`);
    version = -1;
    if (open === id) await load();
  });
}

export function drawRegion() {
  if (!data || sketch) return;
  if (state.session.recount) {
    toast("The region cannot be changed during a recount.");
    return;
  }
  point(null);
  sketch = new Sketch(surface, $("field-sketch"), {
    words: "Click the corners of the region. Click the first corner again, or Done, to close it. Only nuclei inside it are counted.",
    least: 3,
    ended: () => {
      sketch = null;
      surface.cursor = null;
    },
    done: (points) => change("region", { points: points.map(({ x, y }) => [x, y]) }, "Region set"),
  });
}

export async function note() {
  const id = open;
  const answer = await ask(`Note on field ${data?.field.number ?? ""}`, "", [{ name: "text", label: "Note", long: true, least: 1 }], "Add");
  if (answer?.text && open === id) change("note", { text: answer.text }, "Note added");
}

async function remove() {
  if (!data) return;
  const { id, number: n } = data.field;
  const answer = await ask(`Delete field ${n}?`, "It can be restored until the session is closed.", [], "Delete", true);
  if (answer && (await removeField(id, n)) && open === id) close();
}

/** In a recount: this field is done; on to the next that is not. */
export async function finish() {
  if (!data || !state.session.recount) return;
  const { id, finished } = data.field;
  await change("finish", { on: !finished });
  if (finished || open !== id) return;
  const left = state.session.fields.filter((field) => field.id !== id && !field.finished);
  const next = left.find((field) => field.id > id) ?? left[0];
  if (next) openField(next.id);
  else toast("That was the last field of the recount.");
}

/** Go to the next nucleus (1) or the one before (-1), in raster order from the cursor on. */
function cycle(way) {
  if (!data) return;
  const { nuclei } = data;
  const there = nuclei.n.map((_, i) => i).filter((i) => !nuclei.removed[i] && !looks.hidden.has(data.classes[nuclei.c[i]]));
  if (!there.length) return;
  const at = there.indexOf(pointed);
  const i = there[(at < 0 && way < 0 ? there.length - 1 : at + way + there.length) % there.length];
  surface.jump({ x: nuclei.x[i], y: nuclei.y[i] });
  pointed = i;
  describe();
  announce($("field-hint").textContent);
}

/** What keys do here; say whether the key was used. */
export function fieldKey(key) {
  if (sketch) {
    return surfaceKey(surface, key, {
      Enter: () => surface.cursor && sketch.add(surface.cursor),
      Backspace: () => sketch.back(),
      Escape: () => sketch.end(),
    });
  }
  const at = () => surface.cursor && correct(surface.cursor);
  const off = () => surface.cursor && correct(surface.cursor, true);
  const used = surfaceKey(surface, key, { Enter: at, Space: at, Delete: off, Backspace: off, ".": () => cycle(1), ",": () => cycle(-1) });
  if (used && key.includes("Arrow") && surface.cursor) point(nearest(surface.cursor));
  return used;
}

export function redrawField() {
  if (open !== null) surface.redraw();
}

$("field-back").onclick = close;
$("field-previous").onclick = () => step(-1);
$("field-next").onclick = () => step(1);
$("field-undo").onclick = undo;
$("field-redo").onclick = redo;
$("field-region").onclick = drawRegion;
$("field-whole").onclick = () => change("region", { points: null }, "Region cleared: the whole field is counted");
$("field-map").onclick = () => change("region", { map: true }, "Limited to the tumour map", MAP);
$("field-note").onclick = note;
$("field-delete").onclick = remove;
$("field-finish").onclick = finish;
$("zoom-in").onclick = () => surface.zoom(1.4);
$("zoom-out").onclick = () => surface.zoom(1 / 1.4);
$("zoom-fit").onclick = () => surface.fit();
