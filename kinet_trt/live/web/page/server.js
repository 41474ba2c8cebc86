// The connection to kinet-trt: one WebSocket for what is going on, and requests for what a person does.

const SLOWEST = 5000; // ms between two tries to connect
const TICK = 250; // ms between two looks at the clock
const GIVE_UP = 10_000; // ms without a message after which a connection is replaced
const NAME = Math.random().toString(36).slice(2); // of this page, so that the server knows it when it reconnects

/** The last state that came; null before the first. */
export let state = null;

/** How long to wait, ms, until the server says otherwise: for a message, and for the answer to a request. */
export let limits = { silence: 3000, request: 10_000 };

const listeners = { state: [], frame: [], link: [] };

/** Call a function with each state; with each frame (its JSON and its JPEG); with each change of the connection (whether there is one, and why not). */
export function on(what, listener) {
  listeners[what].push(listener);
}

function tell(what, ...message) {
  for (const listener of listeners[what]) listener(...message);
}

let socket = null;
let lively = 0; // when the socket was made, or last gave a message
let heard = null; // of the last state: when it came, by two clocks of this machine, and the server's clock in it
let connected = null; // what was last told of the connection
let pause = 500;
let width = 0;

/** Return the ms since the last state. The calendar counts the time that a sleeping machine's own clock may leave out. */
const since = () => Math.max(performance.now() - heard.at, Date.now() - heard.date);

/** Return the time by the server's clock, s, as far as this page knows: never ahead of it. */
export const clock = () => (heard ? heard.clock + since() / 1000 : 0);

export function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  const mine = new WebSocket(`${scheme}//${location.host}/api/live?page=${NAME}`);
  [socket, lively] = [mine, performance.now()];
  mine.binaryType = "arraybuffer";
  mine.onopen = () => {
    if (socket === mine && width) say({ type: "view", width });
  };
  mine.onmessage = ({ data }) => {
    if (socket !== mine) return;
    lively = performance.now();
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type !== "state") return;
      [state, limits, pause] = [message, message.limits_ms, 500];
      heard = { at: performance.now(), date: Date.now(), clock: message.clock };
      link(true, "");
      tell("state", state);
    } else {
      const length = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      tell("frame", header, new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    }
  };
  mine.onclose = async ({ code }) => {
    if (socket !== mine) return;
    socket = null;
    again(await reason(code));
  };
}

function again(why) {
  link(false, why);
  setTimeout(connect, pause);
  pause = Math.min(SLOWEST, pause * 1.6);
}

function link(open, why) {
  if (connected === open && (open || !why)) return;
  connected = open;
  tell("link", open, why);
}

/** Notice silence: where a program hangs, a machine sleeps or a network is lost, no event says so. */
setInterval(() => {
  if (connected && since() > limits.silence) link(false, "kinet-trt has stopped sending: it may hang, or the network may be down. The picture is out of date and nothing is captured. This page keeps trying to reconnect.");
  if (socket && performance.now() - lively > Math.max(GIVE_UP, 2 * limits.silence)) {
    const silent = socket;
    socket = null; // its events do not count any more: it may take minutes to close
    silent.close();
    again(connected === false ? "" : "kinet-trt does not respond. Is it still running? This page keeps trying to reconnect.");
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
    // Nobody there: the words below are right.
  }
  return "kinet-trt does not respond. Is it still running? This page keeps trying to reconnect.";
}

function say(message) {
  if (socket?.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

/** Say that a frame is on the screen: the next one may come. */
export function sayShown(frame) {
  say({ type: "shown", frame });
}

/** Say how wide the picture is on the screen, px: more need not be sent. */
export function sayView(px) {
  if (px === width || px < 1) return;
  width = px;
  say({ type: "view", width });
}

const NAMES = {
  capture: "Capture", pause: "Pause", auto: "Automatic capture", threshold: "Threshold", scale: "Pixel size", presets: "Objectives", blank: "Blank field",
  region: "Region", sessions: "New session", open: "Open session", rename: "Title and reader", delete: "Delete", restore: "Restore", list: "Sessions",
  add: "Add nucleus", remove: "Remove nucleus", reclassify: "Change class", note: "Note", finish: "Field done", undo: "Undo", redo: "Redo", recount: "Recount",
};

/**
 * Ask kinet-trt to do something; the promise fails with one sentence for a person, after `longest` ms at the latest.
 *
 * The server refuses an order that arrives long after it was asked for: it would act on what is no longer shown.
 */
export function post(path, body = {}, longest = limits.request) {
  const headers = { "Content-Type": "application/json" };
  if (heard) headers["Kinet-Pressed"] = clock().toFixed(3);
  return ask(path, { method: "POST", headers, body: JSON.stringify(body) }, longest);
}

export function get(path) {
  return ask(path, {}, limits.request);
}

async function ask(path, options, longest) {
  const stop = new AbortController();
  const timer = setTimeout(() => stop.abort(), longest);
  const what = NAMES[path.split("/").at(-1)] ?? "Field";
  let answer, words;
  try {
    answer = await fetch(path, { ...options, signal: stop.signal });
    words = await answer.text();
  } catch {
    if (stop.signal.aborted) throw new Error(`${what}: no response from kinet-trt within ${Number((longest / 1000).toFixed(1))} s, so it may not have been done.`);
    throw new Error(`${what}: kinet-trt does not respond, so nothing was changed. Is it still running?`);
  } finally {
    clearTimeout(timer);
  }
  const document = parsed(words);
  if (!answer.ok) throw new Error(document.error ?? `The request failed (status ${answer.status}).`);
  return document;
}

function parsed(words) {
  try {
    return JSON.parse(words);
  } catch {
    return {};
  }
}
