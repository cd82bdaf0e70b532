import * as k8s from "@pulumi/kubernetes";
import * as pulumi from "@pulumi/pulumi";

import { accessAnnotations, type Access } from "./access";
import { certificateSecret, type CertificateArgs } from "./certificate";
import { deploymentOfOthers, type DeploymentArgs } from "./firstImage";

/** A service of an environment. Each field may be an output, unless it says what is declared. */
export interface AppServiceArgs {
  /** The Namespace of the environment. */
  namespace: pulumi.Input<string>;
  /** The registry that the nodes pull from, such as `registry.example.com`. */
  registry: pulumi.Input<string>;
  /** The image in the registry, such as `shop/web`. */
  imageSlug: pulumi.Input<string>;
  /** Its tag, or its digest (`sha256:…`). */
  imageTag: pulumi.Input<string>;
  /**
   * Who sets the image after the first `up`. `pulumi` (the default): this stack. `portcullis`: the
   * release builder or `kubectl`. Then `imageTag` is that of the first `up` alone, and `up` neither
   * compares nor changes the image, that of migrations included.
   */
  imageOwner?: "pulumi" | "portcullis";
  /** The names of Secrets with the registry's credentials. */
  pullSecrets?: pulumi.Input<string>[];
  /** The number of pods; the default is 2. */
  replicas?: pulumi.Input<number>;
  /** The container's port, which serves HTTP; the default is 8080. */
  port?: pulumi.Input<number>;
  /** The path that is ready when the pod is; by default, its port must be open. */
  readinessPath?: pulumi.Input<string>;
  /** Environment variables that the program does not start without: an empty value is an error. */
  requiredEnv?: Record<string, pulumi.Input<string>>;
  /** Further environment variables. Like the required ones, they are stored in a Secret. */
  extraEnv?: Record<string, pulumi.Input<string>>;
  /** Keys with which the service signs, as files. */
  signingKeys?: SigningKeysMount;
  /** How the database is migrated before the program starts. */
  migrations?: Migrations;
  /** A certificate for hostnames of the service that the zone's does not cover. */
  certificate?: CertificateArgs;
  /** Who may access the service, of those that its environment allows. */
  access?: Access;
  /** Further annotations of the Service, such as `portcullis.dev/timeout`. */
  annotations?: Record<string, pulumi.Input<string>>;
  /** Requests and limits of the container. */
  resources?: pulumi.Input<k8s.types.input.core.v1.ResourceRequirements>;
}

/** A Secret with keys, such as that of a key rotator, which rotates them while pods run. */
export interface SigningKeysMount {
  /** The Secret, in the Namespace of the environment. */
  secretName: pulumi.Input<string>;
  /** The folder with one file for each of its keys; the default is `/etc/signing-keys`. */
  mountPath?: pulumi.Input<string>;
}

/**
 * A command of the same image, run in an init container of every pod. Pods may run it at the same
 * time, so it must take a lock, as the usual tools do.
 */
export interface Migrations {
  /** Whether it runs. */
  enabled: boolean;
  /** The program and its arguments. */
  command: pulumi.Input<string>[];
}

/**
 * A service of an environment, exposed by the gateway: Deployment, Service, and Secrets.
 *
 * A changed variable is a new Secret, so that it rolls the pods like a changed image.
 */
export class AppService extends pulumi.ComponentResource {
  /** The name of the Deployment. */
  public readonly deployment: pulumi.Output<string>;
  /** The name of the Service. */
  public readonly service: pulumi.Output<string>;
  /** The image that the stack declares. */
  public readonly image: pulumi.Output<string>;

  public constructor(
    name: string,
    args: AppServiceArgs,
    options?: pulumi.ComponentResourceOptions,
  ) {
    // Without its arguments, which the state would have in plain text.
    super("portcullis:index:AppService", name, {}, options);
    this.image = pulumi
      .all([args.registry, args.imageSlug, args.imageTag])
      .apply(([registry, slug, tag]) => imageReference(registry, slug, tag));
    const variables = environmentVariables(name, args);
    const labels = { "app.kubernetes.io/name": name };
    const metadata = { name, namespace: args.namespace, labels };
    const environment = new k8s.core.v1.Secret(
      `${name}-environment`,
      // Without a name of its own, it gets one with a random end; being immutable, it is replaced.
      {
        metadata: { namespace: args.namespace },
        immutable: true,
        stringData: pulumi.secret(variables),
      },
      { parent: this },
    );
    const replicas = args.replicas ?? 2;
    const spec: DeploymentArgs["spec"] = (image) => ({
      replicas,
      selector: { matchLabels: labels },
      // A new pod is ready before an old one stops.
      strategy: { rollingUpdate: { maxSurge: 1, maxUnavailable: 0 } },
      template: { metadata: { labels }, spec: podSpec(args, environment, image) },
    });
    const { image } = this;
    const containers = [APP];
    const initContainers = args.migrations?.enabled === true ? [MIGRATIONS] : [];
    const deployment =
      args.imageOwner === "portcullis"
        ? deploymentOfOthers(
            name,
            { metadata, replicas, image, spec, containers, initContainers },
            { parent: this },
          )
        : new k8s.apps.v1.Deployment(name, { metadata, spec: spec(image) }, { parent: this });
    const service = new k8s.core.v1.Service(
      name,
      {
        metadata: {
          ...metadata,
          annotations: {
            "portcullis.dev/expose": "true",
            ...accessAnnotations(args.access),
            ...args.annotations,
          },
        },
        spec: { selector: labels, ports: [{ name: "http", port: 80, targetPort: "http" }] },
      },
      { parent: this },
    );
    if (args.certificate !== undefined) {
      certificateSecret(name, args.namespace, args.certificate, { parent: this });
    }
    this.deployment = deployment.metadata.name;
    this.service = service.metadata.name;
    this.registerOutputs({ deployment: this.deployment, service: this.service, image });
  }
}

/** The names of the containers. */
const APP = "app";
const MIGRATIONS = "migrations";

/**
 * Returns the reference of an image.
 *
 * @throws {Error} if the tag is missing, or moves: a preview could not show what changes
 */
export function imageReference(registry: string, slug: string, tag: string): string {
  if (tag === "" || tag === "latest") {
    throw new Error(`the image ${slug} needs a tag that never moves, and has "${tag}"`);
  }
  return `${registry}/${slug}${tag.startsWith("sha256:") ? "@" : ":"}${tag}`;
}

/**
 * Returns all variables of a service.
 *
 * @throws {Error} which names a required one that is empty, or one that is given twice
 */
function environmentVariables(
  name: string,
  { requiredEnv = {}, extraEnv = {} }: AppServiceArgs,
): Record<string, pulumi.Input<string>> {
  const both = Object.keys(requiredEnv).filter((variable) => variable in extraEnv);
  if (both.length > 0) {
    throw new Error(`${name}: ${both.join(", ")} is in requiredEnv, and in extraEnv too`);
  }
  const notEmpty = (variable: string, value: string): string => {
    if (value === "") {
      throw new Error(`${name}: the required variable ${variable} is empty`);
    }
    return value;
  };
  const required = Object.entries(requiredEnv).map(([variable, value]) => [
    variable,
    typeof value === "string"
      ? notEmpty(variable, value)
      : pulumi.output(value).apply((value) => notEmpty(variable, value)),
  ]);
  return { ...(Object.fromEntries(required) as typeof requiredEnv), ...extraEnv };
}

function podSpec(
  args: AppServiceArgs,
  environment: k8s.core.v1.Secret,
  image?: pulumi.Input<string>,
): k8s.types.input.core.v1.PodSpec {
  const { signingKeys, migrations, pullSecrets = [] } = args;
  const shared = {
    ...(image === undefined ? {} : { image }),
    envFrom: [{ secretRef: { name: environment.metadata.name } }],
    resources: args.resources ?? { requests: { cpu: "50m", memory: "64Mi" } },
    securityContext: {
      allowPrivilegeEscalation: false,
      capabilities: { drop: ["ALL"] },
    },
    volumeMounts: signingKeys
      ? [
          {
            name: "signing-keys",
            mountPath: signingKeys.mountPath ?? "/etc/signing-keys",
            readOnly: true,
          },
        ]
      : [],
  };
  const migration = { ...shared, name: MIGRATIONS, command: migrations?.command ?? [] };
  return {
    // The service has no business with the API server.
    automountServiceAccountToken: false,
    securityContext: { runAsNonRoot: true, seccompProfile: { type: "RuntimeDefault" } },
    imagePullSecrets: pullSecrets.map((name) => ({ name })),
    initContainers: migrations?.enabled ? [migration] : [],
    containers: [
      {
        ...shared,
        name: APP,
        ports: [{ name: "http", containerPort: args.port ?? 8080 }],
        readinessProbe: {
          periodSeconds: 2,
          ...(args.readinessPath === undefined
            ? { tcpSocket: { port: "http" } }
            : { httpGet: { path: args.readinessPath, port: "http" } }),
        },
      },
    ],
    volumes: signingKeys
      ? [{ name: "signing-keys", secret: { secretName: signingKeys.secretName } }]
      : [],
  };
}
