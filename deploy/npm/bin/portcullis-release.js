#!/usr/bin/env node
// portcullis-release --manifest FILE --image REF --server URL: creates a release, and prints its name.

import { readFile } from "node:fs/promises";
import { parseArgs } from "node:util";

import { createRelease } from "../lib/release.js";

const HELP = `Create a release and print its name

Usage: portcullis-release --manifest FILE --image REF [--server URL]

  --manifest FILE   Manifests in YAML or JSON, with {{image}} where the image belongs
  --image REF       Image, such as registry.example.com/web:1.4
  --server URL      URL of the builder [env: PORTCULLIS_SERVER]
  --service NAME    Service; by default the name of the only Service in the manifests
  --commit COMMIT   Source commit
  --irreversible WHY
                    Why the release cannot be undone, such as a migration
  --reason TEXT     Reason, for the audit log
  --help            Print this help

The key for the builder is read from PORTCULLIS_TOKEN, and authorities of its certificate from the
file that PORTCULLIS_AUTHORITIES names. Exit status 1 means that there is no release.
`;

const NAMES = ["manifest", "image", "server", "service", "commit", "irreversible", "reason"];

try {
  const options = Object.fromEntries(NAMES.map((name) => [name, { type: "string" }]));
  const { values } = parseArgs({ options: { ...options, help: { type: "boolean" } } });
  if (values.help) {
    process.stdout.write(HELP);
  } else {
    const release = await createRelease(await withEnvironment(values));
    process.stdout.write(`${release.id}\n`);
  }
} catch (error) {
  process.stderr.write(`portcullis-release: ${error.message || error.code}\n`);
  process.exitCode = 1;
}

async function withEnvironment(values) {
  const { PORTCULLIS_SERVER, PORTCULLIS_TOKEN, PORTCULLIS_AUTHORITIES } = process.env;
  const server = values.server ?? PORTCULLIS_SERVER;
  const missing = ["manifest", "image"].filter((name) => values[name] === undefined);
  if (server === undefined) missing.push("server");
  if (missing.length > 0) {
    throw new Error(`set ${missing.map((name) => `--${name}`).join(", ")}; see --help`);
  }
  const authorities = PORTCULLIS_AUTHORITIES && (await readFile(PORTCULLIS_AUTHORITIES, "utf8"));
  return { ...values, server, token: PORTCULLIS_TOKEN, authorities };
}
