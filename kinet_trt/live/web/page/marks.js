// Marks of nuclei. Classes differ in shape as well as in colour, as in the report.

import { draw as drawing, make } from "./dom.js";
import { on } from "./server.js";

const MIN_RADIUS = 4; // px on the screen

/** Radius, names and colours, from the server. @type {import("./types.js").Marks} */
let style = { radius: 1, classes: {}, other: "#969696" };
on("state", ({ marks }) => (style = marks));

/** Return the name of a class for people. */
export const nameOf = (name) => style.classes[name]?.name ?? name;
/** Return the name of a class where the tumour is implied: "positive". */
export const shortOf = (name) => nameOf(name).replace(" tumour", "");
const colourOf = (name) => style.classes[name]?.colour ?? style.other;

/** Appearance of the marks, on every picture of this page. */
export const looks = { on: true, size: 1, opacity: 1, hidden: new Set() };

/**
 * Return the radius of a mark on the screen, px.
 *
 * @param {number} mpp µm/px of the picture
 * @param {number} scale px of the screen per px of the picture
 */
export const radiusOf = (mpp, scale) => Math.max(MIN_RADIUS, (style.radius / mpp) * scale) * looks.size;

/** Trace the shape of a class around 0, 0: circle, square, triangle; a diamond for other classes. */
function trace(to, name, r) {
  if (name === "positive") {
    to.arc(0, 0, r, 0, 2 * Math.PI);
  } else if (name === "negative") {
    to.rect(-0.86 * r, -0.86 * r, 1.72 * r, 1.72 * r);
  } else if (name === "non_tumor") {
    to.moveTo(0, -1.15 * r);
    to.lineTo(1.05 * r, 0.65 * r);
    to.lineTo(-1.05 * r, 0.65 * r);
    to.closePath();
  } else {
    to.moveTo(0, -r);
    to.lineTo(r, 0);
    to.lineTo(0, r);
    to.lineTo(-r, 0);
    to.closePath();
  }
}

/** Trace the sign of an edit, as in the report: plus, dot and cross. */
function traceSign(to, name, r) {
  if (name === "added") {
    to.moveTo(-0.6 * r, 0);
    to.lineTo(0.6 * r, 0);
    to.moveTo(0, -0.6 * r);
    to.lineTo(0, 0.6 * r);
  } else if (name === "given") {
    to.arc(0, 0, 0.16 * r, 0, 2 * Math.PI);
  } else if (name === "removed") {
    to.moveTo(-0.6 * r, -0.6 * r);
    to.lineTo(0.6 * r, 0.6 * r);
    to.moveTo(-0.6 * r, 0.6 * r);
    to.lineTo(0.6 * r, -0.6 * r);
  }
}

// Stamps are drawn once and copied, which is 15 times faster than paths without a GPU.
const stamps = new Map();

/**
 * Return the stamp of a mark: a picture, and half its side in px.
 *
 * @param {string} kind "plain"; "away": not counted in this field; "touched": edited by hand, with a halo; "sign"
 * @param {string} what class; "added", "given" or "removed" for a sign
 * @param {number} r radius, px
 */
function stamp(kind, what, r) {
  const key = `${kind} ${what} ${colourOf(what)} ${r.toFixed(1)}`;
  const known = stamps.get(key);
  if (known) return known;
  if (stamps.size > 200) stamps.clear();
  const half = Math.ceil(1.7 * r + 6);
  const canvas = new OffscreenCanvas(2 * half, 2 * half);
  const to = /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d"));
  to.translate(half, half);
  to.lineJoin = to.lineCap = "round";
  to.beginPath();
  const width = Math.min(2.4, Math.max(1.4, r / 6));
  if (kind === "sign") traceSign(to, what, r);
  else trace(to, what, kind === "away" ? 0.5 * r : r);
  if (kind === "touched") line(to, width + 7, "#ffd43b");
  line(to, width + (kind === "away" ? 2 : 1.8), "#ffffffd0");
  line(to, kind === "away" ? 1.2 : width, kind === "sign" ? "#111111" : kind === "away" ? "#333333" : colourOf(what));
  const made = { picture: canvas, half };
  stamps.set(key, made);
  return made;
}

function line(to, width, colour) {
  to.lineWidth = width;
  to.strokeStyle = colour;
  to.stroke();
}

/** Draw one kind of mark at places x, y of a canvas, px. */
export function put(to, kind, what, r, places) {
  const { picture, half } = stamp(kind, what, r);
  for (const [x, y] of places) to.drawImage(picture, Math.round(x) - half, Math.round(y) - half);
}

/** Draw the nuclei of a frame. */
export function putAll(to, surface, { x, y, c }, classes, mpp) {
  if (!looks.on) return;
  const r = radiusOf(mpp, surface.scale);
  to.globalAlpha = looks.opacity;
  classes.forEach((name, k) => {
    if (looks.hidden.has(name)) return;
    const { picture, half } = stamp("plain", name, r);
    for (let i = 0; i < x.length; i++) {
      if (c[i] === k) to.drawImage(picture, Math.round(surface.atX(x[i])) - half, Math.round(surface.atY(y[i])) - half);
    }
  });
  to.globalAlpha = 1;
}

/** Kinds of marks, class and meaning. */
const LEGEND = [
  ["plain", "positive", ""],
  ["plain", "negative", ""],
  ["plain", "non_tumor", ""],
  ["away", "negative", "white: not counted here (outside the region, or counted in another field)"],
  ["touched given", "positive", "class set by hand"],
  ["touched added", "positive", "added by hand"],
  ["removed", "", "removed by hand"],
];

/**
 * Return the entries of the legend.
 *
 * @param {boolean} classes whether to list the classes
 */
export function legend(classes) {
  return LEGEND.filter(([kinds]) => classes || kinds !== "plain").map(([kinds, name, words]) => {
    const canvas = make("canvas", { width: 30, height: 30, "aria-hidden": "true" });
    const to = canvas.getContext("2d");
    for (const kind of kinds.split(" ")) {
      const sign = ["given", "added", "removed"].includes(kind);
      put(to, sign ? "sign" : kind, sign ? kind : name, kind === "away" ? 12 : 8.5, [[15, 15]]);
    }
    return make("li", {}, canvas, words || nameOf(name));
  });
}

/** Return a small drawing of a class's shape for buttons and lists. */
export function shape(name) {
  const paths = {
    positive: drawing("circle", { r: 7 }),
    negative: drawing("rect", { x: -6.2, y: -6.2, width: 12.4, height: 12.4 }),
    non_tumor: drawing("path", { d: "M0-8l7.4 12.6h-14.8z" }),
    remove: drawing("path", { d: "M-6-6l12 12m0-12l-12 12" }),
  };
  const kind = name === "remove" ? "tool" : name in paths ? name : "other";
  return drawing(
    "svg",
    { class: `shape ${kind}`, viewBox: "-10 -10 20 20", "aria-hidden": "true" },
    paths[name] ?? drawing("path", { d: "M0-8l8 8l-8 8l-8-8z" }),
  );
}
