import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import * as path from "node:path";
import { test } from "node:test";

import * as pulumi from "@pulumi/pulumi";

import { Portcullis } from "../src";
import { declared, only, outputs, resolved } from "./mocks";

const NAMESPACE = "kubernetes:core/v1:Namespace";
const CHART = "kubernetes:helm.sh/v4:Chart";
const SERVICE = "kubernetes:core/v1:Service";

test("a gateway is the chart of this package in a Namespace of its own", async () => {
  const resources = await declared(
    () => new Portcullis("gateway", { zone: "apps.example.com", namespace: "ingress" }),
  );
  const { inputs } = only(resources, CHART);
  assert.deepEqual(inputs["values"], { zone: "apps.example.com" });
  assert.equal(inputs["name"], "portcullis");
  assert.equal(inputs["namespace"], "ingress");
  assert.ok(existsSync(path.join(inputs["chart"] as string, "values.schema.json")));
  assert.deepEqual(only(resources, NAMESPACE).inputs["metadata"], {
    name: "ingress",
    labels: { "pod-security.kubernetes.io/enforce": "restricted" },
  });
});

test("ports of nodes need a Namespace that permits them", async () => {
  const resources = await declared(
    () => new Portcullis("gateway", { zone: "a.example.com", exposure: { type: "HostPort" } }),
  );
  const { labels } = only(resources, NAMESPACE).inputs["metadata"] as { labels: unknown };
  assert.deepEqual(labels, { "pod-security.kubernetes.io/enforce": "privileged" });
});

test("the addresses are those of the load balancer", async () => {
  const ingress = [{ ip: "192.0.2.1" }, { hostname: "lb.example.net" }];
  outputs[SERVICE] = { status: { loadBalancer: { ingress } } };
  let addresses: pulumi.Output<string[]> | undefined;
  await declared(() => {
    addresses = new Portcullis("gateway", { zone: "apps.example.com" }).addresses;
  });
  outputs[SERVICE] = {};
  assert.deepEqual(await resolved(addresses), ["192.0.2.1", "lb.example.net"]);
});

test("there are no addresses while the load balancer is pending, or without one", async () => {
  for (const type of ["LoadBalancer", "NodePort"] as const) {
    let addresses: pulumi.Output<string[]> | undefined;
    await declared(() => {
      addresses = new Portcullis("gateway", { zone: "a.example.com", exposure: { type } }).addresses;
    });
    assert.deepEqual(await resolved(addresses), [], type);
  }
});
