// Writes src/values.ts, the types of the chart's values, from the schema of the chart.

import { cp, rm, writeFile } from "node:fs/promises";
import { existsSync } from "node:fs";

import { compileFromFile } from "json-schema-to-typescript";

// In the repository, the chart is beside this package; a published package has it inside.
if (existsSync("../helm/portcullis")) {
  await rm("chart", { recursive: true, force: true });
  await cp("../helm/portcullis", "chart", { recursive: true });
}
const types = await compileFromFile("chart/values.schema.json", {
  bannerComment: "// Generated from the chart's values.schema.json.",
});
await writeFile("src/values.ts", types.replace("ValuesOfTheChartPortcullis", "ChartValues"));
