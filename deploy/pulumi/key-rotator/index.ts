// Rotates the keys with which services sign. Run `pulumi up` by a schedule, more often than the
// overlap: it changes something only when a key is due.

import * as pulumi from "@pulumi/pulumi";
import { KeyRotator, clusterProvider, type ClusterArgs } from "portcullis-pulumi";

const config = new pulumi.Config("key-rotator");
const provider = clusterProvider("cluster", config.requireObject<ClusterArgs>("cluster"));

const rotator = new KeyRotator(
  "signing-keys",
  {
    namespaces: config.requireObject<string[]>("namespaces"),
    everyDays: config.getNumber("everyDays") ?? 30,
    overlapHours: config.getNumber("overlapHours") ?? 24,
  },
  { provider },
);

/** The public keys, for verifiers that do not read the Secret. */
export const jwks = rotator.jwks;
