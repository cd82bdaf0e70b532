import assert from "node:assert/strict";
import { createPublicKey, sign, verify } from "node:crypto";
import { test } from "node:test";

import { KeyRotator } from "../src";
import {
  checkRotation,
  generateKey,
  isDue,
  keySet,
  rotate,
  signingKey,
  type SigningKey,
} from "../src/signingKeys";
import { declared } from "./mocks";

const HOUR = 3_600_000;
const ROTATION = { every: 10 * HOUR, overlap: 2 * HOUR };

function fake(now: number): SigningKey {
  return { id: `key-${now}`, createdAt: now, privateKey: "" };
}

test("a verifier whose key set is as old as the overlap knows every key that signs", () => {
  // Whatever the schedule: every hour, or with gaps that are longer than everything.
  for (const step of [HOUR, 3 * HOUR, 7 * HOUR, 13 * HOUR, 50 * HOUR]) {
    let keys: SigningKey[] = [];
    let published: { at: number; ids: string[] }[] = [];
    for (let now = 0; now < 500 * HOUR; now += step) {
      keys = rotate(keys, now, ROTATION, fake);
      published.push({ at: now, ids: keys.map(({ id }) => id) });
      const signer = signingKey(keys, now, ROTATION)?.id;
      assert.ok(signer !== undefined);
      const cached = published.filter(({ at }) => now - at <= ROTATION.overlap && at > 0);
      for (const { at, ids } of cached) {
        assert.ok(ids.includes(signer), `step ${step}: ${signer} at ${now}, seen at ${at}`);
      }
      assert.ok(keys.length <= 3, "keys do not pile up");
      published = published.filter(({ at }) => now - at <= ROTATION.overlap);
    }
  }
});

test("what was signed stays valid for the overlap", () => {
  let keys: SigningKey[] = [];
  const signed: { at: number; id: string }[] = [];
  for (let now = 0; now < 200 * HOUR; now += HOUR) {
    keys = rotate(keys, now, ROTATION, fake);
    signed.push({ at: now, id: signingKey(keys, now, ROTATION)?.id ?? "" });
    for (const { at, id } of signed.filter(({ at }) => now - at < ROTATION.overlap)) {
      assert.ok(keys.some((key) => key.id === id), `signed at ${at}, verified at ${now}`);
    }
  }
  assert.ok(new Set(signed.map(({ id }) => id)).size > 15, "keys rotate");
});

test("a rotation is due when keys change, or the one that signs", () => {
  const keys = rotate([], 0, ROTATION, fake);
  assert.ok(!isDue(keys, 9 * HOUR, ROTATION, "key-0"));
  assert.ok(isDue(keys, 10 * HOUR, ROTATION, "key-0"), "a new key");
  const two = rotate(keys, 10 * HOUR, ROTATION, fake);
  assert.ok(!isDue(two, 11 * HOUR, ROTATION, "key-0"));
  assert.ok(isDue(two, 12 * HOUR, ROTATION, "key-0"), "the new key signs");
  assert.ok(!isDue(two, 13 * HOUR, ROTATION, `key-${10 * HOUR}`));
  assert.ok(isDue(two, 14 * HOUR, ROTATION, `key-${10 * HOUR}`), "the old key goes");
});

test("an overlap that leaves no time to sign is an error", () => {
  for (const rotation of [
    { every: 3, overlap: 2 },
    { every: 1, overlap: 0 },
    { every: Number.NaN, overlap: 1 },
  ]) {
    assert.throws(() => {
      checkRotation(rotation);
    }, /at least twice the overlap/);
  }
});

test("the key set verifies signatures, and has no private part", () => {
  const key = generateKey(0);
  const signature = sign("sha256", Buffer.from("text"), key.privateKey);
  const [jwk] = keySet([key]).keys;
  assert.ok(jwk !== undefined && !("d" in jwk));
  assert.equal(jwk["kid"], key.id);
  const publicKey = createPublicKey({ key: jwk, format: "jwk" });
  assert.ok(verify("sha256", Buffer.from("text"), publicKey, signature));
});

test("each Namespace gets the Secret", async () => {
  const resources = await declared(() => new KeyRotator("keys", { namespaces: ["dev", "staging"] }));
  const secrets = resources.filter(({ type }) => type === "kubernetes:core/v1:Secret");
  const names = secrets.map(({ inputs }) => inputs["metadata"]);
  assert.deepEqual(names, [
    { name: "signing-keys", namespace: "dev" },
    { name: "signing-keys", namespace: "staging" },
  ]);
});
