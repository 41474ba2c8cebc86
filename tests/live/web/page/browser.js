// The few parts of a browser that the page's modules need in Node.

/** An element that records attributes, children and listeners. */
export class FakeElement {
  attributes = new Map();
  children = [];
  listeners = new Map();
  dataset = {};

  constructor(tag) {
    this.tag = tag;
  }

  setAttribute(name, value) {
    this.attributes.set(name, String(value));
  }

  append(...children) {
    this.children.push(...children);
  }

  addEventListener(name, listener) {
    this.listeners.set(name, listener);
  }

  querySelectorAll() {
    return [];
  }

  get textContent() {
    return this.children.map((child) => child.textContent ?? String(child)).join("");
  }

  /** Return all descendants with a tag. */
  all(tag) {
    return this.children.flatMap((child) =>
      child instanceof FakeElement ? [...(child.tag === tag ? [child] : []), ...child.all(tag)] : [],
    );
  }
}

/** A canvas of a size in CSS px whose 2D context accepts every call. */
export class FakeCanvas extends FakeElement {
  width = 0;
  height = 0;

  constructor(width, height) {
    super("canvas");
    [this.clientWidth, this.clientHeight] = [width, height];
  }

  getContext() {
    return new Proxy({}, { get: () => () => {}, set: () => true });
  }

  getBoundingClientRect() {
    return { left: 0, top: 0, width: this.clientWidth, height: this.clientHeight };
  }

  setPointerCapture() {}

  /** Send a pointer event. */
  send(kind, clientX, clientY, more = {}) {
    this.listeners.get(kind)({ pointerId: 1, button: 0, clientX, clientY, preventDefault() {}, ...more });
  }
}

const shared = new Map();

globalThis.document = {
  createElement: (tag) => new FakeElement(tag),
  createElementNS: (_, tag) => new FakeElement(tag),
  getElementById: (id) => shared.get(id) ?? shared.set(id, new FakeElement("div")).get(id),
  querySelectorAll: () => [],
};
globalThis.ResizeObserver = class {
  observe() {}
};
globalThis.devicePixelRatio = 2;
globalThis.requestAnimationFrame = (draw) => draw();
globalThis.addEventListener = () => {};
globalThis.performance ??= { now: () => Date.now() };
// The modules' timers must not keep the process alive.
const { setInterval } = globalThis;
globalThis.setInterval = (...rest) => setInterval(...rest).unref();
