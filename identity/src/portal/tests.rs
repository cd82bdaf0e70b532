//! The portal with a programmable provider and a clock.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::FutureExt;
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;
use crate::fair_queue::{self, Class};
use crate::session::Revoked;
use crate::session::testing::at;

mod handoff;
mod logout;
mod providers;
mod revalidation;

pub(super) const SHOP: &str = "shop.apps.example.com";
pub(super) const PORTAL_HOST: &str = "login.apps.example.com";
/// Time of most requests.
const NOW: u64 = 1_795_219_200;

/// The portal of `apps.example.com`, with HTTPS on port 8443.
pub(super) fn portal_origin() -> PortalOrigin {
    let mut settings = crate::session::testing::settings();
    settings.port = 8443;
    PortalOrigin::new("apps.example.com", &settings)
}

/// A provider with one response for all requests until it is changed.
struct Fake {
    url: String,
    key: EcdsaKeyPair,
    /// The response of the token endpoint.
    answer: Mutex<(u16, Value)>,
    /// Members that replace those of the discovery document.
    changed: Value,
    /// The response of the userinfo endpoint.
    userinfo: Mutex<(u16, Value)>,
    /// Whether it responds to everything with an error.
    is_down: AtomicBool,
    /// The requests that it received.
    asked: Mutex<Vec<HashMap<String, String>>>,
}

impl Fake {
    async fn start(changed: Value) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let fake = Arc::new(Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            key: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
            answer: Mutex::new((500, json!({}))),
            changed,
            userinfo: Mutex::new((200, json!({}))),
            is_down: AtomicBool::new(false),
            asked: Mutex::default(),
        });
        let served = Arc::clone(&fake);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let fake = Arc::clone(&served);
                let service = service_fn(move |request| {
                    let fake = Arc::clone(&fake);
                    async move { Ok::<_, Infallible>(fake.respond(request).await) }
                });
                tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        fake
    }

    async fn respond(&self, request: http::Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        let (status, answer) = match head.uri.path() {
            _ if self.is_down.load(Ordering::Relaxed) => (503, json!({})),
            "/.well-known/openid-configuration" => (200, self.discovery()),
            "/keys" => (200, self.keys()),
            "/userinfo" => self.userinfo.lock().unwrap().clone(),
            _ => {
                self.asked.lock().unwrap().push(parameters(&body));
                self.answer.lock().unwrap().clone()
            }
        };
        Response::builder().status(status).body(Full::from(answer.to_string())).unwrap()
    }

    fn discovery(&self) -> Value {
        let url = &self.url;
        let mut discovery = json!({
            "issuer": url,
            "jwks_uri": format!("{url}/keys"),
            "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"),
            "userinfo_endpoint": format!("{url}/userinfo"),
            "end_session_endpoint": format!("{url}/end?a=b"),
            "scopes_supported": ["openid", "email", "profile", "offline_access"],
        });
        merge(&mut discovery, &self.changed);
        discovery
    }

    fn keys(&self) -> Value {
        let encoded = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
        let point = self.key.public_key().as_ref();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "a", "x": encoded(&point[1..33]), "y": encoded(&point[33..])}]})
    }

    fn sign(&self, kind: &str, claims: &Value) -> String {
        let header = json!({"alg": "ES256", "kid": "a", "typ": kind});
        let message =
            [&header, claims].map(|part| URL_SAFE_NO_PAD.encode(part.to_string())).join(".");
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes()).unwrap();
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// Sets the response to an ID token with these changes to valid claims.
    fn returns(&self, refresh_token: &str, changes: &Value) {
        let mut claims = json!({
            "iss": self.url, "aud": "portcullis", "sub": "7", "exp": NOW + 300, "iat": NOW, "sid": "s1",
            "email": "ann@example.com", "email_verified": true, "groups": ["ops"],
        });
        merge(&mut claims, changes);
        self.returns_claims(refresh_token, &claims);
    }

    /// Sets the response to an ID token with these claims, without a refresh token if it is empty.
    fn returns_claims(&self, refresh_token: &str, claims: &Value) {
        let mut answer = json!({"id_token": self.sign("JWT", claims), "access_token": "a"});
        if !refresh_token.is_empty() {
            answer["refresh_token"] = json!(refresh_token);
        }
        *self.answer.lock().unwrap() = (200, answer);
    }

    fn returns_error(&self, error: &str) {
        *self.answer.lock().unwrap() = (400, json!({"error": error}));
    }

    fn last_request(&self) -> HashMap<String, String> {
        self.asked.lock().unwrap().last().cloned().unwrap_or_default()
    }

    fn requests(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

/// The portal, and a browser with its cookies.
struct Trip {
    fake: Arc<Fake>,
    portal: Portal,
    jar: BTreeMap<(String, String), String>,
}

impl Trip {
    async fn start() -> Self {
        Self::with(json!({}), json!({}), json!({})).await
    }

    /// With changed settings of the login and the issuer, and another discovery document.
    async fn with(login: Value, issuer: Value, discovery: Value) -> Self {
        let fake = Fake::start(discovery).await;
        let mut settings = json!({
            "zone": "apps.example.com",
            "source": {"directory": "."},
            "access": {
                "issuers": [{"name": "corp", "issuer": fake.url, "audiences": ["others"]}],
                "login": {"issuer": "corp", "clientId": "portcullis", "port": 8443, "idle": "1h", "absolute": "8h"},
            },
        });
        merge(&mut settings["access"]["login"], &login);
        merge(&mut settings["access"]["issuers"][0], &issuer);
        let settings: Settings = serde_json::from_value(settings).unwrap();
        let login = settings.access.login.clone().unwrap();
        let sessions = Arc::new(Sessions::new(&login, None).unwrap());
        let authenticator =
            Authenticator::new(&settings.access, Some(Arc::clone(&sessions))).unwrap();
        authenticator.issuers()[0].load(fake.keys().to_string().as_bytes()).unwrap();
        let portal =
            Portal::new(&settings, &login, &authenticator, sessions, Arc::default()).unwrap();
        let slots = portal.slots.clone();
        tokio::spawn(async move { slots.serve().await });
        Self { fake, portal, jar: BTreeMap::new() }
    }

    fn request(&self, method: Method, url: &str, body: &str) -> PortalRequest {
        let uri: http::Uri = url.parse().unwrap();
        let host = uri.host().unwrap();
        let cookies: Vec<String> = self
            .jar
            .iter()
            .filter(|((of, _), _)| of == host)
            .map(|((_, name), value)| format!("{name}={value}"))
            .collect();
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, HeaderValue::try_from(cookies.join("; ")).unwrap());
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        PortalRequest {
            client: client(1),
            method,
            host: host.into(),
            path: uri.path().into(),
            query: uri.query().unwrap_or_default().into(),
            headers,
            body: Bytes::copy_from_slice(body.as_bytes()),
        }
    }

    fn keep(&mut self, host: &str, reply: &Reply) {
        for cookie in reply.headers.get_all(header::SET_COOKIE) {
            let text = cookie.to_str().unwrap();
            let (name, value) = text.split(';').next().unwrap().split_once('=').unwrap();
            let key = (host.to_owned(), name.to_owned());
            if text.contains("Max-Age=0;") {
                drop(self.jar.remove(&key))
            } else {
                drop(self.jar.insert(key, value.to_owned()))
            }
        }
    }

    async fn call(&mut self, method: Method, url: &str, body: &str, now: u64) -> Option<Reply> {
        let request = self.request(method, url, body);
        let reply = self.portal.respond(&request, at(now)).await?;
        self.keep(&request.host, &reply);
        Some(reply)
    }

    async fn get(&mut self, url: &str, now: u64) -> Option<Reply> {
        self.call(Method::GET, url, "", now).await
    }

    /// Starts a login, and returns the parameters of the authorization request.
    async fn begin(&mut self, url: &str) -> HashMap<String, String> {
        let reply = self.get(url, NOW).await.unwrap();
        let to = location(&reply);
        assert!(to.starts_with(&format!("{}/authorize?", self.fake.url)), "{to}");
        parameters(to.split_once('?').unwrap().1.as_bytes())
    }

    /// Starts another login in the same browser, without a session.
    async fn begin_again(&mut self) -> HashMap<String, String> {
        self.jar.retain(|(_, name), _| name.ends_with("-browser"));
        self.begin(&own("/login")).await
    }

    async fn callback(&mut self, state: &str, further: &str) -> Reply {
        self.settled(&own(&format!("/callback?code=c&state={state}{further}")), NOW).await
    }

    /// The reply to a request; of a failed login, its page.
    async fn settled(&mut self, url: &str, now: u64) -> Reply {
        let reply = self.get(url, now).await.unwrap();
        let to = location(&reply);
        if to.contains(failure::PATH) { self.get(&to, now).await.unwrap() } else { reply }
    }

    /// Follows redirects up to a URL that contains `stop`; returns all URLs.
    async fn follow(&mut self, url: &str, stop: &str, now: u64) -> Vec<String> {
        let mut way = vec![url.to_owned()];
        while !way.last().unwrap().contains(stop) {
            assert!(way.len() < 20, "{way:?}");
            let Some(reply) = self.get(&way.last().unwrap().clone(), now).await else { break };
            let to = location(&reply);
            if to.is_empty() {
                break;
            }
            way.push(if to.starts_with('/') { format!("https://{SHOP}:8443{to}") } else { to });
        }
        way
    }

    async fn log_in(&mut self, refresh_token: &str) {
        let sent = self.begin(&own("/login")).await;
        self.fake.returns(refresh_token, &json!({"nonce": sent["nonce"]}));
        let reply = self.callback(&sent["state"], "").await;
        assert_eq!((reply.status, location(&reply)), (StatusCode::SEE_OTHER, own("/")));
    }

    /// Whether the first page shows a signed-in user.
    async fn is_signed_in(&mut self, now: u64) -> bool {
        let page = self.get(&own("/"), now).await.unwrap();
        String::from_utf8_lossy(&page.body).contains("Signed in as")
    }
}

fn client(last: u8) -> ClientNetwork {
    std::net::IpAddr::from([192, 0, 2, last]).into()
}

/// Replaces members of an object.
fn merge(object: &mut Value, changes: &Value) {
    for (name, value) in changes.as_object().unwrap() {
        object[name] = value.clone();
    }
}

fn own(path: &str) -> String {
    format!("https://{PORTAL_HOST}:8443{path}")
}

fn location(reply: &Reply) -> String {
    reply
        .headers
        .get(header::LOCATION)
        .map(|to| to.to_str().unwrap().to_owned())
        .unwrap_or_default()
}

#[tokio::test]
async fn the_authorization_code_flow_follows_the_standard() {
    let mut trip = Trip::start().await;
    let sent = trip.begin(&own("/login")).await;
    for (name, value) in [
        ("response_type", "code"),
        ("client_id", "portcullis"),
        ("redirect_uri", "https://login.apps.example.com:8443/callback"),
        ("scope", "openid email profile offline_access"),
        ("code_challenge_method", "S256"),
    ] {
        assert_eq!(sent[name], value, "{name}");
    }
    trip.fake.returns("r", &json!({"nonce": sent["nonce"]}));
    trip.callback(&sent["state"], "").await;
    let asked = trip.fake.last_request();
    assert_eq!(
        (&*asked["grant_type"], &*asked["code"], &*asked["client_id"]),
        ("authorization_code", "c", "portcullis")
    );
    assert_eq!(browser::hash(&asked["code_verifier"]), sent["code_challenge"]);
    let again = trip.begin_again().await;
    for name in ["state", "nonce", "code_challenge"] {
        assert_ne!(again[name], sent[name], "{name} is of one login");
    }
}

#[tokio::test]
async fn a_token_of_another_login_is_rejected() {
    let mut trip = Trip::start().await;
    let issuer = trip.fake.url.clone();
    for (changes, status) in [
        (json!({"nonce": "other"}), StatusCode::FORBIDDEN),
        (json!({"nonce": null}), StatusCode::FORBIDDEN),
        (json!({"aud": "others"}), StatusCode::FORBIDDEN),
        (json!({"aud": ["portcullis", "others"], "azp": "others"}), StatusCode::FORBIDDEN),
        (json!({"aud": ["portcullis", "others"], "azp": ["others"]}), StatusCode::FORBIDDEN),
        (json!({"iss": "https://evil.example"}), StatusCode::FORBIDDEN),
        (json!({"exp": NOW - 61}), StatusCode::FORBIDDEN),
        (json!({"exp": null}), StatusCode::FORBIDDEN),
        (json!({"email_verified": false}), StatusCode::FORBIDDEN),
        (json!({"email": null}), StatusCode::FORBIDDEN),
        (json!({"sub": null}), StatusCode::FORBIDDEN),
        // Tokens for another purpose, and of programs.
        (json!({"events": {"urn:example:event": {}}}), StatusCode::FORBIDDEN),
        (json!({"typ": "Refresh"}), StatusCode::FORBIDDEN),
        (json!({"gty": "client-credentials"}), StatusCode::FORBIDDEN),
        (json!({"sub": "portcullis"}), StatusCode::FORBIDDEN),
        (json!({"aud": ["portcullis", "others"], "azp": "portcullis"}), StatusCode::SEE_OTHER),
    ] {
        let sent = trip.begin_again().await;
        let mut claims = json!({"nonce": sent["nonce"]});
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        trip.fake.returns("r", &claims);
        let reply = trip.callback(&sent["state"], "").await;
        assert_eq!(reply.status, status, "{changes}");
        assert_eq!(trip.is_signed_in(NOW).await, status == StatusCode::SEE_OTHER, "{changes}");
    }
    // RFC 9207: a response of another provider.
    for (further, status) in [
        ("&iss=https%3A%2F%2Fevil.example", StatusCode::FORBIDDEN),
        (&*format!("&iss={issuer}"), StatusCode::SEE_OTHER),
    ] {
        let sent = trip.begin_again().await;
        trip.fake.returns("r", &json!({"nonce": sent["nonce"]}));
        assert_eq!(trip.callback(&sent["state"], further).await.status, status, "{further}");
    }
}

#[tokio::test]
async fn a_login_must_be_finished_in_ten_minutes_in_the_same_browser() {
    let mut trip = Trip::start().await;
    let sent = trip.begin(&own("/login")).await;
    trip.fake.returns("r", &json!({"nonce": sent["nonce"]}));
    let back = own(&format!("/callback?code=c&state={}", sent["state"]));
    assert_eq!(trip.settled(&back, NOW + 600).await.status, StatusCode::BAD_REQUEST);
    let jar = std::mem::take(&mut trip.jar);
    assert_eq!(trip.settled(&back, NOW).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(trip.fake.requests(), 0, "the code was not even used");
    trip.jar = jar;
    assert_eq!(trip.get(&back, NOW).await.unwrap().status, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_code_is_valid_for_a_minute() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let there = format!("https://{SHOP}:8443");
    for (after, holds) in [(59, true), (60, false)] {
        let begun = format!("{there}/.well-known/portcullis/login?to=/a");
        let code = trip.follow(&begun, "/session?code=", NOW).await.pop().unwrap();
        let taken = trip.get(&code, NOW + after).await.unwrap();
        let to = if holds { format!("{there}/a") } else { super::handoff::SESSION.to_owned() };
        assert_eq!(location(&taken), to);
    }
}

#[tokio::test]
async fn a_code_of_a_revoked_session_is_rejected() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let begun = format!("https://{SHOP}:8443/.well-known/portcullis/login");
    let code = trip.follow(&begun, "/session?code=", NOW).await.pop().unwrap();
    trip.portal
        .sessions
        .revocations
        .revoke(Revoked::User { issuer: "corp", subject: "7" }, at(NOW));
    let taken = trip.get(&code, NOW).await.unwrap();
    assert!(
        location(&taken) == super::handoff::SESSION
            && trip.jar.keys().all(|(_, name)| name != "__Host-portcullis")
    );
}

#[tokio::test]
async fn a_session_is_refreshed_at_the_provider_every_five_minutes() {
    let mut trip = Trip::start().await;
    trip.log_in("first").await;
    assert_eq!(trip.fake.requests(), 1);
    assert!(trip.is_signed_in(NOW + 299).await);
    assert_eq!(trip.fake.requests(), 1);
    trip.fake.returns("second", &json!({"email": "ann@new.example"}));
    let page = trip.get(&own("/"), NOW + 300).await.unwrap();
    assert!(String::from_utf8_lossy(&page.body).contains("ann@new.example"));
    let asked = trip.fake.last_request();
    assert_eq!((&*asked["grant_type"], &*asked["refresh_token"]), ("refresh_token", "first"));
    trip.fake.returns("third", &json!({"exp": NOW + 3000}));
    assert!(trip.is_signed_in(NOW + 600).await);
    assert_eq!(trip.fake.last_request()["refresh_token"], "second", "each token is used once");
    assert_eq!(trip.fake.requests(), 3);
}

#[tokio::test]
async fn a_session_is_revoked_when_the_provider_denies_its_user() {
    for refusal in ["invalid_grant", "another person"] {
        let mut trip = Trip::start().await;
        trip.log_in("r").await;
        match refusal {
            "invalid_grant" => trip.fake.returns_error(refusal),
            _ => trip.fake.returns("r", &json!({"sub": "8"})),
        }
        let cookies = trip.jar.clone();
        assert!(!trip.is_signed_in(NOW + 300).await, "{refusal}");
        trip.jar = cookies;
        assert!(!trip.is_signed_in(NOW + 1).await, "{refusal}: it stays revoked");
    }
}

#[tokio::test]
async fn a_session_stays_valid_while_the_provider_fails() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    for (status, answer) in [
        (500, json!({})),
        (400, json!({"error": "temporarily_unavailable"})),
        (200, json!("nonsense")),
    ] {
        *trip.fake.answer.lock().unwrap() = (status, answer);
        assert!(trip.is_signed_in(NOW + 300).await, "{status}");
    }
}

#[tokio::test]
async fn two_tabs_use_a_refresh_token_once() {
    let mut trip = Trip::start().await;
    trip.log_in("first").await;
    trip.fake.returns("second", &json!({}));
    let (one, other) =
        (trip.request(Method::GET, &own("/"), ""), trip.request(Method::GET, &own("/login"), ""));
    let (one, other) = tokio::join!(
        trip.portal.respond(&one, at(NOW + 300)),
        trip.portal.respond(&other, at(NOW + 300))
    );
    assert_eq!(trip.fake.requests(), 2, "the login, and one refresh");
    for reply in [&one, &other] {
        trip.keep(PORTAL_HOST, reply.as_ref().unwrap());
    }
    trip.fake.returns("third", &json!({"exp": NOW + 3000}));
    assert!(trip.is_signed_in(NOW + 600).await);
    assert_eq!(trip.fake.last_request()["refresh_token"], "second", "whichever reply came last");
}

#[tokio::test]
async fn a_session_expires_when_idle_or_too_old() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    trip.fake.returns("r", &json!({"exp": NOW + 100_000}));
    let mut now = NOW;
    while now < NOW + 8 * 3600 - 1800 {
        now += 1800;
        assert!(trip.is_signed_in(now).await, "after {} s", now - NOW);
    }
    assert!(!trip.is_signed_in(NOW + 8 * 3600).await, "after its absolute time");
    trip.jar.clear();
    trip.log_in("r").await;
    assert!(!trip.is_signed_in(NOW + 3600).await, "after its idle time");
}

#[tokio::test]
async fn only_logout_tokens_of_the_provider_revoke_sessions() {
    let mut trip = Trip::start().await;
    let url = trip.fake.url.clone();
    let events = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
    let good = json!({"iss": url, "aud": "portcullis", "exp": NOW + 120, "iat": NOW, "jti": "1", "events": events, "sid": "s1"});
    let with = |changes: Value| {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        claims
    };
    trip.log_in("r").await;
    for (kind, claims) in [
        ("logout+jwt", with(json!({"nonce": "n"}))),
        ("logout+jwt", with(json!({"events": null}))),
        ("logout+jwt", with(json!({"events": {"other": {}}}))),
        ("logout+jwt", with(json!({"sid": null}))),
        ("logout+jwt", with(json!({"aud": "others"}))),
        ("logout+jwt", with(json!({"iss": "https://evil.example"}))),
        ("logout+jwt", with(json!({"exp": NOW - 61}))),
        ("at+jwt", good.clone()),
    ] {
        let body = format!("logout_token={}", trip.fake.sign(kind, &claims));
        let reply = trip.call(Method::POST, &own("/backchannel-logout"), &body, NOW).await.unwrap();
        assert_eq!(reply.status, StatusCode::BAD_REQUEST, "{kind} {claims}");
        assert!(trip.is_signed_in(NOW).await, "{kind} {claims}");
    }
    for claims in [good.clone(), with(json!({"sid": null, "sub": "7"}))] {
        trip.jar.clear();
        trip.log_in("r").await;
        // Sessions that begin in the second of the logout are revoked too.
        let body = format!("logout_token={}", trip.fake.sign("logout+jwt", &claims));
        let reply = trip.call(Method::POST, &own("/backchannel-logout"), &body, NOW).await.unwrap();
        assert_eq!(
            (reply.status, reply.headers[header::CACHE_CONTROL].as_bytes()),
            (StatusCode::OK, &b"no-store"[..])
        );
        assert!(!trip.is_signed_in(NOW).await, "{claims}");
        trip.portal.sessions =
            Arc::new(Sessions::new(&crate::session::testing::settings(), None).unwrap());
    }
}

#[tokio::test]
async fn sign_out_on_all_devices_revokes_the_sessions_of_other_browsers() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let other = std::mem::take(&mut trip.jar);
    trip.log_in("r").await;
    let page = trip.get(&own("/logout"), NOW).await.unwrap();
    let html = String::from_utf8_lossy(&page.body).into_owned();
    let token =
        html.split_once("name=\"token\" value=\"").unwrap().1.split('"').next().unwrap().to_owned();
    let reply = trip
        .call(Method::POST, &own("/logout"), &format!("token={token}&everywhere=yes"), NOW + 1)
        .await
        .unwrap();
    assert!(String::from_utf8_lossy(&reply.body).contains("/end?a=b&amp;client_id=portcullis"));
    trip.jar = other;
    assert!(!trip.is_signed_in(NOW + 1).await);
}

#[tokio::test]
async fn unknown_paths_get_the_hidden_answer() {
    let mut trip = Trip::start().await;
    for url in [
        own("/admin"),
        own("/.well-known/portcullis/session?code=x"),
        own("/.well-known/portcullis/login"),
        format!("https://{SHOP}/.well-known/portcullis/session"),
        format!("https://{SHOP}/.well-known/portcullis/login/"),
        format!("https://{SHOP}/login"),
    ] {
        assert!(trip.get(&url, NOW).await.is_none(), "{url}");
    }
    let post = trip.call(Method::POST, &own("/callback"), "", NOW).await.unwrap();
    assert_eq!(post.status, StatusCode::METHOD_NOT_ALLOWED);
    let posted = trip
        .call(Method::POST, &format!("https://{SHOP}/.well-known/portcullis/login"), "", NOW)
        .await;
    assert!(posted.is_none());
}

#[tokio::test]
async fn a_full_queue_rejects_at_once() {
    let trip = Trip::start().await;
    let portal_client = PortalClient::new();
    let send = |last| {
        let client = client(last);
        portal_client.send(PortalRequest { client, ..trip.request(Method::GET, &own("/"), "") })
    };
    let mut crowd: Vec<_> = (0..256).map(|_| Box::pin(send(1))).collect();
    assert!(crowd.iter_mut().all(|asked| asked.as_mut().now_or_never().is_none()));
    assert_eq!(send(1).await.unwrap_err(), fair_queue::Full);
    // Another client finds room: one request of the crowd is displaced.
    let mut other = Box::pin(send(2));
    assert!(other.as_mut().now_or_never().is_none());
    let pushed_out = crowd.iter_mut().filter_map(|asked| asked.as_mut().now_or_never());
    assert_eq!(pushed_out.map(|asked| asked.unwrap_err()).collect::<Vec<_>>(), [fair_queue::Full]);
    drop(crowd);
    let portal = Trip::start().await.portal;
    let serving = tokio::spawn({
        let portal_client = portal_client.clone();
        async move { portal_client.serve(Arc::new(portal)).await }
    });
    let answered = tokio::time::timeout(Duration::from_secs(60), other).await.unwrap();
    assert_eq!(answered.unwrap().unwrap().status, StatusCode::OK);
    serving.abort();
}

#[tokio::test]
async fn a_client_with_many_logins_delays_no_other_client() {
    let mut trip = Trip::start().await;
    trip.log_in("r").await;
    let acquire = |last| trip.portal.slots.acquire(Class::Anonymous, client(last));
    let mut crowd = Vec::new();
    for _ in 0..8 {
        crowd.push(acquire(9).await.expect("a slot"));
    }
    let mut next = Box::pin(acquire(9));
    assert!(next.as_mut().now_or_never().is_none(), "a quarter of them at most");
    let stranger = PortalRequest {
        client: client(2),
        headers: HeaderMap::new(),
        ..trip.request(Method::GET, &own("/login"), "")
    };
    let status = async |request: &PortalRequest, now| {
        trip.portal.respond(request, at(now)).await.unwrap().status
    };
    assert_eq!(status(&stranger, NOW).await, StatusCode::SEE_OTHER);
    trip.fake.returns("next", &json!({"exp": NOW + 3000}));
    let known = PortalRequest { client: client(9), ..trip.request(Method::GET, &own("/"), "") };
    assert_eq!(status(&known, NOW + 400).await, StatusCode::OK);
    assert_eq!(trip.fake.requests(), 2, "sessions are still refreshed");
    crowd.pop();
    assert!(next.await.is_some(), "slots are released");
}
