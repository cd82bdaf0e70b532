//! Access: credentials, grants, identity headers for backends, and revocation.

mod bad;
mod denial;
mod differential;
mod introspection;
pub(crate) mod issuer;
mod lasting;
mod outbound_proxy;
mod person;

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use portcullis_config::client_key::Key;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::{Value, json};
use tokio::process::Command;

use self::issuer::Issuer;
use self::outbound_proxy::OutboundProxy;
use crate::harness::credentials::{client_key, client_key_secret};
use crate::harness::{
    Answer, Authority, Curl, Echo, Gateway, Service, World, echo, eventually, soon, without_ids,
};

/// Requires an application and a user: `shop`, and any user of example.com.
const CLOSED: &str = "web--closed.apps.test";
/// Requires an application: `crm`.
const MACHINES: &str = "web--machines.apps.test";
/// Requires a user of the group `partner:ops`.
const PARTNERS: &str = "web--partners.apps.test";
/// Requires nothing.
const OPEN: &str = "web--staging.apps.test";
/// No such host.
const ABSENT: &str = "web--absent.apps.test";

/// The longest time until a revocation takes effect.
const SOON: Duration = Duration::from_secs(5);

/// A gateway with two issuers, the keys of two applications, and four environments on one pod.
struct Stage {
    pod: Echo,
    issuer: Issuer,
    partner: Issuer,
    shop: Key,
    crm: Key,
    expired: Key,
    gateway: Gateway,
}

fn expired_secret(key: &Key) -> Value {
    let mut secret = client_key_secret("old", "shop", key);
    secret["metadata"]["annotations"] = json!({ "portcullis.dev/expires": "2020-01-01T00:00:00Z" });
    secret
}

fn world(pod: &Echo) -> World {
    World::web(pod)
        .with(Service::new("web").environment("closed").pod(pod))
        .with(Service::new("calls").environment("closed").port_name("grpc").pod(pod))
        .with(Service::new("down").environment("closed"))
        .annotation("closed", "allow-apps", "shop")
        .annotation("closed", "allow-users", "*@example.com")
        .with(Service::new("web").environment("machines").pod(pod))
        .annotation("machines", "require", "app")
        .annotation("machines", "allow-apps", "crm")
        .with(Service::new("web").environment("partners").pod(pod))
        .annotation("partners", "require", "user")
        .annotation("partners", "allow-groups", "partner:ops")
}

// === impl Stage ===

impl Stage {
    async fn start() -> Self {
        let pod = echo("pod-1").await;
        let (issuer, partner) = (Issuer::start("key").await, Issuer::start("other").await);
        let (shop, crm, expired) = (client_key(), client_key(), client_key());
        let gateway = Gateway::of(
            world(&pod).with_file("keys.json", &Self::keys(&shop, &crm, &expired).to_string()),
        )
        .settings(json!({ "access": {
            "issuers": [issuer.settings("corp", ""), partner.settings("partner", "partner:")],
            "credentialsNamespace": "portcullis",
        }}))
        .start()
        .await;
        let stage = Self { pod, issuer, partner, shop, crm, expired, gateway };
        eventually("the issuers' keys are known", || async {
            stage.status(CLOSED, &[&stage.ann()]).await == 200
        })
        .await;
        stage
    }

    fn keys(shop: &Key, crm: &Key, expired: &Key) -> Value {
        json!({ "apiVersion": "v1", "kind": "List", "items": [
            client_key_secret("shop", "shop", shop),
            client_key_secret("crm", "crm", crm),
            expired_secret(expired),
        ]})
    }

    /// Ann's token, issued to the application `shop`.
    fn ann(&self) -> String {
        bearer(&self.issuer.token(&self.issuer.header(), &self.issuer.claims()))
    }

    /// Ann's token with another claim.
    fn ann_with(&self, name: &str, value: Value) -> String {
        let mut claims = self.issuer.claims();
        claims[name] = value;
        bearer(&self.issuer.token(&self.issuer.header(), &claims))
    }

    fn call(&self, host: &str, path: &str, headers: &[&str]) -> Curl {
        headers.iter().fold(self.gateway.curl(host, path), |curl, header| curl.header(header))
    }

    async fn status(&self, host: &str, headers: &[&str]) -> u16 {
        self.call(host, "/", headers).run().await.status
    }

    /// The headers that the pod received.
    async fn received(&self, host: &str, headers: &[&str]) -> Vec<(String, String)> {
        let answer = self.call(host, "/echo", headers).run().await;
        assert_eq!(answer.status, 200, "{answer:?}");
        serde_json::from_value(answer.json()["headers"].clone()).expect("pairs")
    }
}

/// The output of a command that succeeds.
async fn portcullis(arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.args(arguments).output().await.expect("portcullis runs");
    let text = |octets: &[u8]| {
        String::from_utf8_lossy(octets).split_whitespace().collect::<Vec<_>>().join(" ")
    };
    let text = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {text}");
    text
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

fn api_key(key: &Key) -> String {
    format!("X-Api-Key: {}", key.expose())
}

/// The observable part of a response, without what differs between requests.
fn face(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().map(|(name, value)| {
        (name.clone(), if name == "date" { String::new() } else { without_ids(value) })
    });
    (answer.status, headers.collect(), without_ids(&answer.text()))
}

#[tokio::test]
async fn credentials_allow_only_what_they_are_granted() {
    let stage = Stage::start().await;
    let (ann, shop, crm) = (stage.ann(), api_key(&stage.shop), api_key(&stage.crm));
    let shop_as_bearer = bearer(stage.shop.expose());
    let of_no_app = stage.ann_with("azp", Value::Null);
    let of_crm = stage.ann_with("azp", json!("crm"));
    let partner = |groups: Value| {
        let mut claims = stage.partner.claims();
        claims["groups"] = groups;
        bearer(&stage.partner.token(&stage.partner.header(), &claims))
    };
    let (ops, sales) = (partner(json!(["ops"])), partner(json!(["sales"])));
    for (host, headers, status) in [
        (OPEN, &[][..], 200),
        (OPEN, &["Authorization: Bearer x"], 200),
        // Both from one credential, or from two.
        (CLOSED, &[&*ann], 200),
        (CLOSED, &[&of_no_app, &shop], 200),
        (CLOSED, &[&of_crm, &shop], 200),
        (CLOSED, &[&ann, &crm], 404),
        (CLOSED, &[&of_no_app], 404),
        (CLOSED, &[&of_crm], 404),
        (CLOSED, &[&shop], 404),
        (CLOSED, &[&shop_as_bearer], 404),
        (CLOSED, &[&ops], 404),
        // An address of example.com that only the partner's issuer vouches for.
        (CLOSED, &[&ops, &shop], 404),
        (CLOSED, &[], 404),
        (MACHINES, &[&crm], 200),
        (MACHINES, &[&of_crm], 200),
        (MACHINES, &[&shop], 404),
        (MACHINES, &[&ann], 404),
        (PARTNERS, &[&ops], 200),
        (PARTNERS, &[&sales], 404),
        // A group of the same name from another issuer.
        (PARTNERS, &[&stage.ann_with("groups", json!(["ops"]))], 404),
        (PARTNERS, &[&stage.ann_with("groups", json!(["partner:ops", "Partner:ops"]))], 404),
        ("web--nowhere.apps.test", &[&ann, &shop], 404),
    ] {
        assert_eq!(stage.status(host, headers).await, status, "{host} {headers:?}");
    }
}

#[tokio::test]
async fn a_backend_gets_identity_headers_and_no_credentials() {
    let stage = Stage::start().await;
    let outside = [
        "X-Auth-Request-User: root",
        "X-Auth-Request-Groups: admin",
        "X_Forwarded_User: root",
        "X-Forwarded-Email: root@example.com",
        "X-Auth-Request-App: root",
        "X-Portcullis-Anything: root",
        "Remote-User: root",
    ];
    let (ann, shop) = (stage.ann(), api_key(&stage.shop));
    let headers: Vec<&str> = outside
        .into_iter()
        .chain([&*ann, &*shop, "Cookie: theme=dark; __Host-portcullis=x"])
        .collect();
    for host in [CLOSED, OPEN] {
        let received = stage.received(host, &headers).await;
        let of = |name: &str| {
            received
                .iter()
                .filter(|(other, _)| other == name)
                .map(|(_, value)| value.as_str())
                .collect::<Vec<_>>()
        };
        assert_eq!(of("x-auth-request-user"), ["ann@example.com"], "{host} {received:?}");
        assert_eq!(of("x-forwarded-user"), ["ann@example.com"]);
        assert_eq!(of("x-auth-request-email"), ["ann@example.com"]);
        assert_eq!(of("x-auth-request-preferred-username"), ["ann"]);
        assert_eq!(of("x-auth-request-groups"), ["dev"]);
        assert_eq!(of("x-auth-request-app"), ["shop"]);
        assert_eq!(of("cookie"), ["theme=dark"]);
        let assertion = of("x-portcullis-jwt-assertion");
        assert_eq!(assertion.len(), 1);
        assert_eq!(verified(&stage, assertion[0], host).await["sub"], "ann@example.com");
        assert!(
            !received.iter().any(|(name, value)| value.contains("root")
                || name == "authorization"
                || name == "x-api-key"),
            "{received:?}"
        );
    }
    let nobody = stage.received(OPEN, &outside).await;
    assert!(!nobody.iter().any(|(_, value)| value.contains("root")), "{nobody:?}");
}

/// The claims of a signed assertion, verified with the keys that the gateway publishes on every
/// host.
async fn verified(stage: &Stage, token: &str, audience: &str) -> Value {
    let keys = stage
        .gateway
        .curl("web--absent.apps.test", "/.well-known/portcullis/jwks.json")
        .run()
        .await;
    assert_eq!(keys.status, 200);
    let keys: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys.json()).expect("a key set");
    let kid = jsonwebtoken::decode_header(token).expect("a token").kid.expect("a key's identifier");
    let key = jsonwebtoken::DecodingKey::from_jwk(keys.find(&kid).expect("it is published"))
        .expect("a key");
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::ES256);
    validation.set_audience(&[audience]);
    validation.set_issuer(&["https://apps.test"]);
    jsonwebtoken::decode(token, &key, &validation).expect("it holds").claims
}

#[tokio::test]
async fn tokens_are_forwarded_if_service_and_namespace_enable_it_and_keys_never() {
    let stage = Stage::start().await;
    let world = |name: &str| {
        let service = Service::new(name).environment("machines");
        World::empty()
            .with(service.annotation("pass-credentials", "true").pod(&stage.pod))
            .annotation("machines", "require", "app")
            .annotation("machines", "allow-apps", "crm")
            .with_file(
                "keys.json",
                &Stage::keys(&stage.shop, &stage.crm, &stage.expired).to_string(),
            )
    };
    let (token, key) = (stage.ann_with("azp", json!("crm")), api_key(&stage.crm));
    let received = async |host: &str| {
        eventually("the Service is there", || async {
            stage.status(host, &[&token, &key]).await == 200
        })
        .await;
        stage.received(host, &[&token, &key]).await
    };
    let has =
        |headers: &[(String, String)], wanted: &str| headers.iter().any(|(name, _)| name == wanted);
    stage.gateway.apply(&world("tenant"));
    let headers = received("tenant--machines.apps.test").await;
    assert!(!has(&headers, "authorization"), "a tenant alone collects no tokens: {headers:?}");
    assert!(!has(&headers, "x-api-key"), "{headers:?}");
    stage.gateway.apply(&world("both").annotation("machines", "pass-credentials", "true"));
    let headers = received("both--machines.apps.test").await;
    assert!(has(&headers, "authorization") && !has(&headers, "x-api-key"), "{headers:?}");
}

#[tokio::test]
async fn every_bad_credential_is_rejected_with_the_same_response() {
    let stage = Stage::start().await;
    let stranger = Issuer::start("key").await;
    let all = bad::all(
        &stage.issuer,
        &stage.partner,
        &stranger,
        client_key().expose(),
        stage.expired.expose(),
    );
    assert!(all.len() >= 120, "{}", all.len());
    let before = stage.pod.counts().borrow().started;
    let nothing = face(&stage.gateway.curl("web--absent.apps.test", "/").run().await);
    assert_eq!(nothing.0, 404);
    for (what, fields) in &all {
        let headers: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        let headers: Vec<&str> = headers.iter().map(String::as_str).collect();
        let closed = face(&stage.call(CLOSED, "/", &headers).run().await);
        let absent = face(&stage.call("web--absent.apps.test", "/", &headers).run().await);
        assert_eq!(closed, absent, "{what}");
        // Duplicates of a singleton field are rejected before the host is looked up.
        assert!(
            closed == nothing || what == "two authorizations" && closed.0 == 400,
            "{what}: {closed:?}"
        );
    }
    assert_eq!(stage.pod.counts().borrow().started, before, "the pod was asked");
    // A control: the same caller with valid credentials is allowed.
    assert_eq!(stage.status(CLOSED, &[&stage.ann()]).await, 200);
    println!("{} bad credentials, none accepted", all.len());
}

#[tokio::test]
#[allow(clippy::async_yields_async, reason = "the stream goes on while the test does")]
async fn revoked_access_ends_open_streams_too() {
    let stage = Stage::start().await;
    let keys = |shop: &Key| Stage::keys(shop, &stage.crm, &stage.expired).to_string();
    let started = async |headers: &[&str], host: &str| {
        let before = stage.pod.counts().borrow().started;
        let stream = tokio::spawn(stage.call(host, "/stream/100000?interval=20ms", headers).run());
        stage
            .pod
            .counts()
            .wait_for(|counts| counts.started > before)
            .await
            .expect("the pod counts");
        stream
    };

    // A key that is revoked.
    let key = api_key(&stage.crm);
    let stream = started(&[&key], MACHINES).await;
    stage.gateway.apply(&world(&stage.pod).with_file(
        "keys.json",
        &Stage::keys(&stage.shop, &stage.shop, &stage.expired).to_string(),
    ));
    let ended =
        tokio::time::timeout(SOON, stream).await.expect("the stream ends soon").expect("curl ran");
    assert_ne!(ended.exit, 0, "it is broken off: {ended:?}");
    assert_eq!(stage.status(MACHINES, &[&key]).await, 404);

    // A grant that is withdrawn.
    let ann = stage.ann();
    let stream = started(&[&ann], CLOSED).await;
    stage.gateway.apply(
        &world(&stage.pod)
            .annotation("closed", "allow-users", "bob@example.com")
            .with_file("keys.json", &keys(&stage.shop)),
    );
    let ended =
        tokio::time::timeout(SOON, stream).await.expect("the stream ends soon").expect("curl ran");
    assert_ne!(ended.exit, 0, "{ended:?}");
    assert_eq!(stage.status(CLOSED, &[&ann]).await, 404);

    // A token that expires: its minute of leeway is nearly used up.
    stage.gateway.apply(&world(&stage.pod).with_file("keys.json", &keys(&stage.shop)));
    eventually("the grant is back", || async { stage.status(CLOSED, &[&ann]).await == 200 }).await;
    let short = stage.ann_with("exp", json!(issuer::now() - 57));
    let stream = started(&[&short], CLOSED).await;
    let ended = tokio::time::timeout(SOON + Duration::from_secs(3), stream)
        .await
        .expect("the stream ends soon")
        .expect("curl ran");
    assert_ne!(ended.exit, 0, "{ended:?}");

    // Changes for other callers close nothing.
    let stream = started(&[&ann], CLOSED).await;
    stage.gateway.apply(
        &world(&stage.pod)
            .annotation("machines", "allow-apps", "nobody")
            .with_file("keys.json", &keys(&stage.shop)),
    );
    eventually("the change is in effect", || async {
        stage.status(MACHINES, &[&api_key(&stage.crm)]).await == 404
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(!stream.is_finished());
    stream.abort();
}

#[tokio::test]
async fn issuer_keys_are_rotated_and_stay_valid_while_the_issuer_is_down() {
    let stage = Stage::start().await;
    let (before, start) = (stage.issuer.fetches(), std::time::Instant::now());
    // An invalid key set: the cached keys stay in use.
    stage.issuer.publish("{}");
    // Many tokens with unknown keys cause at most one fetch in 30 seconds.
    for number in 0..50 {
        let mut header = stage.issuer.header();
        header["kid"] = json!(format!("unknown-{number}"));
        let token = bearer(&stage.issuer.token(&header, &stage.issuer.claims()));
        assert_eq!(stage.status(CLOSED, &[&token]).await, 404);
    }
    let (fetches, seconds) = (stage.issuer.fetches() - before, start.elapsed().as_secs());
    assert!(fetches as u64 <= 1 + seconds / 30, "{fetches} fetches in {seconds} s");
    assert_eq!(stage.status(CLOSED, &[&stage.ann()]).await, 200);
    let ann = stage.ann();
    let Stage { gateway, issuer, .. } = stage;
    drop(issuer);
    assert_eq!(
        gateway.curl(CLOSED, "/").header(&ann).run().await.status,
        200,
        "the issuer is away"
    );
}

#[tokio::test]
async fn secrets_appear_in_no_output() {
    const OPAQUE: &str = "2YotnFZFEjr1zCsicMWpAA";
    let pod = echo("pod-1").await;
    let (issuer, partner) = (Issuer::start("key").await, Issuer::start("other").await);
    let (shop, crm, expired) = (client_key(), client_key(), client_key());
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
        folder.path().join(name)
    };
    let mut seals = [0_u8; 32];
    aws_lc_rs::rand::fill(&mut seals).expect("randomness");
    let seals = STANDARD.encode(seals);
    let mut keys = Stage::keys(&shop, &crm, &expired);
    keys["items"].as_array_mut().expect("a list").push(json!({
        "apiVersion": "v1", "kind": "Secret", "data": { "key": seals },
        "metadata": { "name": "seals", "namespace": "portcullis", "labels": { "portcullis.dev/credential": "session-key" } },
    }));
    let mut corp = issuer.settings("corp", "");
    corp["introspection"] = json!({ "clientId": "gateway", "clientSecretFile": file("introspection", "introspection-secret") });
    let gateway = Gateway::of(world(&pod).with_file("keys.json", &keys.to_string()))
        .settings(json!({ "access": {
            "issuers": [corp, partner.settings("partner", "partner:")],
            "credentialsNamespace": "portcullis",
            "login": { "issuer": "corp", "clientId": "gateway", "clientSecretFile": file("login", "login-secret") },
        }}))
        .start()
        .await;
    let token_with = |name: &str, value: Value| {
        let mut claims = issuer.claims();
        claims[name] = value;
        issuer.token(&issuer.header(), &claims)
    };
    let ann = token_with("sub", json!("1001"));
    eventually("the issuers' keys are known", || async {
        gateway.curl(CLOSED, "/").header(&bearer(&ann)).run().await.status == 200
    })
    .await;
    let cookie = |name: &str, octet: u8| {
        format!("Cookie: __Host-portcullis{name}={}", issuer::encoded([octet; 100]))
    };
    let shown = [
        bearer(&ann),
        bearer(&token_with("email", json!("bob@example.org"))),
        bearer(&token_with("exp", json!(1))),
        bearer(&token_with("aud", json!("other"))),
        bearer(&format!("{}x", token_with("sub", json!("2002")))),
        bearer(&partner.token(&partner.header(), &partner.claims())),
        bearer(client_key().expose()),
        bearer(shop.expose()),
        format!("X-Portcullis-Anything: {}", client_key().expose()),
        format!("Proxy-Authorization: Bearer {}", client_key().expose()),
        format!("X-Forwarded-Access-Token: {}", issuer::encoded([9; 50])),
        api_key(&crm),
        api_key(&expired),
        api_key(&client_key()),
        cookie("", 10),
        cookie("-portal", 11),
        cookie("-refresh", 12),
        cookie("-browser", 13),
    ];
    let kept = [&*seals, "introspection-secret", "login-secret"];
    let portal = ["/", "/login", "/callback?code=x&state=y", "/logout", "/nothing"];
    let mut reported = String::new();
    for header in &shown {
        for host in [OPEN, CLOSED, MACHINES, "web--absent.apps.test"] {
            let answer = gateway.curl(host, "/echo").header(header).run().await;
            reported.push_str(&format!("{:?} {}", answer.headers, answer.text()));
        }
        let answer = gateway
            .curl("login.apps.test", portal[header.len() % portal.len()])
            .header(header)
            .run()
            .await;
        reported.push_str(&format!("{:?} {}", answer.headers, answer.text()));
    }
    // An opaque token belongs to the backend, unless the issuer accepts it.
    issuer.say(
        OPAQUE,
        json!({ "active": true, "aud": "portcullis", "sub": "1", "client_id": "shop" }),
    );
    gateway.curl(OPEN, "/echo").header(&bearer(OPAQUE)).run().await;
    for path in ["/metrics", "/routes", "/readyz"] {
        reported.push_str(&gateway.admin_page(path).await.text());
    }
    soon("the access log is written", async { gateway.has_written("web--absent").await }).await;
    reported.push_str(&gateway.log());
    let secrets: Vec<&str> = shown.iter().map(|header| secret_of(header)).chain(kept).collect();
    assert!(secrets.len() >= 20, "{}", secrets.len());
    for secret in secrets {
        assert!(secret.len() > 10 && !reported.contains(secret), "{secret} was reported");
    }
    assert!(!gateway.log().contains(OPAQUE));
    assert!(
        reported.contains("\"user\":\"ann@example.com\"")
            && reported.contains("\"application\":\"crm\""),
        "but who was let in is"
    );
}

fn secret_of(header: &str) -> &str {
    header.rsplit([' ', '=']).next().unwrap_or_default()
}

fn machines() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

#[tokio::test]
async fn a_client_certificate_authenticates_an_application() {
    let pod = echo("pod-1").await;
    let (ours, other) = (machines(), machines());
    let folder = tempfile::tempdir().expect("a folder");
    let put = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_string_lossy().into_owned()
    };
    let authorities = put("authorities.pem", &ours.pem());
    let mut arguments = Vec::new();
    for (name, authority, host) in [
        ("good", &ours, "importer.test"),
        ("other", &other, "importer.test"),
        ("wrong", &ours, "exporter.test"),
    ] {
        let secret = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&secret, authority).expect("a certificate");
        arguments.push([
            put(&format!("{name}.crt"), &certificate.pem()),
            put(&format!("{name}.key"), &secret.serialize_pem()),
        ]);
    }
    let world = World::empty()
        .with(Service::new("web").environment("machines").pod(&pod))
        .annotation("machines", "require", "app")
        .annotation("machines", "allow-apps", "dns:importer.test");
    let gateway = Gateway::of(world)
        .settings(json!({ "access": { "clientCertificateAuthorities": authorities } }))
        .start()
        .await;
    let call = async |host: &str, [certificate, secret]: &[String; 2], version: &str| {
        gateway
            .curl(host, "/echo")
            .args(["--cert", certificate, "--key", secret, "--tls-max", version])
            .run()
            .await
    };
    for version in ["1.3", "1.2"] {
        let answer = call(MACHINES, &arguments[0], version).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        assert!(
            answer.text().contains("[\"x-auth-request-app\",\"dns:importer.test\"]"),
            "{answer:?}"
        );
        let absent = face(&call("web--absent.apps.test", &arguments[0], version).await);
        assert_eq!(absent.0, 404);
        for bad in &arguments[1..] {
            assert_eq!(face(&call(MACHINES, bad, version).await), absent, "{version}");
        }
    }
    assert_eq!(gateway.curl(MACHINES, "/").run().await.status, 404);
    // Removing an authority revokes its certificates.
    put("authorities.pem", &other.pem());
    eventually("the authority is gone", || async {
        call(MACHINES, &arguments[0], "1.3").await.status == 404
    })
    .await;
    assert_eq!(call(MACHINES, &arguments[1], "1.3").await.status, 200);
}

#[tokio::test]
async fn issuers_are_reached_through_the_proxy_of_the_environment() {
    let pod = echo("pod-1").await;
    let issuer = Issuer::named("key", Some("https://issuer.test")).await;
    let authority = Authority::new("The issuer's authority").expect("an authority");
    let roots = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(roots.path(), authority.certificate()).expect("it can be written");
    let proxy = OutboundProxy::start(&authority, "issuer.test", issuer.address()).await;
    let mut settings = issuer.settings("corp", "");
    settings["certificateAuthorities"] = json!(roots.path());
    let gateway = Gateway::of(world(&pod))
        .settings(json!({ "access": { "issuers": [settings] } }))
        .variable("HTTPS_PROXY", format!("http://portcullis:hush%21@{}", proxy.address()))
        .variable("NO_PROXY", "id.test,10.0.0.0/8")
        .start()
        .await;
    let ann = bearer(&issuer.token(&issuer.header(), &issuer.claims()));
    eventually("the issuer's keys are known", || async {
        gateway.curl(CLOSED, "/").header(&ann).run().await.status == 200
    })
    .await;
    assert!(proxy.requests().len() >= 2, "discovery and keys: {:?}", proxy.requests());
    let credentials = format!("Basic {}", STANDARD.encode("portcullis:hush!"));
    for request in proxy.requests() {
        assert!(request.starts_with("CONNECT issuer.test:443 HTTP/1.1\r\n"), "{request}");
        assert!(request.contains(&credentials), "{request}");
    }
    assert!(!gateway.log().contains("hush"), "{}", gateway.log());
}
