// Creates a release through the API of a Portcullis release builder.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import http from "node:http";
import https from "node:https";
import { setTimeout as delay } from "node:timers/promises";

/** The size of a manifest file that the builder accepts, in bytes. */
const MAX_MANIFEST = 512 * 1024;
const MAX_RESPONSE = 1024 * 1024;
/** The builder asks the registry before it answers. */
const TIMEOUT_MS = 120_000;
const ATTEMPTS = 4;
const TEMPORARY = [
  "ECONNREFUSED", "ECONNRESET", "EPIPE", "ETIMEDOUT", "EAI_AGAIN", "ENETUNREACH", "EHOSTUNREACH",
];

/**
 * Creates a release, and returns it as the API describes it (`id`, `image` with its digest, …).
 *
 * A request that may not have arrived is repeated with the same `Idempotency-Key`, so that there is
 * one release at most.
 *
 * @param {object} options
 * @param {string} options.manifest the file with the manifests, in YAML or JSON
 * @param {string} options.image the image, such as `registry.example.com/web:1.4`
 * @param {string} options.server the URL of the builder; `http:` on this machine only
 * @param {string} options.token a key of the builder
 * @param {string} [options.service] the service; by default the only Service of the manifests
 * @param {string} [options.commit] the source commit
 * @param {string} [options.irreversible] why the release cannot be undone, if it cannot
 * @param {string} [options.reason] for the audit log
 * @param {string} [options.authorities] the content of a PEM file with the authorities of the
 *   builder's certificate, instead of those of Node.js
 * @throws {Error} with every problem that the builder reports
 */
export async function createRelease(options) {
  const { manifest, image, service, commit, irreversible, reason, token, authorities } = options;
  const url = endpoint(options.server);
  if (!token) throw new Error("set PORTCULLIS_TOKEN to a key of the builder");
  const template = await readFile(manifest, "utf8");
  if (Buffer.byteLength(template) > MAX_MANIFEST) {
    throw new Error(`${manifest} has more than ${MAX_MANIFEST} bytes`);
  }
  const body = JSON.stringify({ template, image, service, commit, irreversible, reason });
  const headers = {
    authorization: `Bearer ${token}`,
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    "idempotency-key": randomUUID(),
  };
  const response = await repeatedly(() => post(url, headers, body, authorities));
  const value = parse(response.body);
  if (response.status !== 200 && response.status !== 201) {
    throw new Error(describe(response.status, value));
  }
  if (typeof value?.id !== "string") throw new Error(`${url.origin} is not a release builder`);
  return value;
}

/** The URL that creates releases. A key is sent over TLS, or not beyond this machine. */
function endpoint(server) {
  const url = new URL(server);
  const isLocal = ["127.0.0.1", "[::1]", "localhost"].includes(url.hostname);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && isLocal)) {
    throw new Error(`${server} is not an https: URL, so the key would be sent in clear`);
  }
  url.pathname = `${url.pathname.replace(/\/+$/, "")}/api/v1/releases`;
  return url;
}

/** Repeats what failed for lack of a connection, or because the builder was not available. */
async function repeatedly(send) {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const response = await send();
      if (attempt === ATTEMPTS || ![429, 502, 503, 504].includes(response.status)) return response;
    } catch (error) {
      if (attempt === ATTEMPTS || !TEMPORARY.includes(error.code)) throw error;
    }
    await delay(500 * 2 ** attempt * (0.5 + Math.random() / 2));
  }
}

/** Sends a POST; redirects are not followed, since they would take the key elsewhere. */
function post(url, headers, body, authorities) {
  const client = url.protocol === "https:" ? https : http;
  return new Promise((resolve, reject) => {
    const options = { method: "POST", headers, ca: authorities, timeout: TIMEOUT_MS };
    const request = client.request(url, options, (response) => {
      const chunks = [];
      let size = 0;
      response.on("data", (chunk) => {
        size += chunk.length;
        if (size > MAX_RESPONSE) request.destroy(new Error("the response is too large"));
        chunks.push(chunk);
      });
      response.on("error", reject);
      response.on("end", () => {
        resolve({ status: response.statusCode, body: Buffer.concat(chunks).toString("utf8") });
      });
    });
    request.on("timeout", () => request.destroy(new Error(`${url.origin} does not respond`)));
    request.on("error", reject);
    request.end(body);
  });
}

function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A problem (RFC 9457) with all its parts, one a line, without control characters. */
function describe(status, problem) {
  if (typeof problem?.detail !== "string") return `the builder returned status ${status}`;
  const parts = Array.isArray(problem.problems) ? problem.problems : [];
  const lines = parts.map((part) => {
    const place = part.pointer ?? (part.line === undefined ? undefined : `line ${part.line}`);
    return `  ${place === undefined ? "" : `${place}: `}${part.message} (${part.help})`;
  });
  // eslint-disable-next-line no-control-regex
  return [problem.detail, ...lines].join("\n").replace(/[\u0000-\u0009\u000b-\u001f\u007f-\u009f]/g, "?");
}
