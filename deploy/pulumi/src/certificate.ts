import * as k8s from "@pulumi/kubernetes";
import type * as pulumi from "@pulumi/pulumi";

/** A certificate for hostnames of a service. */
export interface CertificateArgs {
  /** The chain in PEM, leaf first. */
  certificate: pulumi.Input<string>;
  /** The private key in PEM. */
  key: pulumi.Input<string>;
  /** The Namespace of the gateway; the default is `portcullis`. */
  gatewayNamespace?: pulumi.Input<string>;
  /** The gateway's ServiceAccount; the default is `portcullis`. */
  gatewayAccount?: pulumi.Input<string>;
}

/**
 * Stores a certificate in the Secret `NAME-tls`, and lets the gateway read this one.
 *
 * The gateway loads it if its configuration has the Secret among its `certificates`.
 */
export function certificateSecret(
  name: string,
  namespace: pulumi.Input<string>,
  args: CertificateArgs,
  options: pulumi.CustomResourceOptions,
): k8s.core.v1.Secret {
  const metadata = { name: `${name}-tls`, namespace };
  const secret = new k8s.core.v1.Secret(
    metadata.name,
    {
      metadata,
      type: "kubernetes.io/tls",
      stringData: { "tls.crt": args.certificate, "tls.key": args.key },
    },
    // The key is a secret of the state, whether the caller marked it or not.
    { ...options, additionalSecretOutputs: ["stringData", "data"] },
  );
  const resources = { resources: ["secrets"], resourceNames: [metadata.name] };
  new k8s.rbac.v1.Role(
    metadata.name,
    { metadata, rules: [{ apiGroups: [""], ...resources, verbs: ["list", "watch"] }] },
    options,
  );
  new k8s.rbac.v1.RoleBinding(
    metadata.name,
    {
      metadata,
      roleRef: { apiGroup: "rbac.authorization.k8s.io", kind: "Role", name: metadata.name },
      subjects: [
        {
          kind: "ServiceAccount",
          name: args.gatewayAccount ?? "portcullis",
          namespace: args.gatewayNamespace ?? "portcullis",
        },
      ],
    },
    options,
  );
  return secret;
}
