// Runs before the first paint, so that a light page does not flash dark.
"use strict";

try {
  if (localStorage.getItem("theme") === "light") document.documentElement.dataset.theme = "light";
} catch {
  // No storage: dark.
}
