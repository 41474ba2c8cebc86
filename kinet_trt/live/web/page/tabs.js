// Panels beside the picture.

import { $, shown } from "./dom.js";

const NAMES = ["fields", "map", "settings", "session"];

/** Show a panel. */
export function showTab(name) {
  // The long panels need the space of the count.
  $("side").classList.toggle("compact", name === "settings" || name === "session");
  for (const one of NAMES) {
    const tab = $(`tab-${one}`);
    tab.setAttribute("aria-selected", one === name ? "true" : "false");
    tab.tabIndex = one === name ? 0 : -1;
    shown($(`panel-${one}`), one === name);
  }
}

NAMES.forEach((name, index) => {
  const tab = $(`tab-${name}`);
  tab.onclick = () => showTab(name);
  tab.onkeydown = (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    event.stopPropagation();
    const next = NAMES[(index + step + NAMES.length) % NAMES.length];
    showTab(next);
    $(`tab-${next}`).focus();
  };
});
