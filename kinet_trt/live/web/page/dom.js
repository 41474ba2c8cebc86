// Helpers for elements and number formats. Typed text is only ever set as textContent.

/**
 * Return an element by id; `any`, because the caller knows its kind.
 *
 * @type {(id: string) => any}
 */
export const $ = (id) => document.getElementById(id);

/**
 * Create an HTML element with attributes and children.
 *
 * @param {string} tag
 * @param {Record<string, any>} attributes by name; true sets an empty attribute, false and null leave it out
 * @param {...any} children elements and texts; null is skipped
 * @returns {any}
 */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/**
 * Create an SVG element, see `make`.
 *
 * @param {string} tag
 * @param {Record<string, any>} attributes
 * @param {...any} children
 * @returns {any}
 */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child != null));
  return element;
}

// Setting only what changes spares the browser a new layout.

/** Set the text of an element. */
export function text(element, words) {
  const now = String(words);
  if (element.textContent !== now) element.textContent = now;
}

/** Set an attribute; null removes it. */
export function attribute(element, name, value) {
  if (value == null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Show or hide an element. */
export function shown(element, visible) {
  if (element.hidden === visible) element.hidden = !visible;
}

const lastData = new WeakMap();

/**
 * Rebuild the children of an element if the data they show have changed. The focus stays on the same control.
 *
 * @param {any} element
 * @param {any} data
 * @param {() => any[]} build
 */
export function rebuild(element, data, build) {
  const key = JSON.stringify(data);
  if (lastData.get(element) === key) return;
  lastData.set(element, key);
  const before = controls(element);
  const index = before.indexOf(/** @type {HTMLElement} */ (document.activeElement));
  element.replaceChildren(...build());
  if (index < 0) return;
  // The same control, else the one that is now in its place, else the last one.
  const after = controls(element);
  const same = after.find((control) => labelOf(control) === labelOf(before[index]));
  (same ?? after[Math.min(index, after.length - 1)])?.focus({ preventScroll: true });
}

/** @returns {HTMLElement[]} */
const controls = (element) => [...element.querySelectorAll("a, button, input, textarea, [tabindex]")];
const labelOf = (control) => control.getAttribute("aria-label") ?? control.textContent;

// Formats

export const lower = (words) => words.charAt(0).toLowerCase() + words.slice(1);
export const upper = (words) => words.charAt(0).toUpperCase() + words.slice(1);
export const number = (n) => Math.round(n).toLocaleString("en-US");
export const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)}%`);
export const span = (limits, word = " to ") => (limits ? limits.map(percent).join(word) : "");
/** Return the largest 1, 2 or 5 times a power of ten up to a length, for scale bars. */
export function roundLength(longest) {
  const power = 10 ** Math.floor(Math.log10(longest));
  return (longest >= 5 * power ? 5 : longest >= 2 * power ? 2 : 1) * power;
}
export const lengthWords = (length) => (length < 1000 ? `${length} µm` : `${length / 1000} mm`);
export const micrometres = (mpp) => `${Number(mpp.toPrecision(4))} µm/px`;

/** Return local date and time like "2026-03-01 14:05". */
export function when(seconds) {
  const date = new Date(seconds * 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** Return a setting stored in this browser. */
export function remembered(name, fallback) {
  try {
    return localStorage.getItem(name) ?? fallback;
  } catch {
    return fallback;
  }
}

/** Store a setting in this browser. */
export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Private windows may refuse; the setting is then lost when the page is closed.
  }
}
