// Count of the session: average and hot spot with their intervals, and the progress of counting.

import { $, draw, make, number, percent, rebuild, shown, span, text } from "./dom.js";
import { shape, shortOf } from "./marks.js";
import { on } from "./server.js";
import { announce } from "./words.js";

const ANNOUNCE_INTERVAL = 6000; // ms between two announcements of the index to screen readers

let announced = "";
let announcedAt = 0;

on("state", ({ session, bands, joining }) => {
  const { recount, fields } = session;
  const summary = fields.length && !recount ? session.summary : null;
  text($("index-label"), `Ki67 index of the session${joining && fields.length ? " · updating…" : ""}`);
  const words = recount ? "Hidden during the blind recount" : fields.length ? null : "No field yet";
  $("index").classList.toggle("old", Boolean(joining));
  rebuild(
    $("pair"),
    [words, summary?.average, summary?.hot_spot, summary?.hot_spot_size, summary?.settled, recount],
    () => (words ? [placeholder(words, recount)] : figures(summary)),
  );
  text($("differs"), summary?.warning ?? "");
  const ranges = summary?.no_range ? [] : bands;
  rebuild($("scale"), [summary?.average, summary?.hot_spot, ranges], () =>
    summary?.average.interval ? [scale(summary, ranges)] : [],
  );
  rebuild($("goals"), summary ? [summary.goals, summary.tumor] : null, () =>
    summary ? summary.goals.map((goal) => progress(goal, summary.tumor)) : [],
  );
  rebuild($("session-classes"), summary?.counts, () =>
    Object.entries(summary?.counts ?? {}).map(([name, n]) =>
      make("li", {}, shape(name), make("b", {}, number(n)), make("span", {}, shortOf(name))),
    ),
  );
  rebuild($("facts"), factsOf(summary), () =>
    factsOf(summary).map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value))),
  );
  const notes = summary ? summary.notes.filter((note) => note !== summary.no_range && note !== summary.warning) : [];
  rebuild($("sentences"), notes, () => notes.map((note) => make("p", {}, note)));
  const cautions = [
    summary?.no_range === summary?.warning ? "" : summary?.no_range,
    ...(summary?.cautions ?? []),
  ].filter(Boolean);
  rebuild($("cautions"), cautions, () => cautions.map((caution) => make("li", {}, caution)));
  shown($("cautions"), cautions.length > 0);
  announceIndex(summary);
});

/** Return the content of the card without figures. */
function placeholder(words, recount) {
  const done = recount ? `${recount.reader || "The second reader"}: ${recount.done} of ${recount.of} fields done` : "";
  return make("div", { class: "instead" }, make("p", { class: "big words", id: "big" }, words), make("p", {}, done));
}

/** Return average and hot spot, side by side. @param {any} summary */
function figures(summary) {
  const { average, hot_spot: spot, hot_spot_size: size, settled } = summary ?? {};
  return [
    figure("Average", average, "", settled, { id: "big", interval: "interval" }),
    figure(
      size ? `Hot spot of ${number(size)}` : "Hot spot",
      spot,
      summary ? `Fewer than ${number(size)} tumour nuclei in one place` : "",
      settled,
      { id: "spot-big", interval: "spot-interval" },
    ),
  ];
}

/** Return an interval like "14.7–18.9%", for narrow columns. */
const range = ([low, high]) => `${(100 * low).toFixed(1)}–${percent(high)}`;

function figure(name, index, otherwise, settled, { id, interval }) {
  const known = index?.index != null;
  const grade = !known
    ? ""
    : index.range
      ? `${index.range} range${index.provisional ? ", provisional" : ""}`
      : index.provisional
        ? "Provisional"
        : "";
  return make(
    "div",
    { class: "figure" },
    make("h2", {}, name),
    make(
      "p",
      { class: "big", id },
      ...(known ? [index.index === 1 ? "100" : (100 * index.index).toFixed(1), make("small", {}, "%")] : ["–"]),
    ),
    make(
      "p",
      { id: interval, class: "interval" },
      ...(known ? ["95% interval ", make("span", {}, range(index.interval))] : [otherwise]),
    ),
    make("p", { class: "of" }, known ? `${number(index.positive)} of ${number(index.tumor)} tumour nuclei` : ""),
    make("p", { class: settled ? "range settled" : "range" }, grade),
  );
}

/** Draw average and hot spot with their intervals over the grade ranges. @param {any} summary */
export function scale({ average, hot_spot: spot }, bands) {
  const rows = [["Average", average], ...(spot ? [["Hot spot", spot]] : [])];
  const high = Math.max(...rows.map(([, { interval }]) => interval[1]));
  const top = Math.min(1, Math.max(bands.length ? 0.25 : 0.1, Math.ceil(high * 1.15 * 20) / 20));
  const [left, width, first] = [64, 348, bands.length ? 20 : 2];
  const bottom = first + 22 * rows.length;
  const at = (value) => left + (width * value) / top;
  const words = rows.map(([name, { index, interval }]) => `${name} ${percent(index)}, 95% interval ${span(interval)}`);
  const picture = draw("svg", { viewBox: `0 0 420 ${bottom + 20}`, role: "img", "aria-label": words.join("; ") });
  const ranges = (bands.length ? bands : [{ name: "", from: 0, to: 1 }]).filter(({ from }) => from < top);
  for (const { name, from, to } of ranges) {
    const end = Math.min(to, top);
    picture.append(
      draw("rect", { class: "band", x: at(from), y: first, width: at(end) - at(from), height: bottom - first }),
    );
    picture.append(draw("text", { x: (at(from) + at(end)) / 2, y: 14, "text-anchor": "middle" }, name));
    if (from > 0) picture.append(draw("path", { class: "cut", d: `M${at(from)} ${first - 3}V${bottom + 3}` }));
  }
  rows.forEach(
    (
      [
        name,
        {
          index,
          interval: [low, up],
        },
      ],
      k,
    ) => {
      const y = first + 11 + 22 * k;
      picture.append(draw("text", { x: 0, y: y + 5 }, name));
      picture.append(
        draw("rect", { class: "span", x: at(low), y: y - 6, width: Math.max(3, at(up) - at(low)), height: 12 }),
      );
      picture.append(draw("path", { class: "point", d: `M${at(index)} ${y - 9}l6 9l-6 9l-6-9z` }));
    },
  );
  for (const tick of [
    ...(at(ranges[1]?.from ?? top) > left + 48 ? [0] : []),
    ...ranges.slice(1).map(({ from }) => from),
    top,
  ]) {
    picture.append(
      draw(
        "text",
        { x: at(tick), y: bottom + 16, "text-anchor": tick === 0 ? "start" : tick === top ? "end" : "middle" },
        `${Number((100 * tick).toFixed(1))}%`,
      ),
    );
  }
  return picture;
}

function progress({ cells, share }, tumor) {
  return make(
    "div",
    {},
    `${number(Math.min(tumor, cells))} of ${number(cells)} tumour nuclei`,
    draw(
      "svg",
      { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { width: 100 * share, height: 1 }),
    ),
  );
}

export function factsOf(summary) {
  if (!summary) return [];
  const facts = [
    ["Mean of fields", percent(summary.mean_of_fields)],
    ["Area", `${summary.area_mm2.toFixed(3)} mm²`],
    ["In overlaps", `${number(summary.repeats)} (counted once)`],
  ];
  if (summary.corrected) facts.push(["Corrected by hand", number(summary.corrected)]);
  if (summary.places > 1) facts.push(["Groups of fields", `${number(summary.places)} (not aligned)`]);
  return facts;
}

/** Announce average and hot spot to screen readers, not too often. */
function announceIndex(summary) {
  if (summary?.average.index == null) return;
  const { average, hot_spot: spot } = summary;
  const words =
    `Average ${percent(average.index)}, interval ${span(average.interval)}, ${number(average.tumor)} tumour nuclei.${spot ? ` Hot spot ${percent(spot.index)}, interval ${span(spot.interval)}.` : ""} ${summary.warning}`.trim();
  if (words === announced || Date.now() - announcedAt < ANNOUNCE_INTERVAL) return;
  if (announced) announce(words);
  announced = words;
  announcedAt = Date.now();
}
