import js from "@eslint/js";
import globals from "globals";

export default [
  js.configs.recommended,
  {
    files: ["kinet_trt/live/web/page/**/*.js"],
    languageOptions: { globals: globals.browser, ecmaVersion: 2023 },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    rules: {
      eqeqeq: ["error", "always", { null: "ignore" }],
      "no-implicit-globals": "error",
      "no-var": "error",
      "prefer-const": "error",
      "object-shorthand": "error",
      "no-shadow": "error",
      "no-restricted-properties": [
        "error",
        { property: "innerHTML", message: "Typed text goes into textContent only." },
      ],
    },
  },
  { files: ["kinet_trt/live/web/page/theme.js"], languageOptions: { sourceType: "script" } },
  { files: ["tests/live/web/page/**/*.js"], languageOptions: { globals: globals.node } },
];
