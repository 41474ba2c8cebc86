import assert from "node:assert/strict";
import test from "node:test";
import "./browser.js";

const { classify, tally } = await import("../../../../kinet_trt/live/web/page/stain.js");

const CLASSES = ["positive", "negative", "non_tumor"];
const NUCLEI = {
  c: [0, 0, 1, 1, 2, 1],
  touched: [false, false, false, false, false, true],
  removed: [false, false, false, true, false, false],
};
const DENSITY = [0.1, 0.2, 0.19, 0.9, 0.9, 0.9];

test("tumour nuclei are positive from the cut-off on; others and edited ones keep their class", () => {
  assert.deepEqual(classify(CLASSES, NUCLEI, DENSITY, 0.2), [1, 0, 1, 0, 2, 1]);
  assert.deepEqual(classify(["negative", "positive"], { c: [0, 1], touched: [false, false] }, [0.5, 0.1], 0.3), [1, 0]);
});

test("the index is that of nuclei in the region that were not removed", () => {
  const c = classify(CLASSES, NUCLEI, DENSITY, 0.2);
  const everywhere = DENSITY.map(() => true);
  assert.deepEqual(tally(CLASSES, c, NUCLEI.removed, everywhere), { positive: 1, tumor: 4 });
  assert.deepEqual(tally(CLASSES, c, NUCLEI.removed, [true, false, true, true, true, true]), { positive: 0, tumor: 3 });
});
