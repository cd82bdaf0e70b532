import { generateKeyPairSync, createPublicKey, createHash, type JsonWebKey } from "node:crypto";

/** A signing key (ECDSA with P-256 and SHA-256, RFC 7518 §3.4). */
export interface SigningKey {
  /** Its thumbprint (RFC 7638), which is the `kid` of what it signs. */
  id: string;
  /** When it was created, in milliseconds since 1970. */
  createdAt: number;
  /** The private key in PEM (PKCS #8). */
  privateKey: string;
}

/** How keys are rotated. Times are in milliseconds. */
export interface Rotation {
  /** The time from one key to the next. */
  every: number;
  /**
   * How long a key is published before it signs, and after it has signed: the time that verifiers
   * keep a key set, or that what was signed is valid, whichever is longer.
   */
  overlap: number;
}

/**
 * Checks a rotation.
 *
 * @throws {Error} if keys would not sign for as long as they wait to
 */
export function checkRotation({ every, overlap }: Rotation): void {
  if (!(overlap > 0 && every >= 2 * overlap)) {
    throw new Error("the time between two keys must be at least twice the overlap");
  }
}

/**
 * Returns the keys after a rotation at `now`, the oldest first.
 *
 * Without a key, or if the newest one is older than `every`, a new one is added. A key is removed
 * once its successor has signed for `overlap`.
 */
export function rotate(
  keys: readonly SigningKey[],
  now: number,
  rotation: Rotation,
  generate: (now: number) => SigningKey,
): SigningKey[] {
  const newest = keys.at(-1);
  const due = newest === undefined || now - newest.createdAt >= rotation.every;
  const all = due ? [...keys, generate(now)] : [...keys];
  return all.filter((_, index) => {
    const successor = all[index + 1];
    return successor === undefined || now < successor.createdAt + 2 * rotation.overlap;
  });
}

/** Whether `rotate` would return other keys, or another one signs than the one that `signer` is. */
export function isDue(
  keys: readonly SigningKey[],
  now: number,
  rotation: Rotation,
  signer: string,
): boolean {
  const after = rotate(keys, now, rotation, (now) => ({ id: "", createdAt: now, privateKey: "" }));
  const same = after.length === keys.length && after.every(({ id }, at) => id === keys[at]?.id);
  return !same || signingKey(keys, now, rotation)?.id !== signer;
}

/**
 * Returns the key that signs: the newest one that has been published for `overlap`, so that every
 * verifier has it; else the oldest, which is the first one of all.
 */
export function signingKey(
  keys: readonly SigningKey[],
  now: number,
  { overlap }: Rotation,
): SigningKey | undefined {
  const published = keys.filter(({ createdAt }) => now - createdAt >= overlap);
  return published.at(-1) ?? keys[0];
}

/** Returns the key set that verifiers read (RFC 7517), with public keys alone. */
export function keySet(keys: readonly SigningKey[]): { keys: JsonWebKey[] } {
  const entries = keys.map(({ id, privateKey }) => ({
    ...createPublicKey(privateKey).export({ format: "jwk" }),
    kid: id,
    alg: "ES256",
    use: "sig",
  }));
  return { keys: entries };
}

/** Generates a key. */
export function generateKey(now: number): SigningKey {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const { crv, kty, x, y } = publicKey.export({ format: "jwk" });
  // The members of the thumbprint, in their order (RFC 7638 §3.2).
  const members = JSON.stringify({ crv, kty, x, y });
  const id = createHash("sha256").update(members).digest("base64url");
  const pem = privateKey.export({ format: "pem", type: "pkcs8" });
  return { id, createdAt: now, privateKey: pem.toString() };
}
