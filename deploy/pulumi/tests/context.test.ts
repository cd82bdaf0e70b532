import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import * as path from "node:path";
import { test } from "node:test";

import { checkContext, clusterProvider } from "../src";
import { declared, only } from "./mocks";

const KUBECONFIG = `
apiVersion: v1
kind: Config
current-context: production
contexts:
  - {name: staging, context: {cluster: one, user: me}}
  - {name: production, context: {cluster: two, user: me}}
  - {name: broken, context: {cluster: three, user: me}}
clusters:
  - {name: one, cluster: {server: "https://One.example.com:443/"}}
  - {name: two, cluster: {server: "https://two.example.com"}}
`;

test("a context must lead to the API server that the stack names", () => {
  checkContext(KUBECONFIG, { context: "staging", server: "https://one.example.com" });
  const check = (context: string, server: string): (() => void) => {
    return () => {
      checkContext(KUBECONFIG, { context, server });
    };
  };
  assert.throws(
    check("production", "https://one.example.com"),
    /context production leads to https:\/\/two.*belongs to https:\/\/one/,
  );
  assert.throws(check("dev", "https://one.example.com"), /no context dev, but staging, production/);
  assert.throws(check("broken", "https://one.example.com"), /leads to no API server/);
  assert.throws(() => {
    checkContext("", { context: "dev", server: "" });
  }, /none at all/);
});

test("the provider uses the stack's context, not the current one", async () => {
  const kubeconfig = path.join(mkdtempSync(path.join(tmpdir(), "context-")), "config");
  writeFileSync(kubeconfig, KUBECONFIG);
  const cluster = { kubeconfig, context: "staging", server: "https://one.example.com" };
  const resources = await declared(() => clusterProvider("cluster", cluster));
  const { inputs } = only(resources, "pulumi:providers:kubernetes");
  assert.equal(inputs["context"], "staging");
  assert.equal(inputs["kubeconfig"], kubeconfig);
  const other = { ...cluster, context: "production" };
  assert.throws(() => clusterProvider("cluster", other), /leads to https:\/\/two/);
});
