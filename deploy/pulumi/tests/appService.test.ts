import assert from "node:assert/strict";
import { test } from "node:test";

import * as pulumi from "@pulumi/pulumi";

import { AppService, imageReference, requiredSecrets, type AppServiceArgs } from "../src";
import { declared, isSecret, only, type Declared } from "./mocks";

const ARGS: AppServiceArgs = {
  namespace: "staging",
  registry: "registry.example.com",
  imageSlug: "shop/web",
  imageTag: "1.4",
};
const DEPLOYMENT = "kubernetes:apps/v1:Deployment";
const SECRET = "kubernetes:core/v1:Secret";

interface PodSpec {
  automountServiceAccountToken: boolean;
  initContainers: { image: string; command: string[] }[];
  containers: {
    image: string;
    envFrom: unknown;
    volumeMounts: unknown;
    readinessProbe: Record<string, unknown>;
  }[];
  volumes: unknown;
}

function service(args: Partial<AppServiceArgs> = {}): Promise<Declared[]> {
  return declared(() => new AppService("web", { ...ARGS, ...args }));
}

function podSpec(resources: Declared[]): PodSpec {
  const { spec } = only(resources, DEPLOYMENT).inputs as {
    spec: { template: { spec: PodSpec } };
  };
  return spec.template.spec;
}

test("a service is a Deployment, a Service that the gateway exposes, and a Secret", async () => {
  const resources = await service({ access: { require: "app", apps: ["ci", "importer"] } });
  const kinds = resources.map(({ type }) => type).filter((type) => type.startsWith("kubernetes:"));
  assert.deepEqual(kinds.sort(), [DEPLOYMENT, SECRET, "kubernetes:core/v1:Service"].sort());
  const { metadata } = only(resources, "kubernetes:core/v1:Service").inputs;
  assert.deepEqual(metadata, {
    name: "web",
    namespace: "staging",
    labels: { "app.kubernetes.io/name": "web" },
    annotations: {
      "portcullis.dev/expose": "true",
      "portcullis.dev/require": "app",
      "portcullis.dev/allow-apps": "ci,importer",
    },
  });
  const spec = podSpec(resources);
  assert.equal(spec.containers[0]?.image, "registry.example.com/shop/web:1.4");
  assert.equal(spec.automountServiceAccountToken, false);
  assert.deepEqual(spec.initContainers, []);
  assert.deepEqual(spec.containers[0].readinessProbe, {
    periodSeconds: 2,
    tcpSocket: { port: "http" },
  });
});

test("another tag changes the Deployment, and nothing else", async () => {
  const [before, after] = [await service(), await service({ imageTag: "1.5" })];
  const changed = before.filter(
    (one, index) => JSON.stringify(one) !== JSON.stringify(after[index]),
  );
  const types = changed.map(({ type }) => type).filter((type) => type.startsWith("kubernetes:"));
  assert.deepEqual(types, [DEPLOYMENT]);
});

test("a digest is a tag, and a tag that moves is none", () => {
  const digest = `sha256:${"0".repeat(64)}`;
  assert.equal(imageReference("r.example.com", "web", digest), `r.example.com/web@${digest}`);
  assert.equal(imageReference("r.example.com", "web", "1"), "r.example.com/web:1");
  assert.throws(() => imageReference("r.example.com", "web", "latest"), /tag that never moves/);
  assert.throws(() => imageReference("r.example.com", "web", ""), /tag that never moves/);
});

test("variables are secrets, whatever the caller marked", async () => {
  const resources = await service({
    requiredEnv: { DATABASE_URL: "postgres://user:plain@db/shop" },
    extraEnv: { LOG_LEVEL: "debug" },
  });
  const { inputs } = only(resources, SECRET);
  assert.ok(isSecret(inputs["stringData"]), JSON.stringify(inputs));
  assert.equal(inputs["immutable"], true, "a changed one is another Secret, which rolls the pods");
  assert.equal((inputs["metadata"] as { name?: string }).name, undefined);
  const others = resources.filter(({ type }) => type !== SECRET);
  assert.ok(!JSON.stringify(others).includes("plain"), "it appears nowhere else");
});

test("a required variable that is empty, or given twice, is named", () => {
  const create = (args: Partial<AppServiceArgs>) => (): AppService => {
    return new AppService("wrong", { ...ARGS, ...args });
  };
  assert.throws(create({ requiredEnv: { DATABASE_URL: "" } }), /DATABASE_URL is empty/);
  const twice = { requiredEnv: { A: "1" }, extraEnv: { A: "2" } };
  assert.throws(create(twice), /wrong: A is in requiredEnv, and in extraEnv too/);
});

test("secrets that the stack lacks are all named, with the command that sets them", async () => {
  pulumi.runtime.setAllConfig({ "shop:KEY": "value" }, ["shop:KEY"]);
  const config = new pulumi.Config("shop");
  const names = ["DATABASE_URL", "KEY", "SESSION_KEY"];
  assert.throws(
    () => requiredSecrets(config, names),
    (error: Error) => {
      assert.match(error.message, /staging lacks DATABASE_URL, SESSION_KEY/);
      assert.match(error.message, /pulumi config set --secret shop:SESSION_KEY/);
      return true;
    },
  );
  const { KEY } = requiredSecrets(config, ["KEY"]);
  assert.equal(await pulumi.isSecret(KEY as pulumi.Output<string>), true);
});

test("migrations run in an init container of the same image and variables", async () => {
  const command = ["/web", "migrate"];
  const { initContainers, containers } = podSpec(
    await service({ migrations: { enabled: true, command } }),
  );
  assert.equal(initContainers.length, 1);
  assert.deepEqual(initContainers[0]?.command, command);
  assert.equal(initContainers[0].image, containers[0]?.image);
  const off = podSpec(await service({ migrations: { enabled: false, command } }));
  assert.deepEqual(off.initContainers, []);
});

test("signing keys are files", async () => {
  const { containers, volumes } = podSpec(
    await service({ signingKeys: { secretName: "signing-keys" } }),
  );
  const mount = { name: "signing-keys", mountPath: "/etc/signing-keys", readOnly: true };
  assert.deepEqual(containers[0]?.volumeMounts, [mount]);
  const volume = { name: "signing-keys", secret: { secretName: "signing-keys" } };
  assert.deepEqual(volumes, [volume]);
});

test("a certificate is a secret that the gateway alone may read besides", async () => {
  const certificate = { certificate: "CHAIN", key: "PRIVATE" };
  const resources = await service({ certificate });
  const { inputs } = only(resources, SECRET, "web-tls");
  assert.equal(inputs["type"], "kubernetes.io/tls");
  assert.ok(isSecret(inputs["stringData"]));
  const role = only(resources, "kubernetes:rbac.authorization.k8s.io/v1:Role");
  assert.deepEqual(role.inputs["rules"], [
    { apiGroups: [""], resources: ["secrets"], resourceNames: ["web-tls"], verbs: ["list", "watch"] },
  ]);
});

test("an image that another program owns is set once, and declared nowhere else", async () => {
  const PATCH = "kubernetes:apps/v1:DeploymentPatch";
  const migrations = { enabled: true, command: ["/web", "migrate"] };
  const own = await service({ migrations });
  assert.ok(!own.some(({ type }) => type === PATCH));
  const resources = await service({ imageOwner: "portcullis", migrations });
  const { containers, initContainers } = podSpec(resources);
  assert.deepEqual([containers[0]?.image, initContainers[0]?.image], [undefined, undefined]);
  interface Inputs {
    metadata: { annotations: Record<string, string> };
    spec: { template: { spec: PodSpec } };
  }
  const of = (suffix: string): Inputs =>
    only(resources, PATCH, suffix).inputs as unknown as Inputs;
  // The first has all that a pod needs; the second gives that up, and so has the same owner.
  const [first, last] = [of("web-first-image"), of("web-image")];
  const image = "registry.example.com/shop/web:1.4";
  const withImage = containers.map((container) => ({ ...container, image }));
  assert.deepEqual(first.spec.template.spec.containers, withImage);
  assert.deepEqual(last.spec.template.spec, {
    containers: [{ name: "app", image }],
    initContainers: [{ name: "migrations", image }],
  });
  assert.deepEqual(first.metadata.annotations, last.metadata.annotations);
});
