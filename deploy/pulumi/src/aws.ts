// The optional parts for AWS: `import … from "portcullis-pulumi/aws"`, beside the package @pulumi/aws.

import { Repository } from "@pulumi/aws/ecr";
import { Cluster } from "@pulumi/aws/eks";
import { Role, RolePolicyAttachment } from "@pulumi/aws/iam";
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

/**
 * Creates a cluster of EKS whose nodes and load balancers AWS manages (Auto Mode). Whoever creates it
 * administers it.
 *
 * @returns the URL of its API server, for the stacks that use it, and the cluster
 */
export function managedCluster(
  name: string,
  args: { subnetIds: pulumi.Input<string>[] },
  options?: pulumi.CustomResourceOptions,
): { server: pulumi.Output<string>; cluster: Cluster } {
  const control = roleFor(`${name}-control`, "eks.amazonaws.com", CONTROL_POLICIES, options);
  const nodes = roleFor(`${name}-nodes`, "ec2.amazonaws.com", NODE_POLICIES, options);
  const cluster = new Cluster(
    name,
    {
      name,
      roleArn: control.role.arn,
      vpcConfig: { subnetIds: args.subnetIds, endpointPrivateAccess: true },
      accessConfig: {
        authenticationMode: "API",
        bootstrapClusterCreatorAdminPermissions: true,
      },
      bootstrapSelfManagedAddons: false,
      computeConfig: {
        enabled: true,
        nodePools: ["general-purpose", "system"],
        nodeRoleArn: nodes.role.arn,
      },
      kubernetesNetworkConfig: { elasticLoadBalancing: { enabled: true } },
      storageConfig: { blockStorage: { enabled: true } },
    },
    // Without the policies, it could delete none of what it has created.
    { ...options, dependsOn: [...control.attachments, ...nodes.attachments] },
  );
  return { server: cluster.endpoint, cluster };
}

/** What the control plane of Auto Mode needs, by the documentation of EKS. */
const CONTROL_POLICIES = [
  "AmazonEKSClusterPolicy",
  "AmazonEKSComputePolicy",
  "AmazonEKSBlockStoragePolicy",
  "AmazonEKSLoadBalancingPolicy",
  "AmazonEKSNetworkingPolicy",
];
const NODE_POLICIES = ["AmazonEKSWorkerNodeMinimalPolicy", "AmazonEC2ContainerRegistryPullOnly"];

/** Creates a role that a service of AWS may take, with policies that AWS manages. */
function roleFor(
  name: string,
  service: string,
  policies: string[],
  options?: pulumi.CustomResourceOptions,
): { role: Role; attachments: RolePolicyAttachment[] } {
  const statement = {
    Effect: "Allow",
    Principal: { Service: service },
    Action: ["sts:AssumeRole", "sts:TagSession"],
  };
  const assumeRolePolicy = JSON.stringify({ Version: "2012-10-17", Statement: [statement] });
  const role = new Role(name, { assumeRolePolicy }, options);
  const attachments = policies.map((policy) => {
    const policyArn = `arn:aws:iam::aws:policy/${policy}`;
    return new RolePolicyAttachment(`${name}-${policy}`, { role: role.name, policyArn }, options);
  });
  return { role, attachments };
}
