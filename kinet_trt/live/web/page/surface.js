// A picture on a canvas with zoom, pan, pointer and a keyboard cursor.

import { lengthWords, roundLength } from "./dom.js";

const MAX_TAP_MOVE = 8; // CSS px that a pointer may move in a click
const LONG_PRESS = 550; // ms
const MAX_ZOOM = 16; // relative to the whole picture

/** @typedef {{x: number, y: number}} Place position in the picture, px, pixel centres at integers */

/**
 * @typedef {object} Hooks
 * @property {(to: CanvasRenderingContext2D) => void} paint draws everything
 * @property {(place: Place, event: PointerEvent) => void} [click]
 * @property {(place: Place) => void} [hold] after a long press
 * @property {(place: Place | null) => void} [hover]
 * @property {() => void} [moved] after a change of zoom, position or size
 */

/** Coordinates are px of the picture; `scale` is px of the screen per px of the picture. */
export class Surface {
  width = 0;
  height = 0;
  scale = 1;
  /** Keyboard cursor; null: not in use. @type {Place | null} */
  cursor = null;

  #zoom = 1;
  #middle = [0, 0];
  #redrawRequested = false;
  /** Pointers that are down, by id. @type {Map<number, PointerEvent>} */
  #pointers = new Map();
  /** Start of what may become a click. @type {PointerEvent | null} */
  #tap = null;
  #holdTimer = 0;

  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Hooks} hooks
   */
  constructor(canvas, hooks) {
    this.canvas = canvas;
    this.hooks = hooks;
    this.to = /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d", { alpha: false }));
    new ResizeObserver(() => this.#layOut()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#release(event));
    canvas.addEventListener("pointerleave", () => this.hooks.hover?.(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Set the size of the picture, px. */
  show(width, height) {
    if (width === this.width && height === this.height) return;
    [this.width, this.height] = [width, height];
    this.cursor = null;
    this.fit();
  }

  /** Show the whole picture. */
  fit() {
    this.#zoom = 1;
    this.#middle = [(this.width - 1) / 2, (this.height - 1) / 2];
    this.#layOut();
  }

  get fitted() {
    return this.#zoom === 1;
  }

  /** Zoom about the centre of the view. */
  zoom(factor) {
    this.#zoomAbout(this.canvas.width / 2, this.canvas.height / 2, factor);
  }

  /** Return the position on the canvas, px. */
  atX(x) {
    return this.canvas.width / 2 + (x - this.#middle[0]) * this.scale;
  }

  atY(y) {
    return this.canvas.height / 2 + (y - this.#middle[1]) * this.scale;
  }

  /** Return the place under a pointer. @returns {Place} */
  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return this.#placeAtPixel(
      ((clientX - box.left) * this.canvas.width) / box.width,
      ((clientY - box.top) * this.canvas.height) / box.height,
    );
  }

  /** Return whether the picture contains a place. */
  contains({ x, y }) {
    return x >= -0.5 && y >= -0.5 && x < this.width - 0.5 && y < this.height - 0.5;
  }

  /** Move the cursor by CSS px of the screen; the view follows. */
  moveCursor(right, down) {
    const step = devicePixelRatio / this.scale;
    const { x, y } = this.cursor ?? { x: this.#middle[0], y: this.#middle[1] };
    this.setCursor({ x: x + right * step, y: y + down * step });
  }

  /** Set the cursor; the view follows. */
  setCursor({ x, y }) {
    this.cursor = { x: Math.min(Math.max(x, 0), this.width - 1), y: Math.min(Math.max(y, 0), this.height - 1) };
    const [left, top] = [this.atX(this.cursor.x), this.atY(this.cursor.y)];
    const edge = 40 * devicePixelRatio;
    if (left < edge || top < edge || left > this.canvas.width - edge || top > this.canvas.height - edge) {
      if (!this.fitted) this.#middle = [this.cursor.x, this.cursor.y];
    }
    this.#layOut();
  }

  /** Draw the picture. */
  drawPicture(picture) {
    const { to, canvas, scale } = this;
    to.fillStyle = "#05070a";
    to.fillRect(0, 0, canvas.width, canvas.height);
    if (!picture) return;
    to.imageSmoothingEnabled = scale < 4;
    to.drawImage(picture, this.atX(-0.5), this.atY(-0.5), this.width * scale, this.height * scale);
  }

  /** Draw the cursor. */
  drawCursor() {
    if (!this.cursor) return;
    const [x, y] = [Math.round(this.atX(this.cursor.x)), Math.round(this.atY(this.cursor.y))];
    const { to } = this;
    const r = 16 * devicePixelRatio;
    to.beginPath();
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ]) {
      to.moveTo(x + (dx * r) / 3, y + (dy * r) / 3);
      to.lineTo(x + dx * r, y + dy * r);
    }
    this.line(5, "#000000");
    this.line(2.5, "#ffd43b");
  }

  /** Draw a scale bar of up to a fifth of the width. */
  drawScaleBar(mpp) {
    const { to, canvas } = this;
    const length = roundLength((canvas.width / 5 / this.scale) * mpp);
    const px = (length / mpp) * this.scale;
    const dot = devicePixelRatio;
    const [left, bottom] = [this.atX(-0.5), this.atY(this.height - 0.5)];
    const x = Math.max(left, 0) + 16 * dot;
    const y = Math.min(bottom, canvas.height) - 18 * dot;
    to.fillStyle = "#0b0e12c0";
    to.fillRect(x - 8 * dot, y - 24 * dot, px + 16 * dot, 34 * dot);
    to.fillStyle = "#ffffff";
    to.fillRect(x, y, px, 4 * dot);
    to.font = `600 ${13 * dot}px system-ui, sans-serif`;
    to.textAlign = "center";
    to.fillText(lengthWords(length), x + px / 2, y - 6 * dot, px + 14 * dot);
  }

  /** Draw an outline through places; `open`: not closed. */
  drawOutline(points, open = false) {
    if (!points.length) return;
    this.to.beginPath();
    for (const { x, y } of points) this.to.lineTo(this.atX(x), this.atY(y));
    if (!open) this.to.closePath();
    this.line(4.5, "#000000c0");
    this.to.setLineDash([8 * devicePixelRatio, 5 * devicePixelRatio]);
    this.line(2.2, "#ffffff");
    this.to.setLineDash([]);
  }

  /** Stroke the path in CSS px. */
  line(width, colour) {
    this.to.lineWidth = width * devicePixelRatio;
    this.to.strokeStyle = colour;
    this.to.stroke();
  }

  /** Redraw in the next animation frame, once for any number of calls. */
  redraw() {
    if (this.#redrawRequested) return;
    this.#redrawRequested = true;
    requestAnimationFrame(() => {
      this.#redrawRequested = false;
      this.hooks.paint(this.to);
    });
  }

  #placeAtPixel(left, top) {
    return {
      x: this.#middle[0] + (left - this.canvas.width / 2) / this.scale,
      y: this.#middle[1] + (top - this.canvas.height / 2) / this.scale,
    };
  }

  #layOut() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) =>
      Math.round(side * devicePixelRatio),
    );
    if (!width || !height || !this.width) return;
    // Setting the size clears the canvas.
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.scale = Math.min(width / this.width, height / this.height) * this.#zoom;
    this.#middle = [
      [this.width, width],
      [this.height, height],
    ].map(([side, seen], axis) => {
      const half = seen / this.scale / 2;
      return side <= 2 * half ? (side - 1) / 2 : Math.min(Math.max(this.#middle[axis], half - 0.5), side - 0.5 - half);
    });
    this.hooks.moved?.();
    this.redraw();
  }

  #zoomAbout(left, top, factor) {
    const before = this.#placeAtPixel(left, top);
    this.#zoom = Math.min(MAX_ZOOM, Math.max(1, this.#zoom * factor));
    this.#layOut();
    const after = this.#placeAtPixel(left, top);
    this.#middle = [this.#middle[0] + before.x - after.x, this.#middle[1] + before.y - after.y];
    this.#layOut();
  }

  #wheel(event) {
    event.preventDefault();
    const box = this.canvas.getBoundingClientRect();
    const dot = this.canvas.width / box.width;
    this.#zoomAbout((event.clientX - box.left) * dot, (event.clientY - box.top) * dot, 2 ** (-event.deltaY / 240));
  }

  #down(event) {
    if (event.button > 0) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.#pointers.set(event.pointerId, event);
    this.#tap = this.#pointers.size === 1 ? event : null;
    clearTimeout(this.#holdTimer);
    const { hold } = this.hooks;
    if (this.#tap && hold) {
      this.#holdTimer = setTimeout(() => {
        if (!this.#tap) return;
        hold(this.place(this.#tap));
        this.#tap = null;
      }, LONG_PRESS);
    }
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before) {
      this.hooks.hover?.(this.place(event));
      return;
    }
    const dot = devicePixelRatio;
    if (this.#tap && Math.hypot(event.clientX - this.#tap.clientX, event.clientY - this.#tap.clientY) < MAX_TAP_MOVE)
      return;
    this.#tap = null;
    clearTimeout(this.#holdTimer);
    if (this.#pointers.size === 1) {
      this.#middle[0] -= ((event.clientX - before.clientX) * dot) / this.scale;
      this.#middle[1] -= ((event.clientY - before.clientY) * dot) / this.scale;
      this.#layOut();
    } else {
      const others = [...this.#pointers.values()].filter((pointer) => pointer.pointerId !== event.pointerId);
      const other = others[0];
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const box = this.canvas.getBoundingClientRect();
      this.#zoomAbout(
        ((event.clientX + other.clientX) / 2 - box.left) * dot,
        ((event.clientY + other.clientY) / 2 - box.top) * dot,
        apart(event) / apart(before),
      );
    }
    this.#pointers.set(event.pointerId, event);
  }

  #up(event) {
    clearTimeout(this.#holdTimer);
    if (this.#tap && this.#pointers.has(event.pointerId)) {
      this.cursor = null;
      this.hooks.click?.(this.place(event), event);
    }
    this.#release(event);
  }

  #release(event) {
    clearTimeout(this.#holdTimer);
    this.#pointers.delete(event.pointerId);
    this.#tap = null;
  }
}

/**
 * Move the cursor, zoom, or run another action of a key.
 *
 * @param {Surface} surface
 * @param {string} key
 * @param {Record<string, () => void>} actions
 * @returns {boolean} whether the key was used
 */
export function surfaceKey(surface, key, actions = {}) {
  const step = key.startsWith("Shift+") ? 40 : 5;
  const directions = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const direction = directions[key.replace("Shift+", "")];
  if (direction) surface.moveCursor(direction[0] * step, direction[1] * step);
  else if (key === "+" || key === "=") surface.zoom(1.4);
  else if (key === "-") surface.zoom(1 / 1.4);
  else if (key === "0") surface.fit();
  else if (actions[key]) actions[key]();
  else return false;
  return true;
}
