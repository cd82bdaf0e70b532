import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { test } from "node:test";

import * as pulumi from "@pulumi/pulumi";
import { parse } from "yaml";

import type { ClusterArgs } from "../src";
import { declared, only, type Declared } from "./mocks";

const ROOT = path.join(__dirname, "..", "..");

/** Loads a program, which runs by that, once for each stack. */
const load = createRequire(__filename);

interface StackFile {
  config: Record<string, unknown>;
}

/** Runs the program of a project with the configuration of a stack, and with these secrets. */
function run(project: string, stack: string, secrets: string[] = []): Promise<Declared[]> {
  const folder = path.join(ROOT, project);
  const { config } = parse(readFileSync(`${folder}/Pulumi.${stack}.yaml`, "utf8")) as StackFile;
  const name = path.basename(project);
  const { context, server } = config[`${name}:cluster`] as ClusterArgs;
  const kubeconfig = path.join(mkdtempSync(path.join(tmpdir(), "example-")), "config");
  writeFileSync(
    kubeconfig,
    JSON.stringify({
      contexts: [{ name: context, context: { cluster: "the-only-one" } }],
      clusters: [{ name: "the-only-one", cluster: { server } }],
    }),
  );
  process.env["KUBECONFIG"] = kubeconfig;
  const text = (value: unknown): string =>
    typeof value === "string" ? value : JSON.stringify(value);
  const entries = Object.entries(config).map(([key, value]) => [key, text(value)]);
  const all = Object.fromEntries(entries) as Record<string, string>;
  for (const secret of secrets) all[`${name}:${secret}`] = "secret";
  pulumi.runtime.setAllConfig(
    all,
    secrets.map((secret) => `${name}:${secret}`),
  );
  const program = path.join(ROOT, "dist", project, "index.js");
  return declared(() => {
    Reflect.deleteProperty(load.cache, program);
    load(program);
  });
}

test("each example stack declares a gateway, an environment, and a service in it", async () => {
  for (const stack of ["dev", "staging", "production"]) {
    const resources = await run("examples/shop", stack, ["DATABASE_URL", "SESSION_KEY"]);
    const { inputs } = only(resources, "kubernetes:helm.sh/v4:Chart");
    assert.ok((inputs["values"] as { zone?: string }).zone, stack);
    only(resources, "kubernetes:apps/v1:Deployment", "web");
    const namespaces = resources.filter(({ type }) => type === "kubernetes:core/v1:Namespace");
    assert.equal(namespaces.length, 2, stack);
  }
});

test("a stack without its secrets does not start", async () => {
  await assert.rejects(run("examples/shop", "staging"), /lacks DATABASE_URL, SESSION_KEY/);
});

test("the key rotator declares its Secret", async () => {
  const resources = await run("key-rotator", "staging");
  const { metadata } = only(resources, "kubernetes:core/v1:Secret").inputs;
  assert.deepEqual(metadata, { name: "signing-keys", namespace: "staging" });
});

test("no example names the default providers of Kubernetes", () => {
  for (const file of ["examples/shop/Pulumi.dev.yaml", "key-rotator/Pulumi.staging.yaml"]) {
    const { config } = parse(readFileSync(path.join(ROOT, file), "utf8")) as StackFile;
    assert.deepEqual(config["pulumi:disable-default-providers"], ["kubernetes"], file);
  }
});
