// Start of the page: imports every part, shows the header and the warnings, and connects.

import { $, attribute, number, shown, text, upper } from "./dom.js";
import "./deleted.js";
import "./field.js";
import "./keys.js";
import { togglePause } from "./live.js";
import "./mosaic.js";
import "./numbers.js";
import { toggleRecount } from "./session.js";
import { connect, on, state } from "./server.js";
import { showScale } from "./settings.js";
import { warn } from "./words.js";

/** Why there is no connection; null: connected. @type {string | null} */
let lost = null;

on("link", (open, why) => {
  lost = open ? null : why;
  show();
});
on("state", show);

function show() {
  warn(warnings());
  if (!state) {
    text($("status-words"), lost ? "No connection" : "Connecting…");
    attribute($("lamp"), "class", lost ? "lamp bad" : "lamp");
    return;
  }
  const { camera, loop, notice } = state;
  text($("notice"), notice);
  const healthy = lost === null && camera.phase === "connected" && loop.phase === "counting" && !loop.stalled;
  attribute($("lamp"), "class", healthy ? "lamp good" : lost === null && loop.phase === "paused" ? "lamp" : "lamp bad");
  text(
    $("status-words"),
    lost !== null
      ? "No connection"
      : camera.width
        ? `${camera.name}, ${camera.width} × ${camera.height} · ${camera.fps.toFixed(0)} frames/s · ${loop.fps.toFixed(1)} counted/s`
        : "No frame yet",
  );
  const delay =
    loop.p50 === null ? "" : `Shown ${number(loop.p50)} ms after capture (99%: ${number(loop.p99 ?? loop.p50)} ms) · `;
  text(
    $("latency"),
    `${delay}${number(loop.counted)} counted, ${number(camera.dropped)} skipped, ${number(camera.missed)} lost${camera.damaged ? `, ${number(camera.damaged)} damaged` : ""}`,
  );
  shown($("latency"), lost === null);
}

/** Return the warnings, the most serious first. */
function warnings() {
  /** @type {import("./words.js").Warning[]} */
  const list = [];
  if (lost !== null) list.push({ kind: "red", word: "No connection", words: lost });
  if (!state) return list;
  const { camera, loop, scale, session } = state;
  // The warning stays during an attempt.
  const retrying = camera.phase === "reconnecting" || (camera.phase === "connecting" && camera.why);
  if (lost === null && retrying) {
    list.push({
      kind: "red",
      word: camera.name ? "Camera disconnected" : "No camera",
      words: upper(camera.why || camera.sentence),
      next: camera.retry_in,
    });
  } else if (lost === null && ["stalled", "closed"].includes(camera.phase)) {
    list.push({
      kind: "red",
      word: camera.phase === "stalled" ? "Camera stalled" : "Camera closed",
      words: upper(camera.sentence),
    });
  }
  if (lost === null && loop.stalled)
    list.push({
      kind: "red",
      word: "Counting stalled",
      words: "The camera gives frames, but none has been counted for some seconds: the model may hang.",
    });
  if (loop.phase === "failed")
    list.push({ kind: "red", word: "Counting failed", words: loop.why, button: ["Try again", togglePause] });
  if (loop.phase === "paused")
    list.push({
      kind: "amber",
      word: "Paused",
      words: "The picture is held and can be captured. Counting has stopped.",
      button: ["Resume", togglePause],
    });
  if (loop.phase === "ended" || camera.phase === "ended")
    list.push({
      kind: camera.why ? "amber" : "plain",
      word: "Ended",
      words: `${camera.why ? camera.sentence : upper(camera.sentence)}. The session stays open.`,
    });
  if (scale.assumed) {
    list.push({
      kind: "amber",
      word: "Pixel size assumed",
      words: `${scale.note || "The pixel size is not known."} Counts and index are wrong if it is not ${Number(scale.mpp.toPrecision(4))} µm/px.`,
      button: ["Set it", showScale],
    });
  } else if (scale.note) {
    list.push({ kind: "amber", word: "Pixel size changed", words: scale.note, button: ["Check it", showScale] });
  }
  if (state.trouble) list.push({ kind: "amber", word: "Not done", words: state.trouble });
  if (session.recount) {
    const { reader, done, of } = session.recount;
    list.push({
      kind: "plain",
      word: "Blind recount",
      words: `${reader || "The second reader"} is counting: ${done} of ${of} fields done. The first count is hidden. Open the fields one by one.`,
      button: ["End recount", toggleRecount],
    });
  }
  return list;
}

connect();
