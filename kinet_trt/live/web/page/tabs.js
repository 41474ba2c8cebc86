// The panels beside the picture.

import { $, shown } from "./dom.js";

const NAMES = ["fields", "map", "settings", "session"];

/** Show a panel. */
export function toTab(name) {
  // The count makes room where there is much to read or to set.
  $("side").classList.toggle("compact", name === "settings" || name === "session");
  for (const one of NAMES) {
    const tab = $(`tab-${one}`);
    tab.setAttribute("aria-selected", one === name ? "true" : "false");
    tab.tabIndex = one === name ? 0 : -1;
    shown($(`panel-${one}`), one === name);
  }
}

NAMES.forEach((name, k) => {
  const tab = $(`tab-${name}`);
  tab.onclick = () => toTab(name);
  tab.onkeydown = (event) => {
    const way = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!way) return;
    event.preventDefault();
    event.stopPropagation();
    const next = NAMES[(k + way + NAMES.length) % NAMES.length];
    toTab(next);
    $(`tab-${next}`).focus();
  };
});
