// browser.mjs MODULES CHROMIUM PORT FOLDER JOURNEY: goes through a login in Chromium, and keeps pictures of the pages in FOLDER.
//
// JOURNEY is `whole`, or `expiry` for a gateway whose sessions last for a few seconds. Ends with 0 if everything was as it should be.
import assert from "node:assert/strict";
import { createRequire } from "node:module";

const [modules, executablePath, port, folder, journey] = process.argv.slice(2);
const puppeteer = createRequire(`${modules}/`)("puppeteer-core");
const url = (host, path = "/") => `https://${host}.apps.test:${port}${path}`;
const WIDE = { width: 1024, height: 720 };
const SMALL = { width: 360, height: 640, deviceScaleFactor: 2, isMobile: true };

const browser = await puppeteer.launch({
  executablePath,
  args: ["--no-sandbox", "--host-resolver-rules=MAP *.apps.test 127.0.0.1", "--ignore-certificate-errors", "--disable-dev-shm-usage"],
});
const page = await browser.newPage();
await page.setViewport(WIDE);

// What the gateway's own pages ask for, and what the browser complains about on them.
const asked = new Set();
const complaints = [];
page.on("request", (request) => asked.add(new URL(request.url()).origin));
page.on("console", (message) => {
  if (/Content Security Policy/.test(message.text())) complaints.push(message.text());
});

const text = () => page.$eval("body", (body) => body.innerText);
const title = () => page.$eval("h1", (heading) => heading.innerText);

async function go(to) {
  return (await page.goto(to)).status();
}

/** Follows a link or presses a button by its text. */
async function press(label) {
  const found = await page.$(`::-p-xpath(//a[normalize-space()="${label}"] | //a[strong="${label}"] | //button[normalize-space()="${label}"])`);
  assert(found, `no ${label} on ${page.url()}: ${await text()}`);
  const [answer] = await Promise.all([page.waitForNavigation(), found.click()]);
  return answer.status();
}

/** A picture in light and dark, on a wide and a small screen; what has to hold on all of them. */
async function look(name) {
  assert.equal(await page.$eval("html", (html) => html.lang), "en");
  assert.equal((await page.$$("h1")).length, 1, "one heading");
  assert.equal((await page.$$("main")).length, 1, "one main part");
  for (const [size, viewport] of [["wide", WIDE], ["small", SMALL]]) {
    await page.setViewport(viewport);
    for (const scheme of ["light", "dark"]) {
      await page.emulateMediaFeatures([{ name: "prefers-color-scheme", value: scheme }]);
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
      assert(overflow <= 0, `${name} is ${overflow} pixels too wide on a ${size} screen`);
      const low = await page.evaluate(lowContrast);
      assert.deepEqual(low, [], `${name} in ${scheme} has text that is hard to read`);
      await page.screenshot({ path: `${folder}/${name}-${size}-${scheme}.png` });
    }
  }
  await page.emulateMediaFeatures([]);
  await page.setViewport(WIDE);
}

/** Texts with less contrast than WCAG 2.2 AA wants (4.5 to 1). Runs in the page. */
function lowContrast() {
  const channels = (color) => (color.match(/[\d.]+/g) ?? []).map(Number);
  const luminance = (color) => {
    const [red, green, blue] = channels(color).map((value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const color = getComputedStyle(at).backgroundColor;
      if (channels(color)[3] !== 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  return [...document.querySelectorAll("body *")]
    .filter((element) => [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((element) => {
      const [one, other] = [luminance(getComputedStyle(element).color), luminance(ground(element))];
      return [element.innerText, (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05)];
    })
    .filter(([, contrast]) => contrast < 4.5);
}

async function logIn(name) {
  const field = await page.$("input[name=login]");
  if (field) await field.type(name);
  return press("Continue");
}

async function whole() {
  // A deep link: refused, signed in, and back where she was going.
  assert.equal(await go(url("crm--closed", "/echo/deep?a=b")), 404);
  assert.equal(await title(), "There is nothing here");
  await look("hidden");
  await press("Sign in");
  assert.equal(await logIn("ann"), 200);
  assert.equal(page.url(), url("crm--closed", "/echo/deep?a=b"));
  assert.match(await text(), /ann@example\.com/);
  assert.equal(await page.evaluate(() => document.cookie), "", "no script sees the session");

  // What she may use, and nothing else.
  assert.equal(await go(url("login")), 200);
  assert.match(await text(), /Signed in as ann/);
  assert.doesNotMatch(await text(), /biz--closed/);
  await look("home");
  assert.equal(await press("crm"), 200);
  assert.equal(page.url(), url("crm--closed"));
  assert.equal(await go(url("biz--closed", "/")), 404);

  // A sibling host cannot toss in a cookie.
  await go(url("web--staging", "/whoami"));
  const tossed = await page.evaluate(() => {
    for (const attributes of ["Domain=apps.test; Path=/; Secure", "Domain=apps.test; Path=/", "Path=/echo; Secure", "Path=/"]) {
      document.cookie = `__Host-portcullis=tossed; ${attributes}`;
    }
    return document.cookie;
  });
  assert.equal(tossed, "");
  assert.equal(await go(url("crm--closed", "/whoami")), 200);

  // Nor sign her out, or read the portal's pages.
  await go(url("web--staging", "/whoami"));
  const crossed = await page.evaluate(async (to) => {
    const answer = await fetch(to, { method: "POST", mode: "no-cors", credentials: "include", body: new URLSearchParams({ token: "x" }) });
    return answer.type;
  }, url("login", "/logout"));
  assert.equal(crossed, "opaque");
  assert.equal(await go(url("crm--closed", "/whoami")), 200);

  // Signed out by herself: everywhere.
  await go(url("login"));
  await press("Sign out");
  assert.equal(await title(), "Sign out?");
  await look("sign-out");
  await press("Sign out");
  assert.equal(await title(), "You are signed out");
  await look("signed-out");
  assert.equal(await go(url("crm--closed", "/whoami")), 404);
  await go(url("login"));
  assert.equal(await title(), "Sign in");
  await look("welcome");

  // She changes her mind at the provider.
  await press("Sign in");
  assert.equal(await press("Cancel"), 403);
  assert.equal(await title(), "You are not signed in");
  await look("refused");
}

async function expiry() {
  assert.equal(await go(url("crm--closed", "/whoami")), 404);
  await press("Sign in");
  assert.equal(await logIn("ann"), 200);
  const deadline = Date.now() + 60_000;
  do {
    assert(Date.now() < deadline, "the session does not end");
    await new Promise((resolve) => setTimeout(resolve, 5_500));
  } while ((await go(url("crm--closed", "/whoami"))) !== 404);
  await press("Sign in");
  assert.equal(await logIn("ann"), 200);
  assert.equal(page.url(), url("crm--closed", "/whoami"));
}

try {
  await { whole, expiry }[journey]();
  assert.deepEqual(complaints, []);
  const foreign = [...asked].filter((origin) => !origin.endsWith(`.apps.test:${port}`) && !origin.startsWith("http://127.0.0.1:"));
  assert.deepEqual(foreign, [], "nothing is asked for elsewhere");
} catch (error) {
  await page.screenshot({ path: `${folder}/failed.png` }).catch(() => {});
  console.error(page.url(), error);
  process.exitCode = 1;
} finally {
  await browser.close();
}
