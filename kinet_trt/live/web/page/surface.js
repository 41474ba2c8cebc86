// A picture on a canvas that can be zoomed, moved, pointed at and walked over with a cursor.

const TAP = 8; // css px that a finger may slip in a click
const LONG = 550; // ms of a long press
const MOST = 16; // times larger than the whole picture

/**
 * The places that it speaks of are px of the picture, pixel centres at integers; `scale` is px of the screen for one of
 * the picture.
 *
 * `hooks` are what its owner does: paint(to) all of it; click(place, event); hold(place) on a long press; hover(place or
 * null); moved() after zoom, shift or size have changed. All but paint may be missing.
 */
export class Surface {
  width = 0;
  height = 0;
  scale = 1;
  /** Where the keys' cursor is; null: not in use. */
  cursor = null;

  #zoom = 1;
  #middle = [0, 0];
  #wanted = false;
  #fingers = new Map();
  #tap = null;
  #hold = 0;

  constructor(canvas, hooks) {
    this.canvas = canvas;
    this.hooks = hooks;
    this.to = canvas.getContext("2d", { alpha: false });
    new ResizeObserver(() => this.#place()).observe(canvas);
    canvas.addEventListener("pointerdown", (event) => this.#down(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    canvas.addEventListener("pointerup", (event) => this.#up(event));
    canvas.addEventListener("pointercancel", (event) => this.#forget(event));
    canvas.addEventListener("pointerleave", () => this.hooks.hover?.(null));
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
  }

  /** Say how large the picture is, px. */
  show(width, height) {
    if (width === this.width && height === this.height) return;
    [this.width, this.height] = [width, height];
    this.cursor = null;
    this.fit();
  }

  fit() {
    this.#zoom = 1;
    this.#middle = [(this.width - 1) / 2, (this.height - 1) / 2];
    this.#place();
  }

  get fitted() {
    return this.#zoom === 1;
  }

  /** Zoom about the middle of the view. */
  zoom(factor) {
    this.#zoomAbout(this.canvas.width / 2, this.canvas.height / 2, factor);
  }

  /** px of the canvas. */
  atX(x) {
    return this.canvas.width / 2 + (x - this.#middle[0]) * this.scale;
  }

  atY(y) {
    return this.canvas.height / 2 + (y - this.#middle[1]) * this.scale;
  }

  /** The place of the picture under a pointer. */
  place({ clientX, clientY }) {
    const box = this.canvas.getBoundingClientRect();
    return this.#placeAt(((clientX - box.left) * this.canvas.width) / box.width, ((clientY - box.top) * this.canvas.height) / box.height);
  }

  holds({ x, y }) {
    return x >= -0.5 && y >= -0.5 && x < this.width - 0.5 && y < this.height - 0.5;
  }

  /** Move the keys' cursor by steps of the screen, css px; the view follows. */
  walk(right, down) {
    const step = devicePixelRatio / this.scale;
    const { x, y } = this.cursor ?? { x: this.#middle[0], y: this.#middle[1] };
    this.jump({ x: x + right * step, y: y + down * step });
  }

  jump({ x, y }) {
    this.cursor = { x: Math.min(Math.max(x, 0), this.width - 1), y: Math.min(Math.max(y, 0), this.height - 1) };
    const [left, top] = [this.atX(this.cursor.x), this.atY(this.cursor.y)];
    const edge = 40 * devicePixelRatio;
    if (left < edge || top < edge || left > this.canvas.width - edge || top > this.canvas.height - edge) {
      if (!this.fitted) this.#middle = [this.cursor.x, this.cursor.y];
    }
    this.#place();
  }

  /** Draw a picture where it belongs. */
  image(picture) {
    const { to, canvas, scale } = this;
    to.fillStyle = "#05070a";
    to.fillRect(0, 0, canvas.width, canvas.height);
    if (!picture) return;
    to.imageSmoothingEnabled = scale < 4;
    to.drawImage(picture, this.atX(-0.5), this.atY(-0.5), this.width * scale, this.height * scale);
  }

  /** Draw the cursor, a scale bar. */
  drawCursor() {
    if (!this.cursor) return;
    const [x, y] = [Math.round(this.atX(this.cursor.x)), Math.round(this.atY(this.cursor.y))];
    const { to } = this;
    const r = 16 * devicePixelRatio;
    to.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      to.moveTo(x + (dx * r) / 3, y + (dy * r) / 3);
      to.lineTo(x + dx * r, y + dy * r);
    }
    this.line(5, "#000000");
    this.line(2.5, "#ffd43b");
  }

  drawScaleBar(mpp) {
    const { to, canvas } = this;
    const most = (canvas.width / 5 / this.scale) * mpp;
    const power = 10 ** Math.floor(Math.log10(most));
    const length = [5, 2, 1].find((k) => k * power <= most) * power;
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
    to.fillText(length < 1000 ? `${length} µm` : `${length / 1000} mm`, x + px / 2, y - 6 * dot, px + 14 * dot);
  }

  /** Draw an outline through places; `open` leaves its end loose. */
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

  line(width, colour) {
    this.to.lineWidth = width * devicePixelRatio;
    this.to.strokeStyle = colour;
    this.to.stroke();
  }

  /** Draw everything anew with the next picture of the screen; many calls are one drawing. */
  redraw() {
    if (this.#wanted) return;
    this.#wanted = true;
    requestAnimationFrame(() => {
      this.#wanted = false;
      this.hooks.paint(this.to);
    });
  }

  #placeAt(left, top) {
    return {
      x: this.#middle[0] + (left - this.canvas.width / 2) / this.scale,
      y: this.#middle[1] + (top - this.canvas.height / 2) / this.scale,
    };
  }

  #place() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((side) => Math.round(side * devicePixelRatio));
    if (!width || !height || !this.width) return;
    // Setting a size clears the canvas, even the same size.
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    this.scale = Math.min(width / this.width, height / this.height) * this.#zoom;
    this.#middle = [[this.width, width], [this.height, height]].map(([side, seen], axis) => {
      const half = seen / this.scale / 2;
      return side <= 2 * half ? (side - 1) / 2 : Math.min(Math.max(this.#middle[axis], half - 0.5), side - 0.5 - half);
    });
    this.hooks.moved?.();
    this.redraw();
  }

  #zoomAbout(left, top, factor) {
    const before = this.#placeAt(left, top);
    this.#zoom = Math.min(MOST, Math.max(1, this.#zoom * factor));
    this.#place();
    const after = this.#placeAt(left, top);
    this.#middle = [this.#middle[0] + before.x - after.x, this.#middle[1] + before.y - after.y];
    this.#place();
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
    this.#fingers.set(event.pointerId, event);
    this.#tap = this.#fingers.size === 1 ? event : null;
    clearTimeout(this.#hold);
    if (this.#tap && this.hooks.hold) {
      this.#hold = setTimeout(() => {
        if (!this.#tap) return;
        this.hooks.hold(this.place(this.#tap));
        this.#tap = null;
      }, LONG);
    }
  }

  #move(event) {
    const before = this.#fingers.get(event.pointerId);
    if (!before) {
      this.hooks.hover?.(this.place(event));
      return;
    }
    const dot = devicePixelRatio;
    if (this.#tap && Math.hypot(event.clientX - this.#tap.clientX, event.clientY - this.#tap.clientY) < TAP) return;
    this.#tap = null;
    clearTimeout(this.#hold);
    if (this.#fingers.size === 1) {
      this.#middle[0] -= ((event.clientX - before.clientX) * dot) / this.scale;
      this.#middle[1] -= ((event.clientY - before.clientY) * dot) / this.scale;
      this.#place();
    } else {
      const other = [...this.#fingers.values()].find((finger) => finger.pointerId !== event.pointerId);
      const apart = (one) => Math.hypot(one.clientX - other.clientX, one.clientY - other.clientY) || 1;
      const box = this.canvas.getBoundingClientRect();
      this.#zoomAbout(((event.clientX + other.clientX) / 2 - box.left) * dot, ((event.clientY + other.clientY) / 2 - box.top) * dot, apart(event) / apart(before));
    }
    this.#fingers.set(event.pointerId, event);
  }

  #up(event) {
    clearTimeout(this.#hold);
    if (this.#tap && this.#fingers.has(event.pointerId)) {
      this.cursor = null;
      this.hooks.click?.(this.place(event), event);
    }
    this.#forget(event);
  }

  #forget(event) {
    clearTimeout(this.#hold);
    this.#fingers.delete(event.pointerId);
    this.#tap = null;
  }
}
