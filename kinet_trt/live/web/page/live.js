// The live picture: frames as they come, the nuclei on them, and what a person does to them.

import { $, attribute, lower, make, micrometres, number, percent, rebuilt, shown, span, text, upper } from "./dom.js";
import { looks, nameOf, putAll, shape } from "./marks.js";
import { clock, limits, on, post, sayShown, sayView, state } from "./server.js";
import { Sketch } from "./sketch.js";
import { Surface } from "./surface.js";
import { ask, complain, toast, trying } from "./words.js";

const SAY_EVERY = 5000; // ms between two descriptions of the picture for screen readers
const LOOK = 400; // ms between two looks at the age of the picture
const WAKING = 1000; // ms that the first new picture may take after the live view was away
const MISSED = 6000; // ms that the page says that nothing was captured

let now = null; // on the screen: {header, picture}
let next = null; // decoded, not yet on the screen
let active = true; // false while a captured field is looked at
let sketch = null;
let frozen = false;
let online = false;
let capturing = false;
let pausing = false; // Pause was pressed, and the server has not confirmed it yet
let described = 0;
let woken = 0; // when the live view was last shown again
let missed = -Infinity; // when a capture was last refused here
let gaps = []; // s between the last pictures

const surface = new Surface($("live-canvas"), {
  paint,
  click: (place) => sketch?.add(place),
  moved: () => sayView(Math.min(now?.header.width ?? Infinity, Math.round(surface.width * surface.scale))),
});

on("frame", async (header, jpeg) => {
  try {
    const picture = await createImageBitmap(jpeg);
    next?.picture.close();
    next = { header, picture };
    if (!active || frozen) return;
    if (wanted()) surface.redraw();
    else sayShown(header.frame); // the held picture may follow
  } catch {
    sayShown(header.frame); // a broken picture: on to the next one
  }
});

on("link", (open) => {
  online = open;
  describe();
});
on("state", show);
setInterval(() => active && describe(), LOOK);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) woken = performance.now();
});

const held = () => pausing || (state?.loop.phase === "paused" && state.held !== null);
const blind = () => Boolean(state?.session.recount);

/** Whether the next picture may be shown: while the page is paused only the one that the server holds. */
const wanted = () => next !== null && !frozen && (!held() || next.header.frame === state.held);

function paint(to) {
  if (!active) return;
  const fresh = wanted();
  if (fresh) {
    if (now) gaps = [...gaps, next.header.clock - now.header.clock].slice(-3);
    now?.picture.close();
    [now, next] = [next, null];
    surface.show(now.header.width, now.header.height);
  }
  if (!now) return;
  const { header, picture } = now;
  surface.image(picture);
  if (!blind()) putAll(to, surface, header, state?.model.classes ?? [], header.mpp);
  surface.drawOutline((state?.live_region ?? []).map(([x, y]) => ({ x, y })));
  surface.drawScaleBar(header.mpp);
  sketch?.paint();
  if (sketch) surface.drawCursor();
  if (fresh) {
    sayShown(header.frame);
    describe();
  }
}

/** Return why the picture on the screen is out of date; empty when it is not. */
function stale() {
  if (!online) return "No connection";
  if (!now || !state || frozen || held() || [state.camera.phase, state.loop.phase].includes("ended")) return "";
  const pace = gaps.length ? Math.max(0, Math.min(...gaps)) : 0;
  const old = clock() - now.header.clock > Math.max(limits.silence / 1000, 3 * pace);
  return old || state.loop.stalled || state.camera.phase !== "connected" ? "No new frames arrive" : "";
}

/** Put what is known of the frame on the screen into words. */
function describe() {
  const header = now && blind() ? { ...now.header, counts: null, index: null, interval: null, remarks: [] } : now?.header;
  if (header) {
    for (const count of $("live-classes").querySelectorAll("b")) text(count, header.counts ? number(header.counts[count.dataset.name] ?? 0) : "–");
    shown($("frame-index").parentElement, !blind());
    text($("frame-index"), percent(header.index));
    text($("frame-interval"), span(header.interval, "–"));
    $("live-picture").style.setProperty("--aspect", `${header.width} / ${header.height}`);
    const said = header.remarks.filter((remark) => !(state?.scale.assumed && remark.includes("only assumed")));
    text($("remarks"), said.join(" "));
  }
  const [words, style, anyway] = offer(header);
  text($("offer"), words);
  attribute($("offer"), "class", style);
  attribute($("capture"), "class", style === "yes" ? "main" : "main doubtful");
  shown($("anyway"), anyway);
  if (state) mood();
  if (header && performance.now() - described > SAY_EVERY) {
    described = performance.now();
    const counted = Object.entries(header.counts ?? {}).map(([name, n]) => `${n} ${nameOf(name)}`);
    $("live-canvas").setAttribute("aria-label", `Live picture. ${counted.length ? `${counted.join(", ")} nuclei. Index ${percent(header.index)}.` : "Not counted."}`);
  }
}

/** Return whether the frame may be captured: words, their style, and whether a person may insist. */
function offer(header) {
  const why = stale();
  if (why && performance.now() - missed < MISSED) return [`${why}: nothing was captured.`, "no", false];
  if (!online) return ["No connection: nothing can be captured.", "no", false];
  if (!header) return ["Waiting for the first frame.", "", false];
  if (frozen) return ["The picture is frozen.", "", false];
  if (why) return [waking() ? "Waiting for a new frame." : `${why}: this picture is out of date.`, "no", false];
  if (state?.session.recount) return ["Capture is off during a recount.", "no", false];
  if (header.offered && !header.counts) return ["Waiting for a new frame.", "", false]; // it was sent during a recount
  if (header.offered) return ["Ready to capture.", "yes", false];
  const insist = header.hindrances.every((word) => word === "blurred" || word === "moving");
  return [`Not ready: ${lower(header.hindered || header.uncounted)}`, "no", insist];
}

/** Whether the live view has just been shown again: the first new picture may take a moment. */
const waking = () => online && state?.camera.phase === "connected" && !state.loop.stalled && performance.now() - woken < WAKING;

/** What the camera and the count are doing, on the picture. */
function mood() {
  const { camera, loop } = state;
  const why = stale();
  const [words, style] = !online
    ? ["No connection", "bad"]
    : camera.phase !== "connected"
      ? [{ connecting: "Connecting", stalled: "Camera stalled", reconnecting: camera.name ? "Camera disconnected" : "No camera", ended: "Ended", closed: "Camera closed" }[camera.phase] ?? camera.phase, camera.phase === "connecting" ? "warn" : "bad"]
      : why
        ? waking() ? ["Waiting", "warn"] : [why, "bad"]
      : loop.phase === "counting"
        ? pausing ? ["Paused", "warn"] : frozen ? ["Frozen", "warn"] : !now ? ["Waiting", "warn"] : now.header.uncounted ? ["Not counted", "warn"] : ["● Live", "good"]
        : { paused: ["Paused", "warn"], failed: ["Counting failed", "bad"], ended: ["Ended", "warn"], closed: ["Closed", "bad"] }[loop.phase];
  text($("live-state"), words);
  attribute($("live-state"), "class", `chip ${style}`);
  const gone = !online || !["connected", "ended"].includes(camera.phase) || (why !== "" && !waking());
  $("live-picture").classList.toggle("gone", gone);
  shown($("veil"), gone);
  const silent = loop.stalled ? `No frame has been counted for ${Math.round(loop.silent)} s: the model may hang.` : "No new frames arrive. This picture is out of date.";
  if (gone) text($("veil"), !online ? "No connection to kinet-trt. This picture is out of date." : camera.phase === "connected" ? silent : upper(camera.why || camera.sentence));
}

function show() {
  const { camera, scale, model } = state;
  rebuilt($("live-classes"), model.classes, () => model.classes.map(classButton));
  text($("scale-chip"), camera.width ? `${micrometres(scale.mpp)}${scale.assumed ? " ASSUMED" : ""}` : "– µm/px");
  attribute($("scale-chip"), "class", scale.assumed || scale.note ? "chip warn" : "chip");
  if (state.loop.phase !== "counting") pausing = false;
  describe();
  if (active && (wanted() || (now && (state.loop.phase !== "counting" || blind())))) surface.redraw();
}

/** Stop at the picture that is shown, which can then be captured; or go on counting. */
export async function togglePause() {
  const on = state.loop.phase === "counting";
  pausing = on;
  describe();
  if (!(await trying(() => post("/api/pause", on && now ? { on, frame: now.header.frame } : { on })))) {
    pausing = false;
    describe();
  }
}

function classButton(name, k) {
  const count = make("b", { "data-name": name }, "–");
  const button = make("button", { type: "button", class: "count", "aria-pressed": !looks.hidden.has(name) ? "true" : "false", title: `Show or hide ${nameOf(name)} (${k + 1})` }, shape(name), count, make("span", { class: "name" }, nameOf(name)));
  button.onclick = () => toggleClass(name);
  return button;
}

/** Show or hide a class's marks, on every picture. */
export function toggleClass(name) {
  if (!name) return;
  if (!looks.hidden.delete(name)) looks.hidden.add(name);
  for (const button of $("live-classes").children) button.setAttribute("aria-pressed", looks.hidden.has(button.querySelector("b").dataset.name) ? "false" : "true");
  surface.redraw();
}

/** Capture the frame on the screen; `anyway` also a blurred or moving one. */
export async function capture(anyway = false) {
  if (capturing || !active) return;
  const why = now ? stale() : "There is no live picture yet";
  if (why) {
    missed = performance.now();
    describe();
    complain(new Error(`Nothing was captured. ${why}.`));
    return;
  }
  capturing = true;
  try {
    const before = state.session.fields.map((field) => field.id);
    const { field, number: n } = await post("/api/capture", { frame: now.header.frame, anyway });
    if (before.includes(field)) {
      toast(`This picture is already field ${n}`);
      return;
    }
    // Only now: it is on disk.
    const flash = $("flash");
    flash.classList.remove("on");
    void flash.offsetWidth; // begin the animation again
    flash.classList.add("on");
    setTimeout(() => flash.classList.remove("on"), 400);
    toast(`Field ${n} captured`);
  } catch (error) {
    complain(new Error(`Not captured. ${error.message}`));
  } finally {
    capturing = false;
  }
}

/** Stop drawing while something else is looked at; frames wait meanwhile. */
export function setActive(yes) {
  active = yes;
  woken = performance.now();
  if (yes && next && clock() - next.header.clock > limits.silence / 1000) {
    sayShown(next.header.frame); // it has waited here for too long to be shown
    next.picture.close();
    next = null;
  }
  if (yes) surface.redraw();
  else stop();
}

export function redraw() {
  if (active) surface.redraw();
}

/** Whether something can be drawn now; say so where there is no picture to draw on. */
function ready() {
  if (!now && active) complain(new Error("There is no live picture to draw on yet."));
  if (!active) complain(new Error("Go back to the live picture first."));
  return now !== null && active && !sketch;
}

/** Measure um/px: a person draws a line of known length on the held picture. */
export function calibrate() {
  if (!ready()) return;
  frozen = true;
  sketch = new Sketch(surface, $("live-sketch"), {
    words: "Click two marks of the stage micrometer, as far apart as possible. The wheel zooms; arrow keys and Enter work too.",
    most: 2,
    least: 2,
    ended,
    done: async ([a, b]) => {
      const px = Math.hypot(a.x - b.x, a.y - b.y);
      const answer = await ask("Length of the line", `The line is ${px.toFixed(1)} px long. How many µm is that on the micrometer?`, [{ name: "length", label: "µm", value: "100", least: 1 }], "Use");
      if (!answer) return;
      const length = Number(answer.length.replace(",", "."));
      if (!(length > 0)) complain(new Error("Length: expected a number above 0, in µm. Nothing was changed."));
      else if (await trying(() => post("/api/scale", { mpp: length / px, source: "calibrated" }))) toast(`Calibrated: ${micrometres(length / px)}`);
    },
  });
  describe();
}

/** Draw the region of the next fields. */
export function drawRegion() {
  if (!ready()) return;
  sketch = new Sketch(surface, $("live-sketch"), {
    words: "Click the corners of the region. Click the first corner again, or Done, to close it. In the next fields, only nuclei inside it are counted.",
    least: 3,
    ended,
    done: (points) => trying(() => post("/api/region", { points: points.map(({ x, y }) => [x, y]) })),
  });
}

function ended() {
  sketch = null;
  frozen = false;
  surface.cursor = null;
  describe();
}

/** End a drawing that is under way; say whether there was one. */
export function stop() {
  sketch?.end();
  return sketch !== null;
}

/** What keys do while something is drawn here; say whether the key was used. */
export function sketchKey(key) {
  if (!sketch) return false;
  return surfaceKey(surface, key, {
    Enter: () => surface.cursor && sketch.add(surface.cursor),
    Backspace: () => sketch.back(),
    Escape: () => sketch.end(),
  });
}

/** Walk the cursor, zoom, or do what else a key is there for; say whether it was used. */
export function surfaceKey(surface, key, more = {}) {
  const step = key.startsWith("Shift+") ? 40 : 5;
  const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const way = ways[key.replace("Shift+", "")];
  if (way) surface.walk(way[0] * step, way[1] * step);
  else if (key === "+" || key === "=") surface.zoom(1.4);
  else if (key === "-") surface.zoom(1 / 1.4);
  else if (key === "0") surface.fit();
  else if (more[key]) more[key]();
  else return false;
  return true;
}

export const liveSurface = surface;

$("capture").onclick = () => capture();
$("anyway").onclick = () => capture(true);
$("live-canvas").ondblclick = () => sketch ?? surface.fit();
