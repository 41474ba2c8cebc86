// Settings: pixel size, threshold, capture, marks, shortcuts. The page shows a setting once the server confirms it.

import { $, attribute, make, micrometres, rebuild, remember, remembered, shown, text } from "./dom.js";
import { redrawField } from "./field.js";
import { calibrate, drawRegion, redraw, togglePause } from "./live.js";
import { looks } from "./marks.js";
import { on, post, state } from "./server.js";
import { showTab } from "./tabs.js";
import { ask, showError, toast, trying } from "./words.js";

const SLIDER_DELAY = 150; // ms after the slider's last move
const BLANK_TIMEOUT = 30_000; // ms for ten frames of a blank field

on("state", ({ scale, presets, threshold, fused, auto, blank, live_region: region, model, loop }) => {
  text($("mpp-now"), micrometres(scale.mpp));
  text($("mpp-words"), scale.words);
  attribute($("mpp-words"), "class", scale.assumed ? "assumed" : "soft");
  rebuild($("presets"), [presets, scale.mpp, scale.source], () => presets.map((preset) => presetButton(preset, scale)));
  if (document.activeElement !== $("threshold-number")) $("threshold-number").value = threshold;
  const relative = threshold.startsWith("relative:");
  if (document.activeElement !== $("threshold-range"))
    $("threshold-range").value = relative ? threshold.slice(9) : threshold;
  attribute(
    $("threshold-number"),
    "title",
    fused ? "This model accepts a number only" : "A number, or relative: and a number",
  );
  attribute($("threshold-range"), "aria-valuetext", threshold);
  attribute($("auto"), "aria-checked", auto);
  attribute($("blank"), "aria-checked", blank);
  attribute($("pause"), "aria-pressed", loop.phase === "paused" || loop.phase === "failed");
  text($("pause"), { paused: "Resume", failed: "Try again" }[loop.phase] ?? "Pause");
  shown($("live-whole"), region !== null);
  text(
    $("model"),
    `${model.name}, ${model.precision} on ${model.runtime}, ${micrometres(model.mpp)}, ${model.sha256.slice(0, 12)}…`,
  );
});

// --- pixel size -----------------------------------------------------------------------------------------------------

function presetButton({ name, mpp }, scale) {
  const used = scale.source === "objective" && Math.abs(scale.mpp - mpp) < 1e-9;
  const use = make(
    "button",
    { type: "button", "aria-pressed": used ? "true" : "false", title: micrometres(mpp) },
    name,
    make("span", { class: "soft fine" }, String(Number(mpp.toPrecision(4)))),
  );
  use.onclick = () => setScale(mpp, "objective");
  const away = make("button", { type: "button", "aria-label": `Delete ${name}`, title: `Delete ${name}` }, "×");
  away.onclick = async () => {
    if (
      await ask(
        `Delete the objective ${name}?`,
        `${micrometres(mpp)}. The pixel size in use does not change.`,
        [],
        "Delete",
        true,
      )
    )
      setPresets(state.presets.filter((preset) => preset.name !== name));
  };
  return make("span", { class: "preset" }, use, away);
}

/** Response to the last change of the pixel size. @type {Promise<any>} */
let setting = Promise.resolve(null);

async function setScale(mpp, source) {
  setting = trying(() => post("/api/scale", { mpp, source }));
  if (await setting) toast(mpp === null ? "Using the camera's value" : `Set: ${micrometres(mpp)}`);
}

const setPresets = (presets) => trying(() => post("/api/presets", { presets }));

$("mpp-form").onsubmit = (event) => {
  event.preventDefault();
  const mpp = Number($("mpp-input").value.trim().replace(",", "."));
  if (!(mpp > 0)) {
    showError(new Error("µm/px: expected a number above 0, such as 0.25. Nothing was changed."));
    return;
  }
  setScale(mpp, "option");
  $("mpp-input").value = "";
};
$("mpp-camera").onclick = () => setScale(null, "option");
$("calibrate").onclick = calibrate;
$("preset-form").onsubmit = async (event) => {
  event.preventDefault();
  const name = $("preset-name").value.trim();
  if (!name) {
    showError(new Error("Objective: expected a name such as 20x."));
    return;
  }
  // The state may not contain the last change yet.
  const answer = await setting;
  const { mpp } = answer && answer.clock > state.clock ? answer : state.scale;
  const others = state.presets.filter((preset) => preset.name !== name);
  if (await setPresets([...others, { name, mpp }])) {
    $("preset-name").value = "";
    toast(`Saved: ${name}, ${micrometres(mpp)}`);
  }
};
$("scale-chip").onclick = () => showScale();

/** Show the setting of the pixel size. */
export function showScale() {
  showTab("settings");
  $("mpp-input").focus();
}

// --- threshold ------------------------------------------------------------------------------------------------------

let waiting = 0;
$("threshold-range").oninput = () => {
  const relative = state.threshold.startsWith("relative:") ? "relative:" : "";
  $("threshold-number").value = relative + $("threshold-range").value;
  clearTimeout(waiting);
  waiting = setTimeout(setThreshold, SLIDER_DELAY);
};
$("threshold-number").onchange = () => setThreshold();

async function setThreshold() {
  const value = $("threshold-number").value.trim().replace(",", ".");
  if (!(await trying(() => post("/api/threshold", { value })))) $("threshold-number").value = state.threshold;
}

// --- capture --------------------------------------------------------------------------------------------------------

/** Switch automatic capture on or off. */
export async function toggleAuto() {
  const auto = !state.auto;
  if (await trying(() => post("/api/auto", { on: auto })))
    toast(auto ? "Automatic capture is on: fields are captured when the stage stops" : "Automatic capture is off");
}

$("auto").onclick = toggleAuto;
$("pause").onclick = togglePause;
$("blank").onclick = async () => {
  if (state.blank) {
    if (await trying(() => post("/api/blank", { on: false }))) toast("Flat-field correction is off");
    return;
  }
  const answer = await ask(
    "Flat-field correction",
    "Move to an empty area of the slide (glass only), in focus and at the usual brightness. Ten frames are taken, in about a second.",
    [],
    "Take blank field",
  );
  if (answer && (await trying(() => post("/api/blank", { on: true }, BLANK_TIMEOUT))))
    toast("Flat-field correction is on");
};
$("live-region").onclick = drawRegion;
$("live-whole").onclick = () => trying(() => post("/api/region", { points: null }));

// --- marks and shortcuts, stored in this browser --------------------------------------------------------------------

/** Show or hide all marks. */
export function toggleMarks() {
  looks.on = !looks.on;
  attribute($("marks"), "aria-checked", looks.on);
  toast(looks.on ? "Marks shown" : "Marks hidden");
  redraw();
  redrawField();
}

$("marks").onclick = toggleMarks;

/** Whether shortcuts of a single character are on; some speech input and stray keys would trigger them. */
export const shortcuts = { on: remembered("shortcuts", "on") === "on" };
attribute($("shortcuts"), "aria-checked", shortcuts.on);
$("shortcuts").onclick = () => {
  shortcuts.on = !shortcuts.on;
  remember("shortcuts", shortcuts.on ? "on" : "off");
  attribute($("shortcuts"), "aria-checked", shortcuts.on);
  toast(shortcuts.on ? "Single-key shortcuts are on" : "Single-key shortcuts are off");
};

for (const [id, name] of [
  ["mark-size", "size"],
  ["mark-opacity", "opacity"],
]) {
  looks[name] = Number(remembered(id, "1")) || 1;
  $(id).value = looks[name];
  $(id).oninput = () => {
    looks[name] = Number($(id).value);
    remember(id, $(id).value);
    redraw();
    redrawField();
  };
}
