import assert from "node:assert/strict";
import test from "node:test";
import { FakeCanvas } from "./browser.js";

const { Surface, surfaceKey } = await import("../../../../kinet_trt/live/web/page/surface.js");

function opened(width = 400, height = 300) {
  const calls = [];
  const canvas = new FakeCanvas(width, height);
  const surface = new Surface(canvas, {
    paint: () => {},
    click: (place) => calls.push(["click", place]),
    hold: (place) => calls.push(["hold", place]),
    hover: (place) => calls.push(["hover", place]),
  });
  surface.show(800, 600);
  return { canvas, surface, calls };
}

function near(place, x, y) {
  assert.ok(Math.hypot(place.x - x, place.y - y) < 1e-9, `${JSON.stringify(place)}, expected ${x}, ${y}`);
}

test("the whole picture fits the canvas, centred", () => {
  const { canvas, surface } = opened(500, 300);
  assert.deepEqual([canvas.width, canvas.height], [1000, 600]); // two device px per CSS px
  assert.equal(surface.scale, 1);
  near(surface.place({ clientX: 250, clientY: 150 }), 399.5, 299.5);
  assert.deepEqual([surface.atX(-0.5), surface.atY(-0.5)], [100, 0]);
});

test("a place under the pointer is drawn at the pointer", () => {
  const { surface } = opened();
  surface.zoom(3);
  const place = surface.place({ clientX: 123, clientY: 77 });
  assert.ok(Math.abs(surface.atX(place.x) - 246) < 1e-9);
  assert.ok(Math.abs(surface.atY(place.y) - 154) < 1e-9);
});

test("the wheel zooms about the pointer, between the whole picture and 16 times", () => {
  const { canvas, surface } = opened();
  const before = surface.place({ clientX: 100, clientY: 200 });
  canvas.send("wheel", 100, 200, { deltaY: -480 });
  assert.equal(surface.scale, 4);
  near(surface.place({ clientX: 100, clientY: 200 }), before.x, before.y);
  canvas.send("wheel", 100, 200, { deltaY: -24_000 });
  assert.equal(surface.scale, 16);
  canvas.send("wheel", 100, 200, { deltaY: 24_000 });
  assert.ok(surface.fitted);
  near(surface.place({ clientX: 200, clientY: 150 }), 399.5, 299.5);
});

test("a drag moves the picture with the pointer and is no click", () => {
  const { canvas, surface, calls } = opened();
  surface.zoom(4);
  const held = surface.place({ clientX: 200, clientY: 150 });
  canvas.send("pointerdown", 200, 150);
  for (const moved of [10, 20, 30]) canvas.send("pointermove", 200 + moved, 150);
  canvas.send("pointerup", 230, 150);
  near(surface.place({ clientX: 230, clientY: 150 }), held.x, held.y);
  assert.deepEqual(calls, []);
});

test("a drag stops at the edge of the picture", () => {
  const { canvas, surface } = opened();
  surface.zoom(2);
  canvas.send("pointerdown", 200, 150);
  for (let x = 200; x < 2000; x += 100) canvas.send("pointermove", x, 150);
  assert.ok(Math.abs(surface.atX(-0.5)) < 1e-9);
});

test("a click gives its place, and a slip of a few px is still a click", () => {
  const { canvas, calls } = opened();
  canvas.send("pointerdown", 200, 150);
  canvas.send("pointermove", 203, 152);
  canvas.send("pointerup", 203, 152);
  assert.equal(calls.length, 1);
  near(calls[0][1], 405.5, 303.5);
});

test("a long press is no click", () => {
  const { canvas, calls } = opened();
  const { setTimeout } = globalThis;
  const timers = [];
  globalThis.setTimeout = (action, ms) => timers.push([action, ms]);
  canvas.send("pointerdown", 200, 150);
  globalThis.setTimeout = setTimeout;
  assert.deepEqual(
    timers.map(([, ms]) => ms),
    [550],
  );
  timers[0][0]();
  canvas.send("pointerup", 200, 150);
  assert.deepEqual(
    calls.map(([kind]) => kind),
    ["hold"],
  );
});

test("two fingers zoom about their midpoint and do not click", () => {
  const { canvas, surface, calls } = opened();
  canvas.send("pointerdown", 180, 150, { pointerId: 1 });
  canvas.send("pointerdown", 220, 150, { pointerId: 2 });
  canvas.send("pointermove", 260, 150, { pointerId: 2 });
  assert.equal(surface.scale, 2);
  canvas.send("pointerup", 260, 150, { pointerId: 2 });
  canvas.send("pointerup", 180, 150, { pointerId: 1 });
  assert.deepEqual(calls, []);
});

test("keys move the cursor in px of the screen and stay inside the picture", () => {
  const { surface } = opened();
  assert.ok(surfaceKey(surface, "ArrowRight"));
  near(surface.cursor, 409.5, 299.5); // 5 CSS px, two px of the picture each
  surfaceKey(surface, "Shift+ArrowUp");
  near(surface.cursor, 409.5, 219.5);
  for (let k = 0; k < 50; k++) surfaceKey(surface, "Shift+ArrowLeft");
  near(surface.cursor, 0, 219.5);
  assert.equal(surfaceKey(surface, "x"), false);
  let used = 0;
  assert.ok(surfaceKey(surface, "Enter", { Enter: () => used++ }));
  assert.equal(used, 1);
});

test("another size of the picture shows the whole of it again", () => {
  const { surface } = opened();
  surface.zoom(4);
  surface.setCursor({ x: 3, y: 3 });
  surface.show(400, 300);
  assert.ok(surface.fitted);
  assert.equal(surface.cursor, null);
  assert.ok(surface.contains({ x: -0.5, y: 299.4 }));
  assert.ok(!surface.contains({ x: 399.5, y: 0 }));
});
