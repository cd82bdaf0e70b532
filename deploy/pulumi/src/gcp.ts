// The optional parts for Google Cloud: `import … from "portcullis-pulumi/gcp"`, beside the package
// @pulumi/gcp.

import { Repository } from "@pulumi/gcp/artifactregistry";
import { Cluster } from "@pulumi/gcp/container";
import { RecordSet } from "@pulumi/gcp/dns";
import * as pulumi from "@pulumi/pulumi";

import { recordValues, type WildcardRecordArgs } from "./record";

/** Creates the wildcard record of a zone in a managed zone of Cloud DNS. */
export function wildcardRecord(
  name: string,
  args: WildcardRecordArgs & { managedZone: pulumi.Input<string> },
  options?: pulumi.CustomResourceOptions,
): RecordSet {
  const record = pulumi.output(args.addresses).apply(recordValues);
  return new RecordSet(
    name,
    {
      managedZone: args.managedZone,
      name: pulumi.interpolate`*.${args.zone}.`,
      type: record.type,
      ttl: args.ttl ?? 300,
      // A name without a dot at its end would be one below the zone.
      rrdatas: record.apply(({ type, values }) =>
        type === "CNAME" ? values.map((value) => `${value.replace(/\.$/, "")}.`) : values,
      ),
    },
    options,
  );
}

/**
 * Creates a repository of Artifact Registry for images, whose tags never move.
 *
 * @returns the name by which images begin, for `registry` of an `AppService`, and the repository
 */
export function imageRepository(
  name: string,
  args: { location: string; project: pulumi.Input<string> },
  options?: pulumi.CustomResourceOptions,
): { registry: pulumi.Output<string>; repository: Repository } {
  const { location, project } = args;
  const repository = new Repository(
    name,
    { repositoryId: name, format: "DOCKER", location, project, dockerConfig: { immutableTags: true } },
    options,
  );
  const registry = pulumi.interpolate`${location}-docker.pkg.dev/${project}/${repository.repositoryId}`;
  return { registry, repository };
}

/**
 * Creates a cluster of GKE whose nodes Google manages (Autopilot). It is protected from deletion.
 *
 * @returns the URL of its API server, for the stacks that use it, and the cluster
 */
export function managedCluster(
  name: string,
  args: { location: string; project: pulumi.Input<string> },
  options?: pulumi.CustomResourceOptions,
): { server: pulumi.Output<string>; cluster: Cluster } {
  const cluster = new Cluster(name, { name, ...args, enableAutopilot: true }, options);
  return { server: pulumi.interpolate`https://${cluster.endpoint}`, cluster };
}
