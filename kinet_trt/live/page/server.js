// The line to the counter: one WebSocket for what is going on, and requests for what a person does.

const SLOWEST = 5000; // ms between two tries to connect

/** The last state that came; null before the first. */
export let state = null;

const listeners = { state: [], frame: [], link: [] };

/** Call a function with each state; with each frame (its JSON and its JPEG); with each word on the line itself. */
export function on(what, listener) {
  listeners[what].push(listener);
}

function tell(what, ...message) {
  for (const listener of listeners[what]) listener(...message);
}

let socket = null;
let pause = 500;
let width = 0;

export function connect() {
  const scheme = location.protocol === "https:" ? "wss:" : "ws:";
  socket = new WebSocket(`${scheme}//${location.host}/api/live`);
  socket.binaryType = "arraybuffer";
  socket.onopen = () => {
    pause = 500;
    if (width) say({ type: "view", width });
    tell("link", true, "");
  };
  socket.onmessage = ({ data }) => {
    if (typeof data === "string") {
      const message = JSON.parse(data);
      if (message.type !== "state") return;
      state = message;
      tell("state", state);
    } else {
      const length = new DataView(data).getUint32(0, true);
      const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      tell("frame", header, new Blob([new Uint8Array(data, 4 + length)], { type: "image/jpeg" }));
    }
  };
  socket.onclose = async ({ code }) => {
    tell("link", false, await reason(code));
    setTimeout(connect, pause);
    pause = Math.min(SLOWEST, pause * 1.6);
  };
}

async function reason(code) {
  if (code === 1013) return "Too many pages are open: close one of them.";
  if (code === 1001) return "kinet-trt has stopped. Start it again: this page reconnects automatically.";
  try {
    const answer = await fetch("/api/state");
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

/** Ask the counter to do something; the promise fails with one sentence for a person. */
export function post(path, body = {}) {
  return ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
}

export function get(path) {
  return ask(path, {});
}

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("kinet-trt does not respond, so nothing was changed. Is it still running?");
  }
  const document = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(document.error ?? `The request failed (status ${answer.status}).`);
  return document;
}
