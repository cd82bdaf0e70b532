// A Deployment whose image another program sets.

import * as k8s from "@pulumi/kubernetes";
import * as pulumi from "@pulumi/pulumi";

/** A Deployment, as far as its declaration depends on its image. */
export interface DeploymentArgs {
  /** Its name, Namespace and labels. */
  metadata: { name: string; namespace: pulumi.Input<string>; labels: Record<string, string> };
  /** The number of pods. */
  replicas: pulumi.Input<number>;
  /** The first image. */
  image: pulumi.Input<string>;
  /** Returns the rest, with this image in each container, or with none. */
  spec: (image?: pulumi.Input<string>) => k8s.types.input.apps.v1.DeploymentSpec;
  /** The names of the containers, and of the init containers. */
  containers: string[];
  initContainers: string[];
}

/**
 * Declares a Deployment with a first image, which another program sets after that.
 *
 * The Deployment is declared without an image, so that the engine neither compares it nor applies
 * it. `ignoreChanges` would not do: the provider finds no field of a list by its index in what
 * server-side apply says of owners, so that each `up` that changes something else would be a conflict
 * about the image.
 *
 * So the first `up` applies it three times. The first time is with the image, by an owner of its own;
 * then without, by the engine; and then that owner keeps the image alone, and gives up the rest. The
 * pods are the same each time. Later, only the second one is ever applied again.
 */
export function deploymentOfOthers(
  name: string,
  args: DeploymentArgs,
  options: pulumi.CustomResourceOptions,
): k8s.apps.v1.Deployment {
  const annotations = {
    "pulumi.com/patchFieldManager": OWNER,
    // The Deployment itself waits for its pods.
    "pulumi.com/skipAwait": "true",
  };
  // Deleted with the Deployment.
  const once = { ...options, ignoreChanges: ["spec"], retainOnDelete: true };
  const whole = new k8s.apps.v1.DeploymentPatch(
    `${name}-first-image`,
    {
      metadata: { ...args.metadata, annotations },
      spec: { ...args.spec(args.image), replicas: args.replicas },
    },
    once,
  );
  // Unknown until the first `up`: the API server would reject one without an image.
  const replicas = pulumi.all([whole.id, args.replicas]).apply(([, replicas]) => replicas);
  const deployment = new k8s.apps.v1.Deployment(
    name,
    { metadata: args.metadata, spec: { ...args.spec(), replicas } },
    options,
  );
  const named = (names: string[]): { name: string; image: pulumi.Input<string> }[] =>
    names.map((name) => ({ name, image: args.image }));
  const spec = {
    containers: named(args.containers),
    initContainers: named(args.initContainers),
  };
  const { namespace } = args.metadata;
  new k8s.apps.v1.DeploymentPatch(
    `${name}-image`,
    { metadata: { name, namespace, annotations }, spec: { template: { spec } } },
    { ...once, dependsOn: deployment },
  );
  return deployment;
}

/** Who owns the first image in the API server's `managedFields`. */
const OWNER = "portcullis-first-image";
