// Runs before the page is drawn, so that a light page never flashes dark.
"use strict";

try {
  if (localStorage.getItem("theme") === "light") document.documentElement.dataset.theme = "light";
} catch {
  // A browser that keeps nothing: dark.
}
