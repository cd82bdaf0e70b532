// provider.mjs MODULES PORT: an OpenID provider on a free port of the loopback, for a gateway whose HTTPS is on PORT.
//
// Prints its own port, and then every request that it gets, a line each. Accounts are what is typed: `ann` is ann@example.com of the groups
// `ops` and `dev`, `bob` is bob@example.com of `sales`, `many` is of 200 groups and then `ops`, `mallory` has an address that nobody verified. POST /tests/forget makes it forget all grants.
import { createRequire } from "node:module";
import { createServer } from "node:http";
import { request } from "node:https";
import { generateKeyPairSync } from "node:crypto";

const [modules, gatewayPort] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const { Provider } = await import(require.resolve("oidc-provider"));

const many = Array.from({ length: 200 }, (_, number) => `department-${number}-of-a-large-company`);
const groups = { ann: ["ops", "dev"], bob: ["sales"], many: [...many, "ops"] };
const portal = `https://login.apps.test:${gatewayPort}`;
const grants = new Set();

// Hosts of the tests' zone are on the loopback, with certificates of the tests' own.
function fetch(url, { method = "GET", headers, body } = {}) {
  return new Promise((resolve, reject) => {
    const { hostname, port, pathname, search } = new URL(url);
    const options = { method, host: "127.0.0.1", port, path: pathname + search, servername: hostname, rejectUnauthorized: false };
    options.headers = { ...Object.fromEntries(new Headers(headers)), host: `${hostname}:${port}` };
    const sent = request(options, (answer) => {
      answer.resume();
      answer.on("end", () => resolve(new Response(null, { status: answer.statusCode })));
    });
    sent.on("error", reject);
    sent.end(body ? String(body) : undefined);
  });
}

function configure() {
  const signing = generateKeyPairSync("ec", { namedCurve: "P-256" }).privateKey.export({ format: "jwk" });
  return {
    clients: [{
      client_id: "portcullis",
      client_secret: "a secret: of the client",
      redirect_uris: [`${portal}/callback`],
      grant_types: ["authorization_code", "refresh_token"],
      id_token_signed_response_alg: "ES256",
      backchannel_logout_uri: `${portal}/backchannel-logout`,
      backchannel_logout_session_required: true,
      post_logout_redirect_uris: [`${portal}/`],
    }, {
      // The command line's: a public one, whose ID tokens are over at once as it sees it.
      client_id: "portcullis-cli",
      application_type: "native",
      token_endpoint_auth_method: "none",
      redirect_uris: ["http://127.0.0.1/callback"],
      grant_types: ["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
      id_token_signed_response_alg: "ES256",
    }],
    ttl: { IdToken: (_context, _token, client) => client.clientId === "portcullis-cli" ? 20 : 3600 },
    jwks: { keys: [{ ...signing, alg: "ES256", use: "sig" }] },
    cookies: { keys: ["tests"] },
    claims: { openid: ["sub", "sid"], email: ["email", "email_verified"], profile: ["preferred_username", "groups"] },
    features: {
      devInteractions: { enabled: false },
      deviceFlow: { enabled: true },
      backchannelLogout: { enabled: true },
      rpInitiatedLogout: { enabled: true, logoutSource: logoutPage },
    },
    interactions: { url: (_context, interaction) => `/interaction/${interaction.uid}` },
    pkce: { required: () => true },
    fetch,
    findAccount: (_context, id) => ({
      accountId: id,
      claims: () => ({
        sub: id, email: `${id}@example.com`, email_verified: id !== "mallory", preferred_username: id, groups: groups[id] ?? [],
      }),
    }),
  };
}

function logoutPage(context, form) {
  context.body = `<!doctype html><title>Provider: sign out</title>${form}<button name="logout" value="yes" form="op.logoutForm">Sign out</button>`;
}

async function form(incoming) {
  let text = "";
  for await (const chunk of incoming) text += chunk;
  return new URLSearchParams(text);
}

async function interact(provider, incoming, outgoing) {
  const { params, prompt, session } = await provider.interactionDetails(incoming, outgoing);
  if (incoming.method !== "POST") {
    const field = prompt.name === "login" ? '<input name="login" aria-label="Name">' : "";
    outgoing.setHeader("content-type", "text/html");
    outgoing.end(`<!doctype html><meta name="viewport" content="width=device-width"><title>Provider</title>
      <form method="post">${field}<button name="answer" value="yes">Continue</button> <button name="answer" value="no">Cancel</button></form>`);
    return;
  }
  const answered = await form(incoming);
  if (answered.get("answer") === "no") {
    await provider.interactionFinished(incoming, outgoing, { error: "access_denied", error_description: "no" });
    return;
  }
  const accountId = answered.get("login") ?? session?.accountId;
  const grant = new provider.Grant({ accountId, clientId: params.client_id });
  grant.addOIDCScope(params.scope);
  const grantId = await grant.save();
  grants.add(grantId);
  await provider.interactionFinished(incoming, outgoing, { login: { accountId }, consent: { grantId } });
}

async function forget(provider) {
  for (const id of grants) await (await provider.Grant.find(id))?.destroy();
  grants.clear();
}

const server = createServer();
server.listen(0, "127.0.0.1", () => {
  const { port } = server.address();
  const provider = new Provider(`http://127.0.0.1:${port}`, configure());
  const answer = provider.callback();
  server.on("request", async (incoming, outgoing) => {
    const path = incoming.url.split("?")[0];
    console.log(incoming.method, path.startsWith("/interaction/") ? "/interaction" : path);
    try {
      if (path === "/tests/forget") {
        await forget(provider);
        outgoing.end();
      } else if (path.startsWith("/interaction/")) await interact(provider, incoming, outgoing);
      else answer(incoming, outgoing);
    } catch (error) {
      console.log("ERROR", error);
      outgoing.statusCode = 500;
      outgoing.end(String(error));
    }
  });
  console.log(port);
});
