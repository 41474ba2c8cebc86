import assert from "node:assert/strict";
import test from "node:test";
import "./browser.js";

const { factsOf, scale } = await import("../../../../kinet_trt/live/web/page/numbers.js");
const dom = await import("../../../../kinet_trt/live/web/page/dom.js");

const BANDS = [
  { name: "G1", from: 0, to: 0.03 },
  { name: "G2", from: 0.03, to: 0.2 },
  { name: "G3", from: 0.2, to: 1 },
];
const index = (value, low, high) => ({ index: value, interval: [low, high], tumor: 600, positive: 60 });
const numberOf = (element, name) => Number(element.attributes.get(name));

test("number formats", () => {
  assert.equal(dom.number(12345.4), "12,345");
  assert.equal(dom.percent(null), "–");
  assert.equal(dom.percent(0.1234), "12.3%");
  assert.equal(dom.span([0.1, 0.25]), "10.0% to 25.0%");
  assert.equal(dom.span(null), "");
  assert.equal(dom.micrometres(0.123456), "0.1235 µm/px");
  assert.equal(dom.when(new Date(2026, 2, 1, 4, 5).getTime() / 1000), "2026-03-01 04:05");
});

test("scale bar lengths are 1, 2 or 5 times a power of ten and fit", () => {
  for (const [longest, length] of [
    [1, 1],
    [1.99, 1],
    [2, 2],
    [49, 20],
    [50, 50],
    [99.9, 50],
    [0.3, 0.2],
    [1234, 1000],
  ]) {
    assert.ok(Math.abs(dom.roundLength(longest) - length) < 1e-12, `${longest}`);
  }
  assert.equal(dom.lengthWords(500), "500 µm");
  assert.equal(dom.lengthWords(2000), "2 mm");
});

test("scale draws each interval around its index, and the grade ranges up to its end", () => {
  const drawn = scale({ average: index(0.1, 0.08, 0.13), hot_spot: index(0.24, 0.15, 0.3) }, BANDS);
  const bands = drawn.all("rect").filter((rect) => rect.attributes.get("class") === "band");
  const spans = drawn.all("rect").filter((rect) => rect.attributes.get("class") === "span");
  const points = drawn.all("path").filter((path) => path.attributes.get("class") === "point");
  assert.deepEqual([bands.length, spans.length, points.length], [3, 2, 2]);
  // The scale ends at 35%: 115% of the highest limit, in steps of 5%.
  const perShare = 348 / 0.35;
  const near = (a, b) => assert.ok(Math.abs(a - b) < 1e-6, `${a} ${b}`);
  near(numberOf(spans[0], "x"), 64 + 0.08 * perShare);
  near(numberOf(spans[0], "width"), 0.05 * perShare);
  near(Number(/^M([\d.]+)/.exec(points[1].attributes.get("d"))[1]), 64 + 0.24 * perShare);
  near(numberOf(bands[2], "x") + numberOf(bands[2], "width"), 64 + 348);
  assert.match(drawn.attributes.get("aria-label"), /Average 10\.0%, 95% interval 8\.0% to 13\.0%; Hot spot 24\.0%/);
});

test("scale without grade ranges has one band and no name", () => {
  const drawn = scale({ average: index(0.02, 0.01, 0.03), hot_spot: null }, []);
  assert.equal(drawn.all("rect").filter((rect) => rect.attributes.get("class") === "band").length, 1);
  assert.doesNotMatch(drawn.textContent, /G\d/);
  assert.match(drawn.textContent, /10%/);
});

test("facts name corrections and groups only where there are any", () => {
  const summary = { mean_of_fields: 0.1, area_mm2: 0.1234, repeats: 1665, corrected: 0, places: 1 };
  assert.deepEqual(factsOf(null), []);
  assert.deepEqual(factsOf(summary), [
    ["Mean of fields", "10.0%"],
    ["Area", "0.123 mm²"],
    ["In overlaps", "1,665 (counted once)"],
  ]);
  const names = factsOf({ ...summary, corrected: 2, places: 3 }).map(([name]) => name);
  assert.deepEqual(names.slice(3), ["Corrected by hand", "Groups of fields"]);
});
