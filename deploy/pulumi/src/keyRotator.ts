import * as k8s from "@pulumi/kubernetes";
import * as pulumi from "@pulumi/pulumi";

import {
  checkRotation,
  generateKey,
  isDue,
  keySet,
  rotate,
  signingKey,
  type Rotation,
  type SigningKey,
} from "./signingKeys";

/** What a key rotator is declared with. */
export interface KeyRotatorArgs {
  /** The Namespaces that get the Secret: those of the environments whose services sign. */
  namespaces: string[];
  /** The name of the Secret; the default is `signing-keys`. */
  secretName?: string;
  /** The days from one key to the next; the default is 30. */
  everyDays?: number;
  /**
   * The hours that a key is published before it signs, and after it has signed; the default is 24.
   * It must be longer than verifiers keep a key set, and than what is signed is valid.
   */
  overlapHours?: number;
}

/**
 * Keys with which services sign, rotated by each `pulumi up` that finds one due.
 *
 * The Secret has the files `signing.pem` (the private key that signs), `kid` (its identifier) and
 * `jwks.json` (the public keys that verifiers need: of the last key, this one, and the next). Run
 * `pulumi up` by a schedule, more often than `overlapHours`.
 */
export class KeyRotator extends pulumi.ComponentResource {
  /** The public keys, as a key set (RFC 7517) in JSON. */
  public readonly jwks: pulumi.Output<string>;

  public constructor(
    name: string,
    args: KeyRotatorArgs,
    options?: pulumi.ComponentResourceOptions,
  ) {
    super("portcullis:index:KeyRotator", name, {}, options);
    const { everyDays = 30, overlapHours = 24, secretName = "signing-keys" } = args;
    const rotation = { every: everyDays * 86_400_000, overlap: overlapHours * 3_600_000 };
    checkRotation(rotation);
    const keys = new RotatedKeys(`${name}-keys`, rotation, { parent: this });
    for (const namespace of args.namespaces) {
      new k8s.core.v1.Secret(
        `${name}-${namespace}`,
        {
          metadata: { name: secretName, namespace },
          stringData: { "signing.pem": keys.signing, kid: keys.kid, "jwks.json": keys.jwks },
        },
        { parent: this },
      );
    }
    this.jwks = keys.jwks;
    this.registerOutputs({ jwks: this.jwks });
  }
}

interface KeyState extends Rotation {
  keys: SigningKey[];
  signing: string;
  kid: string;
  jwks: string;
}

/** Keeps the keys in the state, encrypted, and rotates them by the clock. */
const keyProvider: pulumi.dynamic.ResourceProvider<Rotation, KeyState> = {
  create(rotation) {
    return Promise.resolve({ id: "signing-keys", outs: keyState([], rotation, Date.now()) });
  },
  diff(_id, { keys, kid, ...old }, rotation) {
    const altered = old.every !== rotation.every || old.overlap !== rotation.overlap;
    return Promise.resolve({ changes: altered || isDue(keys, Date.now(), rotation, kid) });
  },
  update(_id, { keys }, rotation) {
    return Promise.resolve({ outs: keyState(keys, rotation, Date.now()) });
  },
};

function keyState(before: SigningKey[], rotation: Rotation, now: number): KeyState {
  const keys = rotate(before, now, rotation, generateKey);
  const signer = signingKey(keys, now, rotation);
  return {
    every: rotation.every,
    overlap: rotation.overlap,
    keys,
    signing: signer?.privateKey ?? "",
    kid: signer?.id ?? "",
    jwks: JSON.stringify(keySet(keys)),
  };
}

class RotatedKeys extends pulumi.dynamic.Resource {
  declare public readonly signing: pulumi.Output<string>;
  declare public readonly kid: pulumi.Output<string>;
  declare public readonly jwks: pulumi.Output<string>;

  public constructor(name: string, rotation: Rotation, options: pulumi.CustomResourceOptions) {
    const outputs = { keys: undefined, signing: undefined, kid: undefined, jwks: undefined };
    const secret = ["keys", "signing"];
    super(
      keyProvider,
      name,
      { ...outputs, ...rotation },
      { ...options, additionalSecretOutputs: secret },
    );
  }
}
