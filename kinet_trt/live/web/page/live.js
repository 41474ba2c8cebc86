// Live picture: the newest frame with its nuclei, capture, pause and calibration.

import { $, attribute, lower, make, micrometres, number, percent, rebuild, shown, span, text, upper } from "./dom.js";
import { looks, nameOf, putAll, shape } from "./marks.js";
import { clock, limits, on, post, confirmShown, sendWidth, state } from "./server.js";
import { Sketch } from "./sketch.js";
import { Surface, surfaceKey } from "./surface.js";
import { ask, showError, toast, trying } from "./words.js";

const LABEL_INTERVAL = 5000; // ms between two descriptions of the picture for screen readers
const AGE_INTERVAL = 400; // ms between two checks of the age of the picture
const WAKE_TIME = 1000; // ms that the first new picture may take after the live view was hidden
const REFUSAL_TIME = 6000; // ms that the page shows that nothing was captured

/** @typedef {{header: import("./types.js").FrameHeader, picture: ImageBitmap}} Shown */

/** Frame on the screen. @type {Shown | null} */
let now = null;
/** Frame that is decoded, but not yet on the screen. @type {Shown | null} */
let next = null;
let active = true; // false while a captured field is shown
/** Drawing in progress. @type {Sketch | null} */
let sketch = null;
let frozen = false;
let online = false;
let capturing = false;
let pausing = false; // Pause was pressed and is not confirmed yet
let labelled = 0; // time of the last description for screen readers
let woken = 0; // time when the live view was last shown again
let refused = -Infinity; // time of the last refused capture
/** s between the last frames. @type {number[]} */
let gaps = [];

const surface = new Surface($("live-canvas"), {
  paint,
  click: (place) => sketch?.add(place),
  moved: () => sendWidth(Math.min(now?.header.width ?? Infinity, Math.round(surface.width * surface.scale))),
});

on("frame", async (header, jpeg) => {
  try {
    const picture = await createImageBitmap(jpeg);
    next?.picture.close();
    next = { header, picture };
    if (!active || frozen) return;
    if (wanted()) surface.redraw();
    else confirmShown(header.frame); // the held frame may follow
  } catch {
    confirmShown(header.frame); // a damaged picture is skipped
  }
});

on("link", (open) => {
  online = open;
  describe();
});
on("state", show);
setInterval(() => active && describe(), AGE_INTERVAL);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) woken = performance.now();
});

const held = () => pausing || (state?.loop.phase === "paused" && state.held !== null);
const blind = () => Boolean(state?.session.recount);

/** Return the next frame if it may be shown: while paused, only the held one. */
const wanted = () => (next !== null && !frozen && (!held() || next.header.frame === state.held) ? next : null);

function paint(to) {
  if (!active) return;
  const fresh = wanted();
  if (fresh) {
    if (now) gaps = [...gaps, fresh.header.clock - now.header.clock].slice(-3);
    now?.picture.close();
    [now, next] = [fresh, null];
    surface.show(now.header.width, now.header.height);
  }
  if (!now) return;
  const { header, picture } = now;
  surface.drawPicture(picture);
  if (!blind()) putAll(to, surface, header, state?.model.classes ?? [], header.mpp);
  surface.drawOutline((state?.live_region ?? []).map(([x, y]) => ({ x, y })));
  surface.drawScaleBar(header.mpp);
  sketch?.paint();
  if (sketch) surface.drawCursor();
  if (fresh) {
    confirmShown(header.frame);
    describe();
  }
}

/** Return why the picture on the screen is out of date; empty if it is not. */
function stale() {
  if (!online) return "No connection";
  if (!now || !state || frozen || held() || [state.camera.phase, state.loop.phase].includes("ended")) return "";
  const pace = gaps.length ? Math.max(0, Math.min(...gaps)) : 0;
  const old = clock() - now.header.clock > Math.max(limits.silence / 1000, 3 * pace);
  return old || state.loop.stalled || state.camera.phase !== "connected" ? "No new frames arrive" : "";
}

/** Show the counts of the frame on the screen, whether it can be captured, and the state of camera and counting. */
function describe() {
  const header =
    now && blind() ? { ...now.header, counts: null, index: null, interval: null, remarks: [] } : now?.header;
  if (header) {
    for (const count of $("live-classes").querySelectorAll("b"))
      text(count, header.counts ? number(header.counts[count.dataset.name] ?? 0) : "–");
    shown($("frame-index").parentElement, !blind());
    text($("frame-index"), percent(header.index));
    text($("frame-interval"), span(header.interval, "–"));
    $("live-picture").style.setProperty("--aspect", `${header.width} / ${header.height}`);
    const remarks = header.remarks.filter((remark) => !(state?.scale.assumed && remark.includes("only assumed")));
    text($("remarks"), remarks.join(" "));
  }
  const [words, style, anyway] = readiness(header);
  text($("offer"), words);
  attribute($("offer"), "class", style);
  attribute($("capture"), "class", style === "yes" ? "main" : "main doubtful");
  shown($("anyway"), anyway);
  if (state) showLiveState();
  if (header && performance.now() - labelled > LABEL_INTERVAL) {
    labelled = performance.now();
    const counted = Object.entries(header.counts ?? {}).map(([name, n]) => `${n} ${nameOf(name)}`);
    $("live-canvas").setAttribute(
      "aria-label",
      `Live picture. ${counted.length ? `${counted.join(", ")} nuclei. Index ${percent(header.index)}.` : "Not counted."}`,
    );
  }
}

/**
 * Return whether the frame can be captured.
 *
 * @param {import("./types.js").FrameHeader | undefined} header
 * @returns {[string, string, boolean]} words, their style, and whether it can be captured anyway
 */
function readiness(header) {
  const why = stale();
  if (why && performance.now() - refused < REFUSAL_TIME) return [`${why}: nothing was captured.`, "no", false];
  if (!online) return ["No connection: nothing can be captured.", "no", false];
  if (!header) return ["Waiting for the first frame.", "", false];
  if (frozen) return ["The picture is frozen.", "", false];
  if (why) return [waking() ? "Waiting for a new frame." : `${why}: this picture is out of date.`, "no", false];
  if (state?.session.recount) return ["Capture is off during a recount.", "no", false];
  if (header.offered && !header.counts) return ["Waiting for a new frame.", "", false]; // sent during a recount
  if (header.offered) return ["Ready to capture.", "yes", false];
  const anyway = header.hindrances.every((word) => word === "blurred" || word === "moving");
  return [`Not ready: ${lower(header.hindered || header.uncounted)}`, "no", anyway];
}

/** Return whether the live view was only just shown again, so that the first new picture may take a moment. */
const waking = () =>
  online && state?.camera.phase === "connected" && !state.loop.stalled && performance.now() - woken < WAKE_TIME;

/** Show the state of camera and counting on the picture. */
function showLiveState() {
  const { camera, loop } = state;
  const why = stale();
  const [words, style] = !online
    ? ["No connection", "bad"]
    : camera.phase !== "connected"
      ? [
          {
            connecting: "Connecting",
            stalled: "Camera stalled",
            reconnecting: camera.name ? "Camera disconnected" : "No camera",
            ended: "Ended",
            closed: "Camera closed",
          }[camera.phase] ?? camera.phase,
          camera.phase === "connecting" ? "warn" : "bad",
        ]
      : why
        ? waking()
          ? ["Waiting", "warn"]
          : [why, "bad"]
        : loop.phase === "counting"
          ? pausing
            ? ["Paused", "warn"]
            : frozen
              ? ["Frozen", "warn"]
              : !now
                ? ["Waiting", "warn"]
                : now.header.uncounted
                  ? ["Not counted", "warn"]
                  : ["● Live", "good"]
          : {
              paused: ["Paused", "warn"],
              failed: ["Counting failed", "bad"],
              ended: ["Ended", "warn"],
              closed: ["Closed", "bad"],
            }[loop.phase];
  text($("live-state"), words);
  attribute($("live-state"), "class", `chip ${style}`);
  const gone = !online || !["connected", "ended"].includes(camera.phase) || (why !== "" && !waking());
  $("live-picture").classList.toggle("gone", gone);
  shown($("veil"), gone);
  const silent = loop.stalled
    ? `No frame has been counted for ${Math.round(loop.silent)} s: the model may hang.`
    : "No new frames arrive. This picture is out of date.";
  if (gone)
    text(
      $("veil"),
      !online
        ? "No connection to kinet-trt. This picture is out of date."
        : camera.phase === "connected"
          ? silent
          : upper(camera.why || camera.sentence),
    );
}

function show() {
  const { camera, scale, model } = state;
  rebuild($("live-classes"), model.classes, () => model.classes.map(classButton));
  text($("scale-chip"), camera.width ? `${micrometres(scale.mpp)}${scale.assumed ? " ASSUMED" : ""}` : "– µm/px");
  attribute($("scale-chip"), "class", scale.assumed || scale.note ? "chip warn" : "chip");
  if (state.loop.phase !== "counting") pausing = false;
  describe();
  if (active && (wanted() || (now && (state.loop.phase !== "counting" || blind())))) surface.redraw();
}

/** Pause at the picture on the screen, which can then be captured; or resume counting. */
export async function togglePause() {
  const counting = state.loop.phase === "counting";
  pausing = counting;
  describe();
  if (!(await trying(() => post("/api/pause", { on: counting, frame: counting && now ? now.header.frame : null })))) {
    pausing = false;
    describe();
  }
}

function classButton(name, k) {
  const count = make("b", { "data-name": name }, "–");
  const button = make(
    "button",
    {
      type: "button",
      class: "count",
      "aria-pressed": !looks.hidden.has(name) ? "true" : "false",
      title: `Show or hide ${nameOf(name)} (${k + 1})`,
    },
    shape(name),
    count,
    make("span", { class: "name" }, nameOf(name)),
  );
  button.onclick = () => toggleClass(name);
  return button;
}

/** Show or hide the marks of a class, on every picture. */
export function toggleClass(name) {
  if (!name) return;
  if (!looks.hidden.delete(name)) looks.hidden.add(name);
  for (const button of $("live-classes").children)
    button.setAttribute("aria-pressed", looks.hidden.has(button.querySelector("b").dataset.name) ? "false" : "true");
  surface.redraw();
}

/** Capture the frame on the screen; `anyway`: even if it is blurred or moving. */
export async function capture(anyway = false) {
  if (capturing || !active) return;
  const why = now ? stale() : "There is no live picture yet";
  if (!now || why) {
    refused = performance.now();
    describe();
    showError(new Error(`Nothing was captured. ${why}.`));
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
    // The field is on disk now.
    const flash = $("flash");
    flash.classList.remove("on");
    void flash.offsetWidth; // restarts the animation
    flash.classList.add("on");
    setTimeout(() => flash.classList.remove("on"), 400);
    toast(`Field ${n} captured`);
  } catch (error) {
    showError(new Error(`Not captured. ${/** @type {Error} */ (error).message}`));
  } finally {
    capturing = false;
  }
}

/** Show or hide the live view; while it is hidden, the next frame waits. */
export function setActive(visible) {
  active = visible;
  woken = performance.now();
  if (visible && next && clock() - next.header.clock > limits.silence / 1000) {
    confirmShown(next.header.frame); // too old by now
    next.picture.close();
    next = null;
  }
  if (visible) surface.redraw();
  else sketch?.end();
}

/** Redraw the live picture if it is visible. */
export function redraw() {
  if (active) surface.redraw();
}

/** Return whether something can be drawn on the picture; show an error if not. */
function canDraw() {
  if (!now && active) showError(new Error("There is no live picture to draw on yet."));
  if (!active) showError(new Error("Go back to the live picture first."));
  return now !== null && active && !sketch;
}

/** Measure the pixel size by a line of known length, drawn on the frozen picture. */
export function calibrate() {
  if (!canDraw()) return;
  frozen = true;
  sketch = new Sketch(surface, $("live-sketch"), {
    words:
      "Click two marks of the stage micrometer, as far apart as possible. The wheel zooms; arrow keys and Enter work too.",
    max: 2,
    min: 2,
    ended,
    done: async ([a, b]) => {
      const px = Math.hypot(a.x - b.x, a.y - b.y);
      const answer = await ask(
        "Length of the line",
        `The line is ${px.toFixed(1)} px long. How many µm is that on the micrometer?`,
        [{ name: "length", label: "µm", value: "100", required: true }],
        "Use",
      );
      if (!answer) return;
      const length = Number(answer.length.replace(",", "."));
      if (!(length > 0)) showError(new Error("Length: expected a number above 0, in µm. Nothing was changed."));
      else if (await trying(() => post("/api/scale", { mpp: length / px, source: "calibrated" })))
        toast(`Calibrated: ${micrometres(length / px)}`);
    },
  });
  describe();
}

/** Draw the region of interest of the next fields. */
export function drawRegion() {
  if (!canDraw()) return;
  sketch = new Sketch(surface, $("live-sketch"), {
    words:
      "Click the corners of the region. Click the first corner again, or Done, to close it. In the next fields, only nuclei inside it are counted.",
    min: 3,
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

/** Handle a key during a drawing; return whether it was used. */
export const sketchKey = (key) => sketch?.useKey(key) ?? false;

/** Zoom by a key. */
export const zoomByKey = (key) => surfaceKey(surface, key);

$("capture").onclick = () => capture();
$("anyway").onclick = () => capture(true);
$("live-canvas").ondblclick = () => sketch ?? surface.fit();
