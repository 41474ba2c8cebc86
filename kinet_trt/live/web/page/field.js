// Captured field: its nuclei as found by the model and as corrected by hand, with mouse, finger or keys.

import { remove as removeField } from "./deleted.js";
import { $, attribute, make, micrometres, number, percent, rebuild, shown, span, text, when } from "./dom.js";
import { setActive } from "./live.js";
import { looks, nameOf, put, radiusOf, shape } from "./marks.js";
import { get, limits, on, post, state } from "./server.js";
import { Sketch } from "./sketch.js";
import { connect, densityWords, follow, shownClasses } from "./stain.js";
import { Surface, surfaceKey } from "./surface.js";
import { announce, ask, toast, trying } from "./words.js";

const CLICK_RADIUS = 4.5; // µm around the centre of a nucleus
const MIN_CLICK_RADIUS = 12; // CSS px
const LOAD_INTERVAL = 100; // ms
const MAP_TIMEOUT = 120_000; // ms for the tumour map of a field

/** Id of the open field; null: the live view is shown. @type {number | null} */
export let open = null;

/** @type {import("./types.js").FieldNuclei | null} */
let data = null;
/** @type {HTMLImageElement | null} */
let picture = null;
let version = -1;
/** Selected tool: a class, or "remove". @type {string | null} */
let tool = null;
/** Nucleus under the pointer or the cursor. @type {number | null} */
let pointed = null;
/** Drawing in progress. @type {Sketch | null} */
let sketch = null;
/** @type {Promise<void> | null} */
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

/** Open a field. */
export async function openField(id) {
  if (!fieldOf(id)) return;
  sketch?.end();
  if (open === null) setActive(false);
  [open, data, picture, pointed] = [id, null, null, null];
  shown($("live"), false);
  shown($("field"), true);
  document.body.classList.add("at-field");
  reveal($("field"));
  markThumbnail();
  // Clear everything that belongs to the previous field.
  text($("field-title"), "Field …");
  text($("field-words"), "");
  text($("field-hint"), "");
  rebuild($("field-notes"), null, () => []);
  surface.redraw();
  $("field-canvas").focus({ preventScroll: true });
  const image = new Image();
  image.src = `/api/fields/${id}/picture.jpg`;
  const late = setTimeout(
    () =>
      open === id &&
      !picture &&
      text($("field-hint"), "The picture of this field does not arrive: no response from kinet-trt."),
    limits.request,
  );
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
  const loaded = fieldOf(id);
  if (data && loaded) announce(`Field ${loaded.number}. ${summary(loaded)}`);
}

/** Scroll a part of the page into view, on a phone. */
function reveal(part) {
  const { top } = part.getBoundingClientRect();
  if (top < 0 || top > innerHeight / 3) part.scrollIntoView({ block: "start" });
}

/** Return to the live view. */
export function close() {
  sketch?.end();
  open = data = picture = null;
  shown($("field"), false);
  shown($("live"), true);
  document.body.classList.remove("at-field");
  reveal($("live"));
  markThumbnail();
  setActive(true);
  $("live-canvas").focus({ preventScroll: true });
}

/** Open the next (1) or the previous field (-1). */
export function step(by) {
  const { fields } = state.session;
  const at = fields.findIndex((field) => field.id === open);
  if (fields.length) openField(fields[(at + by + fields.length) % fields.length].id);
}

/** Mark the thumbnail of the open field. */
function markThumbnail() {
  for (const button of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#thumbnails button"))) {
    attribute(button, "aria-current", Number(button.dataset.field) === open ? "true" : null);
  }
}

/** Load the open field again; calls during a load add one more load. */
function load() {
  loading ??= (async () => {
    do {
      const id = open;
      version = state.session.version;
      const answer = await trying(() => get(`/api/fields/${id}`));
      if (answer && open === id) show(answer);
      await new Promise((resolve) => setTimeout(resolve, LOAD_INTERVAL));
    } while (open !== null && (version !== state.session.version || data?.field.id !== open));
    loading = null;
  })();
  return loading;
}

/** @param {import("./types.js").FieldNuclei} answer */
function show(answer) {
  data = answer;
  const { field, classes, nuclei } = answer;
  surface.show(field.width, field.height);
  pointed = pointed !== null && pointed < nuclei.n.length ? pointed : null;
  if (tool === null || (tool !== "remove" && !classes.includes(tool))) tool = classes[0];
  rebuild($("field-tools"), classes, () => [...classes, "remove"].map(toolButton));
  choose(tool);
  text($("field-title"), `Field ${field.number}`);
  text($("field-words"), summary(field));
  const recount = state.session.recount;
  shown($("field-finish"), recount !== null);
  text($("field-finish").firstChild, field.finished ? "Not done " : "Field done ");
  $("field-undo").disabled = !field.undoable;
  $("field-redo").disabled = !field.redoable;
  // The region belongs to the first reading.
  shown($("field-whole"), recount === null && field.region !== null);
  shown($("field-map"), recount === null && Boolean(state.model.tumor_map) && field.region !== "map");
  for (const id of ["field-region", "field-delete", "field-figure"]) shown($(id), recount === null);
  attribute($("field-figure"), "href", `/api/fields/${field.id}/figure.png`);
  rebuild($("field-notes"), [field.unlike, field.notes], () => [
    ...(field.unlike ? [make("p", { class: "assumed" }, field.unlike)] : []),
    ...field.notes.map((note) => make("p", {}, note)),
  ]);
  follow(answer, recount === null, () => {
    describe();
    surface.redraw();
  });
  describe();
  surface.redraw();
}

function summary(field) {
  const counts = Object.entries(field.counts).map(([name, n]) => `${number(n)} ${nameOf(name)}`);
  const parts = [
    ...(field.index === null
      ? []
      : [`index ${percent(field.index)}${field.interval ? ` (${span(field.interval, "–")})` : ""}`]),
    counts.join(", "),
  ];
  if (field.corrections) parts.push(`${field.corrections} ${field.corrections === 1 ? "correction" : "corrections"}`);
  if (field.region) parts.push(field.region === "map" ? "limited to the tumour map" : "limited to a region");
  parts.push(micrometres(field.mpp), when(field.time).slice(11));
  return parts.join(" · ");
}

function toolButton(name, k) {
  const words = name === "remove" ? "Remove" : nameOf(name);
  const key = name === "remove" ? "X" : String(k + 1);
  const button = make(
    "button",
    { type: "button", role: "radio", class: "count", "data-tool": name, title: `${words} (${key})` },
    shape(name),
    make("span", { class: "name" }, words),
    make("span", { class: "cap" }, make("kbd", {}, key)),
  );
  button.onclick = () => choose(name);
  button.onkeydown = (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by) return;
    event.preventDefault();
    event.stopPropagation(); // the cursor on the picture does not move
    const tools = [...$("field-tools").children];
    const next = tools[(tools.indexOf(button) + by + tools.length) % tools.length];
    choose(next.dataset.tool);
    next.focus();
  };
  return button;
}

/** Select what a click does: a class, or "remove". */
export function choose(name) {
  tool = name;
  for (const button of $("field-tools").children) {
    const selected = button.dataset.tool === name;
    attribute(button, "aria-checked", selected ? "true" : "false");
    attribute(button, "tabindex", selected ? 0 : -1);
  }
}

/** Select the n-th class, from 0. */
export function chooseClass(n) {
  if (data && n < data.classes.length) choose(data.classes[n]);
}

// --- the picture --------------------------------------------------------------------------------------------------

function paint(to) {
  surface.drawPicture(picture);
  if (!data) return;
  const { field, classes, nuclei } = data;
  if (looks.on) {
    const c = shownClasses() ?? nuclei.c;
    /** Marks of the same look. @type {Map<string, {kind: string, what: string, size: number, places: number[][]}>} */
    const groups = new Map();
    const add = (kind, what, size, i) => {
      const key = `${kind} ${what} ${size}`;
      const group = groups.get(key) ?? { kind, what, size, places: /** @type {number[][]} */ ([]) };
      groups.set(key, group);
      group.places.push([surface.atX(nuclei.x[i]), surface.atY(nuclei.y[i])]);
    };
    for (let i = 0; i < nuclei.n.length; i++) {
      const [name, model] = [classes[c[i]], classes[nuclei.m[i]]];
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
    for (const { kind, what, size, places } of [...groups.values()].sort(
      (a, b) => order.indexOf(a.kind) - order.indexOf(b.kind),
    )) {
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

/** Return the nucleus at a place, or null; existing nuclei come before removed ones. */
function nearest({ x, y }) {
  if (!data) return null;
  const { field, nuclei } = data;
  const radius = Math.max(CLICK_RADIUS / field.mpp, (MIN_CLICK_RADIUS * devicePixelRatio) / surface.scale);
  /** @type {[number | null, number]} */
  let [best, lowest] = [null, Infinity];
  for (let i = 0; i < nuclei.n.length; i++) {
    const distance = Math.hypot(nuclei.x[i] - x, nuclei.y[i] - y);
    // An added nucleus that was undone cannot be restored.
    if (distance > radius || (nuclei.removed[i] && nuclei.m[i] < 0 && !nuclei.touched[i])) continue;
    const rank = distance + (nuclei.removed[i] ? radius : 0);
    if (rank < lowest) [best, lowest] = [i, rank];
  }
  return best;
}

function point(i) {
  if (pointed === i) return;
  pointed = i;
  describe();
  surface.redraw();
}

/** Describe the nucleus under the pointer and how its class was set. */
function describe() {
  if (!data || pointed === null) {
    text($("field-hint"), "");
    return;
  }
  const { nuclei, classes } = data;
  const [name, model] = [classes[nuclei.c[pointed]], classes[nuclei.m[pointed]]].map((one) => one && nameOf(one));
  const touched = nuclei.touched[pointed];
  let words = !model
    ? `${name}, added by hand`
    : !touched
      ? `${name}, found by the model`
      : model === name
        ? `${name}, found by the model and confirmed by hand`
        : `${name}, changed by hand; the model found ${model}`;
  if (nuclei.removed[pointed])
    words = model ? `removed by hand; the model found ${model}` : "added by hand, then removed";
  else if (nuclei.counted && !nuclei.counted[pointed])
    words += ". Not counted here: outside the region, or counted in another field";
  const density = densityWords(pointed);
  text($("field-hint"), `Nucleus ${nuclei.n[pointed]}: ${words}.${density ? ` ${density}.` : ""}`);
}

// --- corrections --------------------------------------------------------------------------------------------------

/** Last edit in progress. @type {Promise<void>} */
let last = Promise.resolve();

/** Send edits one after the other, in the order of the clicks, and show the result. */
function change(path, body, words = "", timeout = limits.request) {
  const id = open;
  last = last.then(async () => {
    if (await trying(() => post(`/api/fields/${id}/${path}`, body, timeout))) {
      if (words) announce(words);
      version = -1;
      if (open === id) await load();
    }
  });
  return last;
}

function correct(place, removing = false) {
  if (!data || !surface.contains(place)) return;
  const i = nearest(place);
  const { nuclei } = data;
  if (removing || tool === "remove") {
    if (i !== null && !nuclei.removed[i]) change("remove", { nucleus: nuclei.n[i] }, "Removed");
    else hint("There is no nucleus here to remove.");
  } else if (i !== null) change("reclassify", { nucleus: nuclei.n[i], class: tool }, `Changed to ${nameOf(tool)}`);
  else change("add", { x: place.x, y: place.y, class: tool }, `Added ${nameOf(tool)}`);
}

function hint(words) {
  text($("field-hint"), words);
}

/** Undo the last edit of the field. */
export const undo = () => reverse("undo", "undone", "Undone");
/** Redo the last undone edit of the field. */
export const redo = () => reverse("redo", "redone", "Redone");

/** @type {Record<string, string>} */
const KINDS = {
  add: "added nucleus",
  remove: "removal",
  reclassify: "change of class",
  region: "change of the region",
};

function reverse(path, key, word) {
  const id = open;
  last = last.then(async () => {
    const answer = await trying(() => post(`/api/${path}`, { field: id }));
    if (!answer) return;
    toast(answer[key] ? `${word}: ${KINDS[answer[key].kind] ?? answer[key].kind}` : `There is nothing to ${path}.`);
    version = -1;
    if (open === id) await load();
  });
}

/** Draw the region of interest of the field. */
export function drawRegion() {
  if (!data || sketch) return;
  if (state.session.recount) {
    toast("The region cannot be changed during a recount.");
    return;
  }
  point(null);
  sketch = new Sketch(surface, $("field-sketch"), {
    words:
      "Click the corners of the region. Click the first corner again, or Done, to close it. Only nuclei inside it are counted.",
    min: 3,
    ended: () => {
      sketch = null;
      surface.cursor = null;
    },
    done: (points) => change("region", { points: points.map(({ x, y }) => [x, y]) }, "Region set"),
  });
}

/** Ask for a note on the field. */
export async function addNote() {
  const id = open;
  const answer = await ask(
    `Note on field ${data?.field.number ?? ""}`,
    "",
    [{ name: "text", label: "Note", long: true, required: true }],
    "Add",
  );
  if (answer?.text && open === id) change("note", { text: answer.text }, "Note added");
}

async function remove() {
  if (!data) return;
  const { id, number: n } = data.field;
  const answer = await ask(`Delete field ${n}?`, "It can be restored until the session is closed.", [], "Delete", true);
  if (answer && (await removeField(id, n)) && open === id) close();
}

/** Mark the field as done in a recount, and open the next one that is not. */
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

/** Select the next (1) or the previous nucleus (-1), in raster order. */
function cycle(by) {
  if (!data) return;
  const { nuclei, classes } = data;
  const visible = nuclei.n
    .map((_, i) => i)
    .filter((i) => !nuclei.removed[i] && !looks.hidden.has(classes[nuclei.c[i]]));
  if (!visible.length) return;
  const at = pointed === null ? -1 : visible.indexOf(pointed);
  const i = visible[(at < 0 && by < 0 ? visible.length - 1 : at + by + visible.length) % visible.length];
  surface.setCursor({ x: nuclei.x[i], y: nuclei.y[i] });
  pointed = i;
  describe();
  announce($("field-hint").textContent);
}

/** Handle a key in a captured field; return whether it was used. */
export function fieldKey(key) {
  if (sketch) return sketch.useKey(key);
  const at = () => surface.cursor && correct(surface.cursor);
  const off = () => surface.cursor && correct(surface.cursor, true);
  const used = surfaceKey(surface, key, {
    Enter: at,
    Space: at,
    Delete: off,
    Backspace: off,
    ".": () => cycle(1),
    ",": () => cycle(-1),
  });
  if (used && key.includes("Arrow") && surface.cursor) point(nearest(surface.cursor));
  return used;
}

/** Redraw the field if it is open. */
export function redrawField() {
  if (open !== null) surface.redraw();
}

connect();
$("field-back").onclick = close;
$("field-previous").onclick = () => step(-1);
$("field-next").onclick = () => step(1);
$("field-undo").onclick = undo;
$("field-redo").onclick = redo;
$("field-region").onclick = drawRegion;
$("field-whole").onclick = () => change("region", { points: null }, "Region cleared: the whole field is counted");
$("field-map").onclick = () => change("region", { map: true }, "Limited to the tumour map", MAP_TIMEOUT);
$("field-note").onclick = addNote;
$("field-delete").onclick = remove;
$("field-finish").onclick = finish;
$("zoom-in").onclick = () => surface.zoom(1.4);
$("zoom-out").onclick = () => surface.zoom(1 / 1.4);
$("zoom-fit").onclick = () => surface.fit();
