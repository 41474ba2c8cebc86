// Drawing on a picture: an outline for a region, a line for a stage micrometer. Mouse, finger and keys alike.

import { make } from "./dom.js";

const NEAR = 14; // css px to the first corner that close an outline

/**
 * While it lasts its owner hands clicks to `add` and paints it with `paint`.
 *
 * `most` corners end it by themselves; `done` gets them; `ended` is called in any case.
 */
export class Sketch {
  points = [];

  constructor(surface, bar, { words, most = Infinity, least, done, ended }) {
    Object.assign(this, { surface, bar, most, least, done, ended });
    this.words = make("p", { "aria-live": "polite" }, words);
    const button = (label, action) => {
      const press = make("button", { type: "button" }, label);
      press.onclick = action;
      return press;
    };
    bar.replaceChildren(
      this.words,
      button("Undo point", () => this.back()),
      ...(most === Infinity ? [button("Done", () => this.finish())] : []),
      button("Cancel", () => this.end()),
    );
    bar.hidden = false;
    surface.canvas.parentElement.classList.add("drawing");
    surface.canvas.focus({ preventScroll: true });
    surface.redraw();
  }

  add(place) {
    const { surface, points } = this;
    const near = (NEAR * devicePixelRatio) / surface.scale;
    const [first, last] = [points[0], points.at(-1)];
    if (this.most === Infinity && points.length >= this.least && Math.hypot(place.x - first.x, place.y - first.y) < near) {
      this.finish();
      return;
    }
    if (last && last.x === place.x && last.y === place.y) {
      this.finish(); // Enter twice at the same place
      return;
    }
    points.push({
      x: Math.min(Math.max(place.x, -0.5), surface.width - 0.5),
      y: Math.min(Math.max(place.y, -0.5), surface.height - 0.5),
    });
    surface.redraw();
    if (points.length >= this.most) this.finish();
  }

  back() {
    this.points.pop();
    this.surface.redraw();
  }

  finish() {
    if (this.points.length < this.least) {
      this.words.textContent = `At least ${this.least} corners are needed: ${this.points.length} so far.`;
      return;
    }
    const { points } = this;
    this.end();
    this.done(points);
  }

  end() {
    this.bar.hidden = true;
    this.surface.canvas.parentElement.classList.remove("drawing");
    this.ended();
    this.surface.redraw();
  }

  paint() {
    const { surface, points } = this;
    const { to } = surface;
    surface.drawOutline(surface.cursor ? [...points, surface.cursor] : points, true);
    points.forEach(({ x, y }, k) => {
      to.beginPath();
      to.arc(surface.atX(x), surface.atY(y), (k ? 5 : 7) * devicePixelRatio, 0, 2 * Math.PI);
      to.fillStyle = k ? "#ffffff" : "#ffd43b";
      to.fill();
      surface.line(1.5, "#000000");
    });
  }
}
