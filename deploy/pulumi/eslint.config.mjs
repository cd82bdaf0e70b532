import js from "@eslint/js";
import tseslint from "typescript-eslint";

export default tseslint.config(
  // src/values.ts is generated from the chart's schema.
  { ignores: ["dist/", "node_modules/", "chart/", "src/values.ts"] },
  js.configs.recommended,
  {
    files: ["**/*.ts"],
    extends: [...tseslint.configs.strictTypeChecked],
    languageOptions: { parserOptions: { projectService: true } },
    rules: {
      // A resource is declared by being constructed.
      "no-new": "off",
      // `test` returns a promise that its runner awaits.
      "@typescript-eslint/no-floating-promises": [
        "error",
        { allowForKnownSafeCalls: [{ from: "package", name: ["test"], package: "node:test" }] },
      ],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
    },
  },
  { files: ["**/*.mjs"], languageOptions: { globals: { console: "readonly", process: "readonly" } } },
);
