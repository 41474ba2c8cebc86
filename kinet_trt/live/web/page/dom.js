// Small tools for the page's elements. What a person typed only ever goes into textContent.

export const $ = (id) => document.getElementById(id);

/** Make an element with attributes ("class", "data-id", ...; true and false set and leave out) and children. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

const SVG = "http://www.w3.org/2000/svg";

/** The same for a drawing. */
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

/** Set a text, an attribute or whether something is hidden, only where that changes it: the browser draws less. */
export function text(element, words) {
  const now = String(words);
  if (element.textContent !== now) element.textContent = now;
}

export function attribute(element, name, value) {
  if (value == null) {
    if (element.hasAttribute(name)) element.removeAttribute(name);
  } else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

export function shown(element, yes) {
  if (element.hidden === yes) element.hidden = !yes;
}

/** Build a part of the page anew, but only when what it shows has changed. */
const built = new WeakMap();
export function rebuilt(element, data, build) {
  const key = JSON.stringify(data);
  if (built.get(element) === key) return;
  built.set(element, key);
  element.replaceChildren(...build());
}

/** A sentence as it reads after a colon. */
export const lower = (words) => words.charAt(0).toLowerCase() + words.slice(1);
export const upper = (words) => words.charAt(0).toUpperCase() + words.slice(1);
export const number = (n) => Math.round(n).toLocaleString("en-US");
export const percent = (share) => (share == null ? "–" : `${(100 * share).toFixed(1)}%`);
export const span = (limits, word = " to ") => (limits ? limits.map(percent).join(word) : "");
export const micrometres = (mpp) => `${Number(mpp.toPrecision(4))} µm/px`;

/** "2026-03-01 14:05", in the time of the place. */
export function when(seconds) {
  const date = new Date(seconds * 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())} ${two(date.getHours())}:${two(date.getMinutes())}`;
}

/** What the page remembers from visit to visit, in this browser only. */
export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(name) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // Private windows may refuse: then it holds until the page is left.
  }
}
