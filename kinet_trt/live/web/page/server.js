// Connection to the server: a WebSocket for state and frames, and requests for actions.

const MAX_RETRY_DELAY = 5000; // ms between two attempts to connect
const TICK = 250; // ms between two checks for silence
const MAX_SILENCE = 10_000; // ms without a message after which a connection is replaced
const PAGE_NAME = Math.random().toString(36).slice(2); // lets the server recognise a page that reconnects

/**
 * Last state received. Null before the first one; the type leaves that out, because actions and handlers run later.
 *
 * @type {import("./types.js").State}
 */
export let state = /** @type {any} */ (null);

/** Timeouts for a message and for a request, ms; the server sends its own. */
export let limits = { silence: 3000, request: 10_000 };

/** @type {Record<string, Function[]>} */
const listeners = { state: [], frame: [], link: [] };

/**
 * Register a listener.
 *
 * @overload
 * @param {"state"} event a new state
 * @param {(state: import("./types.js").State) => void} listener
 * @returns {void}
 *
 * @overload
 * @param {"frame"} event a new frame
 * @param {(header: import("./types.js").FrameHeader, jpeg: Blob) => void} listener
 * @returns {void}
 *
 * @overload
 * @param {"link"} event the connection was opened or lost
 * @param {(open: boolean, why: string) => void} listener
 * @returns {void}
 *
 * @param {string} event
 * @param {Function} listener
 */
export function on(event, listener) {
  listeners[event].push(listener);
}

function emit(event, ...message) {
  for (const listener of listeners[event]) listener(...message);
}

/** @type {WebSocket | null} */
let socket = null;
let lastMessage = 0; // time of the last message, or of the socket's creation
/** Arrival of the last state by two clocks of this machine, and its server time. @type {{at: number, date: number, clock: number} | null} */
let received = null;
/** @type {boolean | null} */
let connected = null;
let retryDelay = 500; // ms
let width = 0;

/** Return ms since the last state. `performance.now` may stop while the machine sleeps; the date does not. */
const silence = () => (received ? Math.max(performance.now() - received.at, Date.now() - received.date) : 0);

/** Return an estimate of the server's clock, s, never ahead of it. */
export const clock = () => (received ? received.clock + silence() / 1000 : 0);

/** Connect to the server, and reconnect after a failure. */
export function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const opened = new WebSocket(`${scheme}//${location.host}/api/live?page=${PAGE_NAME}`);
  [socket, lastMessage] = [opened, performance.now()];
  opened.binaryType = "arraybuffer";
  opened.onopen = () => {
    if (socket === opened && width) send({ type: "view", width });
  };
  opened.onmessage = ({ data }) => {
    if (socket !== opened) return;
    lastMessage = performance.now();
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type !== "state") return;
      [state, limits, retryDelay] = [message, message.limits_ms, 500];
      received = { at: performance.now(), date: Date.now(), clock: message.clock };
      setLink(true, "");
      emit("state", state);
    } else {
      const length = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      emit("frame", header, new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    }
  };
  opened.onclose = async ({ code }) => {
    if (socket !== opened) return;
    socket = null;
    reconnect(await reason(code));
  };
}

function reconnect(why) {
  setLink(false, why);
  setTimeout(connect, retryDelay);
  retryDelay = Math.min(MAX_RETRY_DELAY, retryDelay * 1.6);
}

function setLink(open, why) {
  if (connected === open && (open || !why)) return;
  connected = open;
  emit("link", open, why);
}

// Detect silence: no event reports a hanging server, a sleeping machine or a lost network.
setInterval(() => {
  if (connected && silence() > limits.silence)
    setLink(
      false,
      "kinet-trt has stopped sending: it may hang, or the network may be down. The picture is out of date and nothing is captured. This page keeps trying to reconnect.",
    );
  if (socket && performance.now() - lastMessage > Math.max(MAX_SILENCE, 2 * limits.silence)) {
    const silent = socket;
    socket = null; // closing may take minutes; its events are ignored
    silent.close();
    reconnect(
      connected === false
        ? ""
        : "kinet-trt does not respond. Is it still running? This page keeps trying to reconnect.",
    );
  }
}, TICK);

async function reason(code) {
  if (code === 1013) return "Too many pages are open: close one of them.";
  if (code === 1001) return "kinet-trt has stopped. Start it again: this page reconnects automatically.";
  try {
    const answer = await fetch("/api/state", { signal: AbortSignal.timeout(limits.silence) });
    if (answer.status === 401 || answer.status === 403) {
      return "This page is no longer authorized: open the address that kinet-trt printed when it started.";
    }
  } catch {
    // No server.
  }
  return "kinet-trt does not respond. Is it still running? This page keeps trying to reconnect.";
}

function send(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

/** Confirm that a frame is on the screen, so that the next one is sent. */
export function confirmShown(frame) {
  send({ type: "shown", frame });
}

/** Send the width of the picture on the screen, px: frames need not be larger. */
export function sendWidth(px) {
  if (px === width || px < 1) return;
  width = px;
  send({ type: "view", width });
}

/** Names of actions by the last part of the path, for messages. @type {Record<string, string>} */
const ACTIONS = {
  capture: "Capture",
  pause: "Pause",
  auto: "Automatic capture",
  threshold: "Threshold",
  scale: "Pixel size",
  presets: "Objectives",
  blank: "Blank field",
  region: "Region",
  sessions: "New session",
  open: "Open session",
  rename: "Title and reader",
  delete: "Delete",
  restore: "Restore",
  list: "Sessions",
  add: "Add nucleus",
  remove: "Remove nucleus",
  reclassify: "Change class",
  note: "Note",
  finish: "Field done",
  undo: "Undo",
  redo: "Redo",
  recount: "Recount",
};

/**
 * Request an action. The server refuses a request that arrives too late, because it refers to an earlier picture.
 *
 * @param {string} path
 * @param {any} body
 * @param {number} timeout ms
 * @returns {Promise<any>} the response; rejects with a sentence for the user
 */
export function post(path, body = {}, timeout = limits.request) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json" };
  if (received) headers["Kinet-Pressed"] = clock().toFixed(3);
  return request(path, { method: "POST", headers, body: JSON.stringify(body) }, timeout);
}

/** Request data, see `post`. */
export function get(path) {
  return request(path, {}, limits.request);
}

async function request(path, options, timeout) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), timeout);
  const action = ACTIONS[path.split("/").at(-1)] ?? "Field";
  let response, body;
  try {
    response = await fetch(path, { ...options, signal: stop.signal });
    body = await response.text();
  } catch {
    if (stop.signal.aborted)
      throw new Error(
        `${action}: no response from kinet-trt within ${Number((timeout / 1000).toFixed(1))} s, so it may not have been done.`,
      );
    const unchanged = options.method === "POST" ? ", so nothing was changed" : "";
    throw new Error(`${action}: kinet-trt does not respond${unchanged}. Is it still running?`);
  } finally {
    clearTimeout(timer);
  }
  const answer = parsed(body);
  if (!response.ok) throw new Error(answer.error ?? `The request failed (status ${response.status}).`);
  return answer;
}

function parsed(words) {
  try {
    return JSON.parse(words);
  } catch {
    return {};
  }
}
