// Messages: toasts, warnings that stay, dialogs, and announcements for screen readers.

import { $, make, rebuild, text } from "./dom.js";

/**
 * Show a message for a moment, with a button for longer.
 *
 * @param {string} words
 * @param {[string, () => void] | null} button label and action
 */
export function toast(words, button = null) {
  $("toasts").replaceChildren();
  const box = make("div", { class: "toast" }, words);
  if (button) {
    const press = make("button", { type: "button" }, button[0]);
    press.onclick = () => {
      box.remove();
      button[1]();
    };
    box.append(press);
  }
  $("toasts").append(box);
  announce(words);
  setTimeout(() => box.remove(), button ? 10_000 : 2600);
}

/** Show an error for some seconds; a click closes it. */
export function showError(error) {
  const words = error.message ?? String(error);
  for (const box of [...$("toasts").children])
    if (box.textContent === words || $("toasts").children.length > 2) box.remove();
  const box = make("div", { class: "toast red", role: "alert", title: "Click to close" }, words);
  box.onclick = () => box.remove();
  $("toasts").append(box);
  setTimeout(() => box.remove(), 9000);
}

/**
 * Run an action and show its error if it fails.
 *
 * @param {() => Promise<any>} work
 * @returns {Promise<any>} undefined after an error
 */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    showError(error);
    return undefined;
  }
}

/** Announce a message to screen readers. */
export function announce(words) {
  $("announcer").textContent = words;
}

/**
 * @typedef {object} Warning
 * @property {"red" | "amber" | "plain"} kind
 * @property {string} word title
 * @property {string} words
 * @property {[string, () => void]} [button] label and action
 * @property {number | null} [next] s until the next attempt, counted down beside the words
 */

/**
 * Show the warnings above the picture, which move everything below them. While a button is being pressed the page does
 * not move: the pointer would leave the button before it is released, and the click would be lost.
 *
 * @param {Warning[]} warnings
 */
export function warn(warnings) {
  clearTimeout(waiting);
  if (performance.now() < pressedUntil) {
    waiting = setTimeout(warn, RELEASE_POLL, warnings);
    return;
  }
  const attempt = warnings.find(({ next }) => next !== undefined);
  due =
    attempt?.next === undefined
      ? undefined
      : attempt.next === null
        ? -Infinity
        : performance.now() + 1000 * attempt.next;
  const data = warnings.map(({ kind, word, words, button, next }) => [
    kind,
    word,
    words,
    button?.[0],
    next !== undefined,
  ]);
  rebuild($("banners"), data, () =>
    warnings.map(({ kind, word, words, button, next }) => {
      const box = make(
        "div",
        { class: `banner ${kind}`, role: kind === "plain" ? "status" : "alert" },
        make("b", {}, word),
        make("p", {}, words),
      );
      if (button) {
        const press = make("button", { type: "button" }, button[0]);
        press.onclick = button[1];
        box.append(press);
      }
      if (next !== undefined) box.append(make("span", { id: "countdown", "aria-live": "off" }));
      return box;
    }),
  );
  countDown();
}

const LONGEST_PRESS = 10_000; // ms after which a button that is still pressed no longer delays warnings
const RELEASE_POLL = 50; // ms
let waiting = 0;
let pressedUntil = 0;
addEventListener(
  "pointerdown",
  ({ target }) => {
    const pressed = target instanceof Element && target.closest("button, a, input, label, [role=button]");
    pressedUntil = pressed ? performance.now() + LONGEST_PRESS : 0;
  },
  true,
);
// The click follows in the same task.
for (const kind of ["pointerup", "pointercancel"])
  addEventListener(kind, () => setTimeout(() => (pressedUntil = 0)), true);

/** Time of the next attempt, ms; undefined: there is none. @type {number | undefined} */
let due;
function countDown() {
  if (due === undefined || !$("countdown")) return;
  const left = Math.ceil((due - performance.now()) / 1000);
  text($("countdown"), left > 0 ? `Next attempt in ${left} s` : "Trying to connect…");
}
setInterval(countDown, 200);

/**
 * @typedef {object} Input
 * @property {string} name
 * @property {string} label
 * @property {string} [value]
 * @property {[string, string][]} [choices] value and label of each radio button
 * @property {boolean} [long] several lines
 * @property {boolean} [required]
 */

/**
 * Ask the user in a dialog.
 *
 * @param {string} title
 * @param {string} words
 * @param {Input[]} inputs
 * @param {string} yes label of the button that confirms
 * @param {boolean} dangerous whether the action is destructive: Cancel then has the focus
 * @returns {Promise<Record<string, any> | null>} values by name; null if cancelled
 */
export function ask(title, words, inputs = [], yes = "OK", dangerous = false) {
  const dialog = $("ask");
  if (dialog.open) return Promise.resolve(null);
  $("ask-title").textContent = title;
  $("ask-words").textContent = words;
  $("ask-yes").textContent = yes;
  $("ask-yes").classList.toggle("danger", dangerous);
  const fields = inputs.map(field);
  $("ask-inputs").replaceChildren(...fields.map(({ box }) => box));
  dialog.showModal();
  (fields[0]?.focus ?? $(dangerous ? "ask-no" : "ask-yes")).focus();
  return new Promise((resolve) => {
    const end = (answer) => {
      dialog.onclose = null;
      dialog.close();
      resolve(answer);
    };
    // The event of an earlier question's close may arrive only now, when this one is open.
    dialog.onclose = () => dialog.open || end(null);
    $("ask-no").onclick = () => end(null);
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      end(Object.fromEntries(fields.map(({ name, value }) => [name, value()])));
    };
  });
}

/** @param {Input} input */
function field({ name, label, value = "", choices, long, required = false }) {
  if (choices) {
    const box = make("div", { role: "radiogroup", "aria-label": label });
    for (const [choice, words] of choices) {
      const radio = make("input", { type: "radio", name, value: choice, checked: choice === value });
      box.append(make("label", { class: "choice" }, radio, words));
    }
    return { name, box, focus: box.querySelector("input"), value: () => box.querySelector("input:checked").value };
  }
  const input = long
    ? make("textarea", { rows: 4, maxlength: 5000 })
    : make("input", { autocomplete: "off", maxlength: 200 });
  input.value = value;
  input.required = required;
  return { name, box: make("label", {}, label, input), focus: input, value: () => input.value.trim() };
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
}
