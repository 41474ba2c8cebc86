// The count of the session: the index, how sure it is, and what it would take to be surer.

import { $, draw, make, number, percent, rebuilt, shown, span, text } from "./dom.js";
import { nameOf, shape } from "./marks.js";
import { on } from "./server.js";
import { announce } from "./words.js";

const SAY_EVERY = 6000; // ms between two words on the index for screen readers

let said = "";
let saidAt = 0;

on("state", ({ session, bands, joining }) => {
  const { recount } = session;
  const summary = session.fields.length ? session.summary : null;
  text($("index-label"), `Ki67 index of the session${joining && session.fields.length ? " · updating…" : ""}`);
  const hidden = recount ? "Hidden during the blind recount" : null;
  text($("big"), hidden ?? (session.fields.length ? percent(summary?.index) : "No field yet"));
  $("big").className = `big${hidden || !session.fields.length ? " words" : joining ? " old" : ""}`;
  text($("interval"), recount ? `${recount.reader || "The second reader"}: ${recount.done} of ${recount.of} fields done` : summary?.interval ? `95% interval ${span(summary.interval)}` : "");
  rebuilt($("scale"), [summary?.index, summary?.interval, bands], () => (summary?.interval ? [scale(summary, bands)] : []));
  rebuilt($("sentences"), [summary?.sentences, summary?.decided, bands.length], () => sentences(summary, bands));
  rebuilt($("goals"), summary ? [summary.goals, summary.tumor] : null, () => (summary?.goals ?? []).map((goal) => progress(goal, summary.tumor)));
  rebuilt($("session-classes"), summary?.counts, () =>
    Object.entries(summary?.counts ?? {}).map(([name, n]) => make("li", {}, shape(name), make("b", {}, number(n)), make("span", {}, nameOf(name)))),
  );
  rebuilt($("facts"), factsOf(summary), () => factsOf(summary).map(([name, value, more]) => make("div", {}, make("dt", {}, name), make("dd", {}, value, make("small", {}, more ? ` ${more}` : "")))));
  rebuilt($("cautions"), summary?.cautions, () => (summary?.cautions ?? []).map((caution) => make("li", {}, caution)));
  shown($("cautions"), Boolean(summary?.cautions.length));
  tell(summary);
});

/** Draw the index and its interval on a scale with the bands. */
function scale({ index, interval: [low, high] }, bands) {
  const top = Math.min(1, Math.max(bands.length ? 0.25 : 0.1, Math.ceil(high * 1.15 * 20) / 20));
  const [width, left] = [596, 12];
  const at = (value) => left + (width * value) / top;
  const picture = draw("svg", { viewBox: "0 0 620 102", role: "img", "aria-label": `Index ${percent(index)}, 95% interval ${span([low, high])}` });
  const ranges = (bands.length ? bands : [{ name: "", from: 0, to: 1 }]).filter(({ from }) => from < top);
  for (const { name, from, to } of ranges) {
    const end = Math.min(to, top);
    const here = bands.length && index >= from && index <= end;
    picture.append(draw("rect", { class: here ? "band here" : "band", x: at(from), y: 28, width: at(end) - at(from), height: 42 }));
    picture.append(draw("text", { class: here ? "here" : "", x: (at(from) + at(end)) / 2, y: 19, "text-anchor": "middle" }, name));
    if (from > 0) picture.append(draw("path", { class: "cut", d: `M${at(from)} 24V74` }));
  }
  picture.append(draw("rect", { class: "span", x: at(low), y: 36, width: Math.max(3, at(high) - at(low)), height: 26 }));
  picture.append(draw("path", { class: "point", d: `M${at(index)} 32l10 17l-10 17l-10-17z` }));
  for (const tick of [0, ...ranges.slice(1).map(({ from }) => from), top]) {
    picture.append(draw("text", { x: at(tick), y: 95, "text-anchor": tick === 0 ? "start" : tick === top ? "end" : "middle" }, `${Number((100 * tick).toFixed(1))}%`));
  }
  return picture;
}

function sentences(summary, bands) {
  // The first one repeats the index and its interval, which stand above.
  const words = (summary?.index == null ? summary?.sentences : summary.sentences.slice(1)) ?? [];
  const said = words.flatMap((sentence) => [sentence, " "]);
  if (summary?.decided && bands.length && summary.index != null) said.push(make("span", { class: "decided" }, "The count decides."));
  return said;
}

function progress({ cells, share }, tumor) {
  return make("div", {}, `${number(Math.min(tumor, cells))} of ${number(cells)} tumour nuclei`, draw("svg", { viewBox: "0 0 100 1", preserveAspectRatio: "none", "aria-hidden": "true" }, draw("rect", { width: 100 * share, height: 1 })));
}

function factsOf(summary) {
  if (!summary) return [];
  const spot = summary.hot_spot;
  const facts = [
    [`Hot spot of ${number(summary.hot_spot_size)}`, spot ? percent(spot.index) : "–", spot ? `(${span(spot.interval, "–")})` : "too few in one place"],
    ["Mean of fields", percent(summary.mean_of_fields), ""],
    ["Area counted", `${summary.area_mm2.toFixed(3)} mm²`, ""],
    ["In overlaps", number(summary.repeats), "(counted once)"],
  ];
  if (summary.corrected) facts.push(["Corrected by hand", number(summary.corrected), ""]);
  if (summary.places > 1) facts.push(["Groups of fields", number(summary.places), "(not aligned)"]);
  return facts;
}

/** Tell screen readers the index, not more often than can be listened to. */
function tell(summary) {
  if (summary?.index == null) return;
  const words = `Session index ${percent(summary.index)}, interval ${span(summary.interval)}, ${number(summary.tumor)} tumour nuclei.`;
  if (words === said || Date.now() - saidAt < SAY_EVERY) return;
  if (said) announce(words);
  said = words;
  saidAt = Date.now();
}
