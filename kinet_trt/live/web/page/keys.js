// Keyboard shortcuts: one table of keys, their actions and their descriptions in the help.

import { $, make, rebuild, remember } from "./dom.js";
import * as deleted from "./deleted.js";
import * as field from "./field.js";
import * as live from "./live.js";
import { legend } from "./marks.js";
import * as session from "./session.js";
import { on, state } from "./server.js";
import { shortcuts, showScale, toggleAuto, toggleMarks } from "./settings.js";
import { showTab } from "./tabs.js";

const atField = () => field.open !== null;
const tab = (name) => () => {
  showTab(name);
  $(`tab-${name}`).focus();
};

/**
 * Keys, description and action by section; `live` and `field` limit a section to that view. Keys without an action are
 * handled by the picture.
 *
 * @type {Record<string, {live?: boolean, field?: boolean, keys: [string[], string, ((key: any) => void) | null][]}>}
 */
const KEYS = {
  "Live view": {
    live: true,
    keys: [
      [["Space"], "Capture the field shown", () => live.capture()],
      [["Shift+Space"], "Capture even if blurred or moving", () => live.capture(true)],
      [
        ["1", "2", "3", "4", "5", "6", "7", "8", "9"],
        "Show or hide a class",
        (key) => live.toggleClass(state?.model.classes[key - 1]),
      ],
      [["c"], "Calibrate with a stage micrometer", live.calibrate],
      [["r"], "Draw a region for the next fields", live.drawRegion],
      [["o"], "Open the newest field", () => field.openField(state?.session.fields.at(-1)?.id)],
      [["n"], "Note on the session", session.addNote],
      [["u", "Ctrl+z"], "Restore the field deleted last", deleted.undo],
      [["Ctrl+Shift+z", "Ctrl+y"], "Delete the field again", deleted.redo],
      [["+", "=", "-", "0"], "Zoom in, zoom out, whole picture", (key) => live.zoomByKey(key)],
      [["Escape"], "Move the focus to the picture", () => $("live-canvas").focus({ preventScroll: true })],
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
      [["n"], "Note on the field", field.addNote],
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
      [["k"], "Pixel size", showScale],
      [["f"], "Full screen", toggleFull],
      [["l"], "Light or dark theme", toggleTheme],
      [["?"], "This help", help],
    ],
  },
};

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
  $("help").scrollTop = 0; // the focused button is at the end
}

/**
 * Return the name of a key with its modifiers: "Space", "Shift+Space", "Ctrl+z", "Ctrl+Shift+z", "Shift+ArrowLeft", "?".
 * Cmd is Ctrl. Shift with a letter is ignored, because Caps Lock gives capitals as well.
 *
 * @param {KeyboardEvent} event
 */
function nameOf({ key: typed, code, ctrlKey, metaKey, altKey, shiftKey }) {
  // On keyboards without Latin letters, the position of the key counts.
  const key = typed.length === 1 && typed > "\x7f" && /^Key[A-Z]$/.test(code) ? code[3] : typed;
  const command = ctrlKey || metaKey;
  const held =
    (command ? "Ctrl+" : "") + (altKey ? "Alt+" : "") + (command && shiftKey && /^[a-z]$/i.test(key) ? "Shift+" : "");
  if (code === "Space") return `${held}${shiftKey ? "Shift+" : ""}Space`;
  if (key.startsWith("Arrow")) return `${held}${shiftKey ? "Shift+" : ""}${key}`;
  return held + (key.length === 1 ? key.toLowerCase() : key);
}

const isTextInput = (element) => element.matches?.("textarea, select, input:not([type=range]):not([type=radio])");
/** Elements that need a key themselves. @type {Record<string, string>} */
const OWN_KEYS = {
  Enter: "button, a, input, summary, [role=button]",
  ArrowLeft: "input",
  ArrowRight: "input",
  ArrowUp: "input",
  ArrowDown: "input",
  PageUp: "input",
  PageDown: "input",
};

const BUTTONS = "button, a, input, [role=button]";
let focusByTab = false;
document.addEventListener("pointerdown", () => (focusByTab = false), true);

/**
 * Return whether Space presses the focused button: in a captured field, after Tab, and without shortcuts. Else a button
 * has the focus only because it was clicked, and Space captures, so that nobody has to look away from the eyepiece.
 */
const pressesButton = (target) => target.matches?.(BUTTONS) && (atField() || focusByTab || !shortcuts.on);

/** Return whether a key is a character that is switched off as a shortcut, see WCAG 2.1.4. */
const isSwitchedOff = (key, target) => key.length === 1 && !shortcuts.on && !target.matches?.("canvas");

document.addEventListener("keydown", (event) => {
  const target = /** @type {any} */ (event.target);
  if (event.key === "Tab") focusByTab = true;
  if (document.querySelector("dialog[open]")) return;
  const key = nameOf(event);
  if (isTextInput(target)) {
    if (key === "Escape") target.blur();
    return;
  }
  if (OWN_KEYS[key] && target.matches?.(OWN_KEYS[key])) return;
  if (key === "Space" && pressesButton(target)) return;
  if (isSwitchedOff(key, target)) return;
  if (press(key, event.repeat)) event.preventDefault();
});

// Firefox presses a button when the space bar is released.
document.addEventListener("keyup", (event) => {
  const { target } = event;
  if (
    event.code === "Space" &&
    !pressesButton(target) &&
    !isTextInput(target) &&
    !document.querySelector("dialog[open]")
  )
    event.preventDefault();
});

/** Run the action of a key; return whether there was one, so that the browser does not handle the key as well. */
function press(key, repeated) {
  if (atField() ? field.fieldKey(key) : live.sketchKey(key)) return true;
  for (const { live: atLive, field: there, keys } of Object.values(KEYS)) {
    if ((atLive && atField()) || (there && !atField())) continue;
    const found = keys.find(([names, , action]) => action && names.includes(key));
    if (!found) continue;
    if (!repeated) found[2]?.(key);
    return true;
  }
  return key === "Space" || key === "Shift+Space"; // Space never scrolls
}

/** Key names in the help. @type {Record<string, string>} */
const LABELS = {
  Escape: "Esc",
  PageUp: "Page up",
  PageDown: "Page down",
  "Shift+Space": "Shift Space",
  "Ctrl+z": "Ctrl Z",
  "Ctrl+Shift+z": "Ctrl Shift Z",
  "Ctrl+y": "Ctrl Y",
};
const CTRL = /Mac|iPhone|iPad/.test(navigator.platform) ? "Cmd" : "Ctrl";
for (const [title, { keys }] of Object.entries(KEYS)) {
  const rows = keys.map(([names, words]) => {
    const listed = names.length === 9 ? ["1", "2", "3"] : names.filter((name) => name !== "=");
    const caps = listed.map((name) =>
      make("kbd", {}, LABELS[name]?.replace("Ctrl", CTRL) ?? (name.length === 1 ? name.toUpperCase() : name)),
    );
    return make("p", {}, words, make("span", {}, ...caps.flatMap((cap) => [cap, " "])));
  });
  $("help-keys").append(make("section", {}, make("h3", {}, title), ...rows));
}

const helpLegend = make("ul", { class: "legend" });
$("help-keys").append(make("section", {}, make("h3", {}, "Marks"), helpLegend));
on("state", ({ marks }) => {
  rebuild(helpLegend, marks, () => legend(true));
  rebuild($("field-legend"), marks, () => legend(false));
});

$("help-button").onclick = help;
$("theme").onclick = toggleTheme;
$("fullscreen").onclick = toggleFull;
nameTheme();
