// What the page says to a person: words that pop up, warnings that stay, questions, and words for screen readers.

import { $, make, rebuilt, text } from "./dom.js";

/** Show a word for a moment; with a button, [label, action], for a longer one. */
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

/** Show what went wrong until it was read; a click takes it away. */
export function complain(error) {
  const words = error.message ?? String(error);
  for (const box of [...$("toasts").children]) if (box.textContent === words || $("toasts").children.length > 2) box.remove();
  const box = make("div", { class: "toast red", role: "alert", title: "Click to close" }, words);
  box.onclick = () => box.remove();
  $("toasts").append(box);
  setTimeout(() => box.remove(), 9000);
}

/** Run something that may fail, and say so when it does. */
export async function trying(work) {
  try {
    return await work();
  } catch (error) {
    complain(error);
    return undefined;
  }
}

export function announce(words) {
  $("announcer").textContent = words;
}

/**
 * Show the warnings: each {kind: "red" | "amber" | "plain", word, words, button?: [label, action], next?: seconds}.
 *
 * `next` is when something is tried again; it counts down beside the words, which are read out once.
 */
export function warn(warnings) {
  const coming = warnings.find(({ next }) => next !== undefined);
  due = coming === undefined ? undefined : coming.next === null ? -Infinity : performance.now() + 1000 * coming.next;
  const data = warnings.map(({ kind, word, words, button, next }) => [kind, word, words, button?.[0], next !== undefined]);
  rebuilt($("banners"), data, () =>
    warnings.map(({ kind, word, words, button, next }) => {
      const box = make("div", { class: `banner ${kind}`, role: kind === "plain" ? "status" : "alert" }, make("b", {}, word), make("p", {}, words));
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

let due; // when something is tried again, ms; undefined: nothing is
function countDown() {
  const left = Math.ceil((due - performance.now()) / 1000);
  if (due !== undefined && $("countdown")) text($("countdown"), left > 0 ? `Next attempt in ${left} s` : "Trying to connect…");
}
setInterval(countDown, 200);

/**
 * Ask a person something in a dialog.
 *
 * `inputs` are {name, label, value?, choices?: [[value, words]...], long?: true, least?: characters}. The promise gives
 * the answers by name, or null when the person thought better of it.
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
  // What cannot be taken back is not what Enter does at once.
  (fields[0]?.focus ?? $(dangerous ? "ask-no" : "ask-yes")).focus();
  return new Promise((resolve) => {
    const end = (answer) => {
      dialog.onclose = null;
      dialog.close();
      resolve(answer);
    };
    dialog.onclose = () => end(null);
    $("ask-no").onclick = () => end(null);
    dialog.querySelector("form").onsubmit = (event) => {
      event.preventDefault();
      end(Object.fromEntries(fields.map(({ name, value }) => [name, value()])));
    };
  });
}

function field({ name, label, value = "", choices, long, least = 0 }) {
  if (choices) {
    const box = make("div", { role: "radiogroup", "aria-label": label });
    for (const [choice, words] of choices) {
      const radio = make("input", { type: "radio", name, value: choice, checked: choice === value });
      box.append(make("label", { class: "choice" }, radio, words));
    }
    return { name, box, focus: box.querySelector("input"), value: () => box.querySelector("input:checked").value };
  }
  const input = long ? make("textarea", { rows: 4, maxlength: 5000 }) : make("input", { autocomplete: "off", maxlength: 200 });
  input.value = value;
  input.required = least > 0;
  return { name, box: make("label", {}, label, input), focus: input, value: () => input.value.trim() };
}

for (const dialog of document.querySelectorAll("dialog")) {
  dialog.querySelector("[data-close]")?.addEventListener("click", () => dialog.close());
}
