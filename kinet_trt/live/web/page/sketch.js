// Drawing on a picture: the outline of a region, or a line along a stage micrometer.

import { make } from "./dom.js";
import { surfaceKey } from "./surface.js";

const CLOSE_DISTANCE = 14; // CSS px from the first corner within which a click closes an outline

/** A drawing in progress: its owner passes clicks to `add` and calls `paint`. */
export class Sketch {
  /** @type {import("./surface.js").Place[]} */
  points = [];

  /**
   * @param {import("./surface.js").Surface} surface
   * @param {HTMLElement} bar element for the instructions and buttons
   * @param {object} options
   * @param {string} options.words instructions
   * @param {number} [options.max] number of corners at which the drawing is complete
   * @param {number} options.min number of corners required
   * @param {(points: import("./surface.js").Place[]) => void} options.done receives the complete drawing
   * @param {() => void} options.ended called when the drawing is complete or cancelled
   */
  constructor(surface, bar, { words, max = Infinity, min, done, ended }) {
    this.surface = surface;
    this.bar = bar;
    this.max = max;
    this.min = min;
    this.done = done;
    this.ended = ended;
    this.words = make("p", { "aria-live": "polite" }, words);
    const button = (label, action) => {
      const press = make("button", { type: "button" }, label);
      press.onclick = action;
      return press;
    };
    bar.replaceChildren(
      this.words,
      button("Undo point", () => this.back()),
      ...(max === Infinity ? [button("Done", () => this.finish())] : []),
      button("Cancel", () => this.end()),
    );
    bar.hidden = false;
    surface.canvas.parentElement?.classList.add("drawing");
    surface.canvas.focus({ preventScroll: true });
    surface.redraw();
  }

  /** Add a corner, or close the outline. */
  add(place) {
    const { surface, points } = this;
    const near = (CLOSE_DISTANCE * devicePixelRatio) / surface.scale;
    const [first, last] = [points[0], points.at(-1)];
    if (this.max === Infinity && points.length >= this.min && Math.hypot(place.x - first.x, place.y - first.y) < near) {
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
    if (points.length >= this.max) this.finish();
  }

  /** Remove the last corner. */
  back() {
    this.points.pop();
    this.surface.redraw();
  }

  /** Complete the drawing. */
  finish() {
    if (this.points.length < this.min) {
      this.words.textContent = `At least ${this.min} corners are needed: ${this.points.length} so far.`;
      return;
    }
    const { points } = this;
    this.end();
    this.done(points);
  }

  /** End the drawing. */
  end() {
    this.bar.hidden = true;
    this.surface.canvas.parentElement?.classList.remove("drawing");
    this.ended();
    this.surface.redraw();
  }

  /** Handle a key; return whether it was used. */
  useKey(key) {
    return surfaceKey(this.surface, key, {
      Enter: () => this.surface.cursor && this.add(this.surface.cursor),
      Backspace: () => this.back(),
      Escape: () => this.end(),
    });
  }

  /** Paint the drawing. */
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
