import assert from "node:assert/strict";
import { test } from "node:test";

import type * as pulumi from "@pulumi/pulumi";

import * as aws from "../src/aws";
import * as gcp from "../src/gcp";
import { recordValues } from "../src/record";
import { declared, only, outputs, resolved } from "./mocks";

const ZONE = "apps.example.com";

test("a record has the addresses, or the name, of the load balancer", () => {
  assert.deepEqual(recordValues(["192.0.2.1", "192.0.2.2"]), {
    type: "A",
    values: ["192.0.2.1", "192.0.2.2"],
  });
  assert.equal(recordValues(["2001:db8::1"]).type, "AAAA");
  assert.equal(recordValues(["lb.example.net"]).type, "CNAME");
  assert.throws(() => recordValues([]), /no address yet/);
  assert.throws(() => recordValues(["192.0.2.1", "lb.example.net"]), /one record/);
  assert.throws(() => recordValues(["a.example.net", "b.example.net"]), /one record/);
});

test("the wildcard record is in the zone of the cloud", async () => {
  const addresses = ["lb.example.net"];
  const resources = await declared(() => {
    aws.wildcardRecord("aws", { zone: ZONE, addresses, hostedZoneId: "Z1" });
    gcp.wildcardRecord("gcp", { zone: ZONE, addresses, managedZone: "zone" });
  });
  const { inputs: route53 } = only(resources, "aws:route53/record:Record");
  assert.deepEqual(
    [route53["name"], route53["type"], route53["records"], route53["zoneId"]],
    ["*.apps.example.com", "CNAME", ["lb.example.net"], "Z1"],
  );
  const { inputs: cloudDns } = only(resources, "gcp:dns/recordSet:RecordSet");
  assert.deepEqual(
    [cloudDns["name"], cloudDns["rrdatas"]],
    ["*.apps.example.com.", ["lb.example.net."]],
  );
});

test("the tags of images never move", async () => {
  outputs["aws:ecr/repository:Repository"] = {
    repositoryUrl: "1.dkr.ecr.eu-west-1.amazonaws.com/shop/web",
  };
  const registries: pulumi.Output<string>[] = [];
  const resources = await declared(() => {
    const args = { location: "europe-west1", project: "shop" };
    registries.push(
      aws.imageRepository("web", "shop/web").registry,
      gcp.imageRepository("images", args).registry,
    );
  });
  const ecr = only(resources, "aws:ecr/repository:Repository").inputs;
  assert.equal(ecr["imageTagMutability"], "IMMUTABLE");
  const artifacts = only(resources, "gcp:artifactregistry/repository:Repository").inputs;
  assert.deepEqual(artifacts["dockerConfig"], { immutableTags: true });
  assert.deepEqual(await Promise.all(registries.map(resolved)), [
    "1.dkr.ecr.eu-west-1.amazonaws.com",
    "europe-west1-docker.pkg.dev/shop/images",
  ]);
});

test("the cloud manages the nodes of a cluster, whose server the stacks name", async () => {
  outputs["aws:eks/cluster:Cluster"] = { endpoint: "https://1.eks.amazonaws.com" };
  outputs["gcp:container/cluster:Cluster"] = { endpoint: "192.0.2.1" };
  const servers: pulumi.Output<string>[] = [];
  const resources = await declared(() => {
    const args = { location: "europe-west1", project: "shop" };
    servers.push(
      aws.managedCluster("shop", { subnetIds: ["subnet-1", "subnet-2"] }).server,
      gcp.managedCluster("shop", args).server,
    );
  });
  assert.deepEqual(await Promise.all(servers.map(resolved)), [
    "https://1.eks.amazonaws.com",
    "https://192.0.2.1",
  ]);
  assert.equal(only(resources, "gcp:container/cluster:Cluster").inputs["enableAutopilot"], true);
  // All three are on, or none: EKS accepts nothing else.
  const eks = only(resources, "aws:eks/cluster:Cluster").inputs as Record<string, object>;
  assert.deepEqual((eks["computeConfig"] as { enabled: boolean }).enabled, true);
  assert.deepEqual(eks["storageConfig"], { blockStorage: { enabled: true } });
  assert.deepEqual(eks["kubernetesNetworkConfig"], { elasticLoadBalancing: { enabled: true } });
  const roles = resources.filter(({ type }) => type === "aws:iam/role:Role");
  assert.equal(roles.length, 2);
});
