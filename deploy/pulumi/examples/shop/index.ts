// A gateway, an environment, and a service in it. The stacks dev, staging and production differ by
// their configuration alone.

import * as k8s from "@pulumi/kubernetes";
import * as pulumi from "@pulumi/pulumi";
import {
  AppService,
  Portcullis,
  clusterProvider,
  requiredSecrets,
  type AppServiceArgs,
  type ClusterArgs,
  type ExposureArgs,
} from "portcullis-pulumi";

const config = new pulumi.Config("shop");
const environment = config.get("environment") ?? pulumi.getStack();
const zone = config.require("zone");

const provider = clusterProvider("cluster", config.requireObject<ClusterArgs>("cluster"));
const acmeContact = config.get("acmeContact");

// A stack of a pull request is one more environment of a gateway that is there.
const gateway = config.getBoolean("sharesGateway")
  ? undefined
  : new Portcullis(
      "gateway",
      {
        zone,
        exposure: {
          type: config.get<NonNullable<ExposureArgs["type"]>>("exposure") ?? "LoadBalancer",
          externalDns: config.getBoolean("externalDns") ?? false,
        },
        ...(acmeContact === undefined
          ? {}
          : { acme: { enabled: true, settings: { authorities: authorities(acmeContact) } } }),
      },
      { provider },
    );

const namespace = new k8s.core.v1.Namespace(
  environment,
  {
    metadata: {
      name: environment,
      labels: { "portcullis.dev/environment": environment },
      annotations: { "portcullis.dev/require": "app", "portcullis.dev/allow-apps": "ci" },
    },
  },
  { provider },
);

new AppService(
  "web",
  {
    namespace: namespace.metadata.name,
    registry: config.require("registry"),
    imageSlug: config.get("imageSlug") ?? "shop/web",
    imageTag: config.require("imageTag"),
    imageOwner: config.get<NonNullable<AppServiceArgs["imageOwner"]>>("imageOwner") ?? "pulumi",
    replicas: config.getNumber("replicas") ?? 2,
    requiredEnv: requiredSecrets(config, ["DATABASE_URL", "SESSION_KEY"]),
    extraEnv: { ENVIRONMENT: environment },
    migrations: { enabled: config.requireBoolean("migrate"), command: ["/web", "migrate"] },
  },
  { provider },
);

/** The addresses that the zone's wildcard record must have, where external-dns does not set it. */
export const addresses = gateway?.addresses;
/** The URL of the service. */
export const url = `https://web--${environment}.${zone}/`;

function authorities(contact: string): object[] {
  const directory = "https://acme-v02.api.letsencrypt.org/directory";
  return [{ directory, contact: [contact] }];
}
