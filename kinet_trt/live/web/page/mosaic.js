// Captured fields: thumbnails with their counts, and the map of their positions.

import { $, attribute, draw, lengthWords, make, number, percent, rebuild, roundLength, shown, text } from "./dom.js";
import { open, openField } from "./field.js";
import { nameOf, shape } from "./marks.js";
import { on } from "./server.js";
import { toast } from "./words.js";

/** Thumbnail by id of the field. @type {Map<number, {item: any, button: any, parts: any}>} */
const cards = new Map();
/** Session of the thumbnails. @type {number | null} */
let shownSession = null;

on("state", ({ session }) => {
  const { fields, recount, summary } = session;
  shown($("no-fields"), !fields.length);
  for (const [id, { item }] of cards) {
    if (fields.some((field) => field.id === id)) continue;
    item.remove();
    cards.delete(id);
  }
  for (const field of fields) {
    // Newest first.
    if (!cards.has(field.id)) {
      if (shownSession === session.id && field.automatic) toast(`Field ${field.number} captured automatically`);
      $("thumbnails").prepend(card(field));
    }
    update(field, recount);
  }
  shownSession = session.id;
  map(fields, recount ? null : summary?.hot_spot);
});

function card(field) {
  const parts = { index: make("span"), line: make("span", { class: "soft" }), flags: make("span", { class: "flags" }) };
  const image = make("img", {
    src: `/api/fields/${field.id}/thumbnail.jpg`,
    alt: "",
    loading: "lazy",
    width: 320,
    height: Math.round((320 * field.height) / field.width),
  });
  const button = make(
    "button",
    { type: "button", "data-field": field.id },
    image,
    make(
      "span",
      { class: "card" },
      make("span", { class: "line" }, make("b", {}, `Field ${field.number}`), parts.index),
      parts.line,
      parts.flags,
    ),
  );
  button.onclick = () => openField(field.id);
  const item = make("li", {}, button);
  cards.set(field.id, { item, button, parts });
  return item;
}

function update(field, recount) {
  const { button, parts } = /** @type {any} */ (cards.get(field.id));
  text(parts.index, percent(field.index));
  rebuild(parts.line, field.counts, () =>
    Object.entries(field.counts).map(([name, n]) =>
      make("span", { class: "mini" }, shape(name), number(n), make("span", { class: "unseen" }, ` ${nameOf(name)} `)),
    ),
  );
  const flags = [];
  if (recount) flags.push(field.finished ? "✓ done" : "to do");
  if (field.mpp_source === "model") flags.push("µm/px assumed");
  if (field.unlike) flags.push("unlike the training data");
  if (field.region) flags.push("region");
  if (field.corrections) flags.push(`${field.corrections} corrected`);
  if (field.notes.length) flags.push(field.notes.length === 1 ? "1 note" : `${field.notes.length} notes`);
  text(parts.flags, flags.join(" · "));
  parts.flags.classList.toggle("good", field.finished && recount !== null);
  attribute(button, "aria-current", open === field.id ? "true" : null);
}

function map(fields, spot) {
  const placed = fields.filter(({ x }) => x != null);
  shown($("no-map"), !placed.length);
  const data = placed.map(({ id, number: n, place, x, y, width, height, mpp }) => [
    id,
    n,
    place,
    x,
    y,
    width,
    height,
    mpp,
  ]);
  rebuild($("mosaic"), [data, spot ?? null], () => {
    const places = grouped(placed);
    return [...places].map(([place, there]) => figure(place, there, spot?.place === place ? spot : null, places.size));
  });
}

/** Return the fields by group. @returns {Map<number, import("./types.js").Field[]>} */
function grouped(fields) {
  const places = new Map();
  for (const field of fields) places.set(field.place, [...(places.get(field.place) ?? []), field]);
  return places;
}

/** Draw the fields of one place, in um. */
function figure(place, fields, spot, places) {
  const wide = ({ width, mpp }) => width * mpp;
  const high = ({ height, mpp }) => height * mpp;
  const [left, top] = [Math.min(...fields.map(({ x }) => x)), Math.min(...fields.map(({ y }) => y))];
  const width = Math.max(...fields.map((field) => field.x + wide(field))) - left;
  const height = Math.max(...fields.map((field) => field.y + high(field))) - top;
  const edge = 0.03 * Math.max(width, height);
  const picture = draw("svg", {
    viewBox: `${-edge} ${-edge} ${width + 2 * edge} ${height + 3.4 * edge}`,
    role: "group",
    "aria-label": `${fields.length} fields on the map`,
  });
  // The first field on top, as the first to be seen.
  for (const field of [...fields].reverse()) {
    const box = { x: field.x - left, y: field.y - top, width: wide(field), height: high(field) };
    const tile = draw(
      "g",
      { class: "tile", tabindex: 0, role: "button", "aria-label": `Open field ${field.number}` },
      draw("image", { ...box, preserveAspectRatio: "none", href: `/api/fields/${field.id}/thumbnail.jpg` }),
      draw("rect", { class: "frame", ...box }),
    );
    tile.addEventListener("click", () => openField(field.id));
    tile.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      openField(field.id);
    });
    picture.append(tile);
  }
  const size = Math.min(...fields.map(high)) / 5;
  for (const field of fields) {
    const [x, y] = [field.x - left + wide(field) / 2, field.y - top + high(field) / 2];
    picture.append(
      draw("text", { class: "number", x, y, "font-size": size, "pointer-events": "none" }, String(field.number)),
    );
  }
  if (spot) {
    for (const style of ["spot-back", "spot"])
      picture.append(draw("circle", { class: style, cx: spot.x - left, cy: spot.y - top, r: spot.radius }));
  }
  const length = roundLength(width / 3);
  picture.append(draw("rect", { class: "ruler", x: 0, y: height + 1.1 * edge, width: length, height: edge / 3 }));
  const words = `${places > 1 ? `Group ${place + 1}: ` : ""}${fields.length} ${fields.length === 1 ? "field" : "fields"}. Scale bar: ${lengthWords(length)}.${spot ? ` Dashed circle: hot spot of ${number(spot.n)} tumour nuclei, ${percent(spot.index)}.` : ""}`;
  return make("figure", {}, picture, make("figcaption", {}, words));
}
