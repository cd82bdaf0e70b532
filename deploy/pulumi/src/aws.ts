// The optional parts for AWS: `import … from "portcullis-pulumi/aws"`, beside the package @pulumi/aws.

import { Repository } from "@pulumi/aws/ecr";
import { Record } from "@pulumi/aws/route53";
import * as pulumi from "@pulumi/pulumi";

import { recordValues, type WildcardRecordArgs } from "./record";

/** Creates the wildcard record of a zone in a hosted zone of Route 53. */
export function wildcardRecord(
  name: string,
  args: WildcardRecordArgs & { hostedZoneId: pulumi.Input<string> },
  options?: pulumi.CustomResourceOptions,
): Record {
  const record = pulumi.output(args.addresses).apply(recordValues);
  return new Record(
    name,
    {
      zoneId: args.hostedZoneId,
      name: pulumi.interpolate`*.${args.zone}`,
      type: record.type,
      ttl: args.ttl ?? 300,
      records: record.values,
    },
    options,
  );
}

/**
 * Creates a repository of ECR for the images of a service, whose tags never move.
 *
 * @returns its host, for `registry` of an `AppService`, and the repository
 */
export function imageRepository(
  name: string,
  imageSlug: string,
  options?: pulumi.CustomResourceOptions,
): { registry: pulumi.Output<string>; repository: Repository } {
  const repository = new Repository(
    name,
    {
      name: imageSlug,
      imageTagMutability: "IMMUTABLE",
      imageScanningConfiguration: { scanOnPush: true },
    },
    options,
  );
  const registry = repository.repositoryUrl.apply((url) => url.slice(0, -`/${imageSlug}`.length));
  return { registry, repository };
}
