// The wildcard record of a zone, for any DNS service.

import * as net from "node:net";

import * as pulumi from "@pulumi/pulumi";

/** What the wildcard record of a zone is declared with. */
export interface WildcardRecordArgs {
  /** The zone that the gateway serves, such as `apps.example.com`. */
  zone: pulumi.Input<string>;
  /** The gateway's addresses: `addresses` of `Portcullis`, or those of nodes. */
  addresses: pulumi.Input<string[]>;
  /** How long resolvers keep the record, in seconds; the default is 300. */
  ttl?: pulumi.Input<number>;
}

/** A record, as DNS services have it. */
export interface RecordValues {
  /** `A` for IPv4 addresses, `AAAA` for IPv6 addresses, `CNAME` for the name of a load balancer. */
  type: "A" | "AAAA" | "CNAME";
  /** The addresses, or the name. */
  values: string[];
}

/**
 * Returns the record that leads to these addresses.
 *
 * @throws {Error} if there are none yet, or if one record cannot have them all
 */
export function recordValues(addresses: readonly string[]): RecordValues {
  const types = new Set(addresses.map((address) => TYPES[net.isIP(address)] ?? "CNAME"));
  const [type] = types;
  if (type === undefined) {
    throw new Error(
      "the gateway has no address yet: wait for its load balancer, and run `pulumi up` again",
    );
  }
  if (types.size > 1 || (type === "CNAME" && addresses.length > 1)) {
    throw new Error(`one record cannot have all of ${addresses.join(", ")}: name those of one kind`);
  }
  return { type, values: [...addresses] };
}

const TYPES: Record<number, "A" | "AAAA"> = { 4: "A", 6: "AAAA" };
