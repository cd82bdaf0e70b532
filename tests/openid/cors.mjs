// cors.mjs MODULES CHROMIUM PORT KEY: calls a service that requires a caller from pages of other origins in Chromium, with and without a bearer token.
//
// Ends with 0 if the browser let the scripts of the listed origin read the responses to admitted requests, and nothing else.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, executablePath, port, key] = process.argv.slice(2);
const puppeteer = createRequire(`${modules}/`)("puppeteer-core");
const LISTED = "https://app.example.com";
const OTHER = "https://evil.example";

const browser = await puppeteer.launch({
  executablePath,
  args: [
    "--no-sandbox",
    "--host-resolver-rules=MAP *.apps.test 127.0.0.1",
    "--ignore-certificate-errors",
    "--disable-dev-shm-usage",
    // The pages are nowhere and the gateway is on the loopback: no real page is in this position.
    "--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests,PrivateNetworkAccessSendPreflights",
  ],
});

/** An empty page of an origin, which no server has. */
async function pageOf(origin) {
  const page = await browser.newPage();
  await page.setRequestInterception(true);
  page.on("request", (request) => {
    if (request.url().startsWith(origin)) request.respond({ contentType: "text/html", body: "<!doctype html><title>app</title>" });
    else request.continue();
  });
  await page.goto(`${origin}/`);
  return page;
}

/** What a script of the page learns from a call: status and text, or that it failed. */
async function call(page, service, { method = "GET", headers = {} } = {}) {
  const url = `https://${service}.apps.test:${port}/whoami`;
  const read = async (url, options) => {
    try {
      const response = await fetch(url, options);
      return [response.status, await response.text()];
    } catch (error) {
      return error.name;
    }
  };
  return page.evaluate(read, url, { method, headers });
}

const authorization = `Bearer ${key}`;
const app = await pageOf(LISTED);
assert.deepEqual(await call(app, "web--closed", { headers: { authorization } }), [200, "pod-1\n"]);
const [status] = await call(app, "web--closed", { method: "PUT", headers: { authorization, "x-version": "2" } });
assert.equal(typeof status, "number", "a preflight allowed another method and another header");
for (const [why, service, options] of [
  ["without a token", "web--closed", {}],
  ["with an unknown token", "web--closed", { headers: { authorization: "Bearer x" } }],
  ["a service that is not there", "web--absent", { headers: { authorization } }],
]) assert.equal(await call(app, service, options), "TypeError", why);

const evil = await pageOf(OTHER);
for (const options of [{ headers: { authorization } }, {}]) assert.equal(await call(evil, "web--closed", options), "TypeError", "another origin");
await browser.close();
