// The keyboard: one table says what each key does, where, and in which words the help lists it.

import { $, draw, make, remember } from "./dom.js";
import * as deleted from "./deleted.js";
import * as field from "./field.js";
import * as live from "./live.js";
import { legend } from "./marks.js";
import * as session from "./session.js";
import { state } from "./server.js";
import { toScale, toggleAuto, toggleMarks } from "./settings.js";
import { toTab } from "./tabs.js";

const atField = () => field.open !== null;
const tab = (name) => () => {
  toTab(name);
  $(`tab-${name}`).focus();
};

// [keys, words for the help, what they do]; `live` and `field` hold at one of the two only.
const KEYS = {
  "Live view": {
    live: true,
    keys: [
      [["Space"], "Capture the field shown", () => live.capture()],
      [["Shift+Space"], "Capture even if blurred or moving", () => live.capture(true)],
      [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "Show or hide a class", (key) => live.toggleClass(state?.model.classes[key - 1])],
      [["c"], "Calibrate with a stage micrometer", live.calibrate],
      [["r"], "Draw a region for the next fields", live.drawRegion],
      [["o"], "Open the newest field", () => field.openField(state?.session.fields.at(-1)?.id)],
      [["n"], "Note on the session", session.note],
      [["u", "Ctrl+z"], "Restore the field deleted last", deleted.undo],
      [["Ctrl+Shift+z", "Ctrl+y"], "Delete the field again", deleted.redo],
      [["+", "=", "-", "0"], "Zoom in, zoom out, whole picture", (key) => live.sketchKey(key) || zoomLive(key)],
    ],
  },
  "Captured field": {
    field: true,
    keys: [
      [["1", "2", "3", "4", "5", "6", "7", "8", "9"], "Select a class", (key) => field.chooseClass(key - 1)],
      [["x"], "Select Remove", () => field.choose("remove")],
      [["←", "→", "↑", "↓"], "Move the cursor (with Shift: faster)", null],
      [[".", ","], "Next or previous nucleus", null],
      [["Enter"], "Add a nucleus, or change its class", null],
      [["Delete"], "Remove the nucleus (also Shift + click)", null],
      [["u", "Ctrl+z"], "Undo a correction or a region", field.undo],
      [["Ctrl+Shift+z", "Ctrl+y"], "Redo", field.redo],
      [["r"], "Draw the region to count", field.drawRegion],
      [["n"], "Note on the field", field.note],
      [["d"], "In a recount: mark the field as done", field.finish],
      [["PageUp", "PageDown"], "Previous or next field", (key) => field.step(key === "PageUp" ? -1 : 1)],
      [["+", "−", "0"], "Zoom in, zoom out, whole field (also the wheel)", null],
      [["Escape"], "Back to the live view", field.close],
    ],
  },
  Everywhere: {
    keys: [
      [["p"], "Pause or resume", live.togglePause],
      [["a"], "Capture automatically when the stage stops", toggleAuto],
      [["m"], "Show or hide all marks", toggleMarks],
      [["g"], "Fields", tab("fields")],
      [["h"], "Map", tab("map")],
      [["t"], "Settings", tab("settings")],
      [["s"], "Session", tab("session")],
      [["k"], "Pixel size", toScale],
      [["f"], "Full screen", toggleFull],
      [["l"], "Light or dark theme", toggleTheme],
      [["?"], "This help", help],
    ],
  },
};

function zoomLive(key) {
  live.surfaceKey(live.liveSurface, key);
}

function toggleFull() {
  if (document.fullscreenElement) document.exitFullscreen();
  else document.documentElement.requestFullscreen?.().catch(() => {});
}

function toggleTheme() {
  const light = document.documentElement.dataset.theme !== "light";
  document.documentElement.dataset.theme = light ? "light" : "dark";
  remember("theme", light ? "light" : "dark");
  nameTheme();
}

function nameTheme() {
  $("theme").textContent = document.documentElement.dataset.theme === "light" ? "Dark" : "Light";
}

function help() {
  if ($("help").open) return;
  $("help").showModal();
  $("help").scrollTop = 0; // the button that has the focus is at its end
}

/**
 * Name a key with what is held: "Space", "Shift+Space", "Ctrl+z", "Ctrl+Shift+z", "Shift+ArrowLeft", "?". Cmd is Ctrl.
 *
 * Shift alone does not name another letter: Caps Lock gives capitals as well.
 */
function named({ key: typed, code, ctrlKey, metaKey, altKey, shiftKey }) {
  // Where letters are not Latin the key's place tells which one is meant.
  const key = typed.length === 1 && typed > "\x7f" && /^Key[A-Z]$/.test(code) ? code[3] : typed;
  const command = ctrlKey || metaKey;
  const held = (command ? "Ctrl+" : "") + (altKey ? "Alt+" : "") + (command && shiftKey && /^[a-z]$/i.test(key) ? "Shift+" : "");
  if (code === "Space") return `${held}${shiftKey ? "Shift+" : ""}Space`;
  if (key.startsWith("Arrow")) return `${held}${shiftKey ? "Shift+" : ""}${key}`;
  return held + (key.length === 1 ? key.toLowerCase() : key);
}

const writes = (element) => element.matches?.("textarea, select, input:not([type=range]):not([type=radio])");
const takes = { // keys that an element with the focus needs itself
  Enter: "button, a, input, summary, [role=button]",
  ArrowLeft: "input", ArrowRight: "input", ArrowUp: "input", ArrowDown: "input",
  PageUp: "input", PageDown: "input",
};

document.addEventListener("keydown", (event) => {
  const { target } = event;
  if (document.querySelector("dialog[open]")) return;
  const key = named(event);
  if (writes(target)) {
    if (key === "Escape") target.blur();
    return;
  }
  if (takes[key] && target.matches?.(takes[key])) return;
  // At a field a button that has the focus is pressed by the space bar, as anywhere.
  if (key === "Space" && atField() && target.matches?.("button, a, input, [role=button]")) return;
  if (press(key, event.repeat)) event.preventDefault();
});

// Firefox presses a button when the space bar comes up.
document.addEventListener("keyup", (event) => {
  if (event.code === "Space" && !atField() && !writes(event.target) && !document.querySelector("dialog[open]")) event.preventDefault();
});

/** Do what a key is there for; say whether there was anything, so that the browser does not act on it as well. */
function press(key, again) {
  if (atField() ? field.fieldKey(key) : live.sketchKey(key)) return true;
  for (const { live: atLive, field: there, keys } of Object.values(KEYS)) {
    if ((atLive && atField()) || (there && !atField())) continue;
    const found = keys.find(([names, , action]) => action && names.includes(key));
    if (!found) continue;
    if (!again) found[2](key);
    return true;
  }
  return key === "Space" || key === "Shift+Space"; // it never scrolls
}

const SHOWN = { Escape: "Esc", PageUp: "Page up", PageDown: "Page down", "Shift+Space": "Shift Space", "Ctrl+z": "Ctrl Z", "Ctrl+Shift+z": "Ctrl Shift Z", "Ctrl+y": "Ctrl Y" };
const CTRL = /Mac|iPhone|iPad/.test(navigator.platform) ? "Cmd" : "Ctrl";
for (const [title, { keys }] of Object.entries(KEYS)) {
  const rows = keys.map(([names, words]) => {
    const some = names.length === 9 ? ["1", "2", "3"] : names.filter((name) => name !== "=");
    const caps = some.map((name) => make("kbd", {}, SHOWN[name]?.replace("Ctrl", CTRL) ?? (name.length === 1 ? name.toUpperCase() : name)));
    return make("p", {}, words, make("span", {}, ...caps.flatMap((cap) => [cap, " "])));
  });
  $("help-keys").append(make("section", {}, make("h3", {}, title), ...rows));
}

$("help-keys").append(make("section", {}, make("h3", {}, "Marks"), make("ul", { class: "legend" }, ...legend(true))));
$("field-legend").append(...legend(false));

$("help-button").onclick = help;
$("theme").onclick = toggleTheme;
$("fullscreen").onclick = toggleFull;
nameTheme();
