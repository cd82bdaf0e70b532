//! An OpenID provider for the demo only: it listens on the loopback and lets users pick an identity
//! without a password.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use portcullis_config::unix_time::seconds;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::cli::problems::Failure;

/// The identifier of the client for browser logins.
pub(super) const BROWSER: &str = "browser";
/// The audience of tokens.
pub(super) const AUDIENCE: &str = "portcullis";
/// Name and email address of each user: the shop has a grant for the first only.
const USERS: [(&str, &str); 2] = [("ann", "ann@shop.example"), ("eve", "eve@elsewhere.example")];
/// The lifetime of tokens, in seconds.
const LIFETIME: u64 = 3600;
/// The maximum size of a form, in octets.
const MAX_FORM: usize = 16 * 1024;

/// A running provider, which stops on drop.
pub(super) struct Provider {
    state: Arc<State>,
    task: tokio::task::JoinHandle<()>,
}

struct State {
    address: SocketAddr,
    key: EcdsaKeyPair,
    codes: Mutex<HashMap<String, Code>>,
}

/// A pending authorization code.
struct Code {
    person: usize,
    challenge: String,
    nonce: Option<String>,
}

// === impl Provider ===

impl Provider {
    /// Starts a provider on a free port of the loopback.
    pub(super) async fn start() -> Result<Self, Failure> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(Failure::new)?;
        let address = listener.local_addr().map_err(Failure::new)?;
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(Failure::new)?;
        let state = Arc::new(State { address, key, codes: Mutex::default() });
        let task = tokio::spawn(serve(listener, Arc::clone(&state)));
        Ok(Self { state, task })
    }

    /// The issuer's URL.
    pub(super) fn url(&self) -> String {
        self.state.url("")
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, state: Arc<State>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let state = Arc::clone(&state);
                async move { Ok::<_, Infallible>(state.answer(request).await) }
            });
            // Errors of a client's connection do not matter here.
            let _ = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

// === impl State ===

impl State {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let query = pairs(head.uri.query().unwrap_or_default().as_bytes());
        match (&head.method, head.uri.path()) {
            (&Method::GET, "/.well-known/openid-configuration") => document(&self.discovery()),
            (&Method::GET, "/keys") => document(&self.keys()),
            (&Method::GET, "/authorize") => self.authorize(&query),
            (&Method::POST, "/token") => match Limited::new(body, MAX_FORM).collect().await {
                Ok(form) => self.token(&pairs(&form.to_bytes())),
                Err(_) => plain(StatusCode::PAYLOAD_TOO_LARGE, "too large"),
            },
            // For curl: a token for the named user, issued to the named client.
            (&Method::GET, "/token") => self.token_for(&query),
            _ => plain(StatusCode::NOT_FOUND, "There is nothing here."),
        }
    }

    fn discovery(&self) -> Value {
        json!({
            "issuer": self.url(""), "jwks_uri": self.url("/keys"),
            "authorization_endpoint": self.url("/authorize"), "token_endpoint": self.url("/token"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"], "code_challenge_methods_supported": ["S256"],
            "id_token_signing_alg_values_supported": ["ES256"], "token_endpoint_auth_methods_supported": ["none"],
        })
    }

    fn keys(&self) -> Value {
        let (x, y) = self
            .key
            .public_key()
            .as_ref()
            .get(1..)
            .unwrap_or_default()
            .split_at_checked(32)
            .unwrap_or_default();
        json!({"keys": [{"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": "demo", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// Shows the choice of users; with `person`, redirects back with a code for that user.
    fn authorize(&self, query: &HashMap<String, String>) -> Response<Full<Bytes>> {
        let given = |name: &str| query.get(name).map(String::as_str).unwrap_or_default();
        if given("client_id") != BROWSER
            || given("code_challenge_method") != "S256"
            || !given("redirect_uri").starts_with("https://")
        {
            return plain(StatusCode::BAD_REQUEST, "This is not a request of the demo's gateway.");
        }
        let Some(person) = USERS.iter().position(|(name, _)| *name == given("person")) else {
            return page(query);
        };
        let Ok(code) = random() else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "no random numbers");
        };
        let login = Code {
            person,
            challenge: given("code_challenge").to_owned(),
            nonce: query.get("nonce").cloned(),
        };
        self.codes.lock().unwrap_or_else(PoisonError::into_inner).insert(code.clone(), login);
        let parameters = form_urlencoded::Serializer::new(String::new())
            .append_pair("code", &code)
            .append_pair("state", given("state"))
            .finish();
        let answer = Response::builder()
            .status(StatusCode::SEE_OTHER)
            .header(header::LOCATION, format!("{}?{parameters}", given("redirect_uri")));
        answer.body(Full::default()).unwrap_or_default()
    }

    /// Exchanges a code, once, for the client that started the login (RFC 7636 §4.6).
    fn token(&self, form: &HashMap<String, String>) -> Response<Full<Bytes>> {
        let given = |name: &str| form.get(name).map(String::as_str).unwrap_or_default();
        let login = self.codes.lock().unwrap_or_else(PoisonError::into_inner).remove(given("code"));
        let challenge = URL_SAFE_NO_PAD.encode(digest(&SHA256, given("code_verifier").as_bytes()));
        match login.filter(|login| login.challenge == challenge) {
            Some(login) => {
                let token = self.sign(login.person, BROWSER, login.nonce.as_deref());
                document(
                    &json!({"access_token": token, "id_token": token, "token_type": "Bearer", "expires_in": LIFETIME}),
                )
            }
            None => plain(StatusCode::BAD_REQUEST, r#"{"error":"invalid_grant"}"#),
        }
    }

    fn token_for(&self, query: &HashMap<String, String>) -> Response<Full<Bytes>> {
        let person = USERS
            .iter()
            .position(|(name, _)| query.get("person").is_some_and(|person| person == name));
        match person {
            Some(person) => plain(
                StatusCode::OK,
                &self.sign(person, query.get("client").map_or("curl", String::as_str), None),
            ),
            None => plain(StatusCode::NOT_FOUND, "unknown person: use ann or eve"),
        }
    }

    fn sign(&self, person: usize, client: &str, nonce: Option<&str>) -> String {
        let (name, email) = USERS.get(person).copied().unwrap_or_default();
        let now = seconds(SystemTime::now());
        let mut claims = json!({
            "iss": self.url(""), "aud": [AUDIENCE, BROWSER], "sub": name, "azp": client, "iat": now, "exp": now + LIFETIME,
            "email": email, "email_verified": true, "preferred_username": name, "groups": ["people"],
        });
        if let (Some(nonce), Some(claims)) = (nonce, claims.as_object_mut()) {
            claims.insert("nonce".into(), json!(nonce));
        }
        let header = json!({"alg": "ES256", "typ": "JWT", "kid": "demo"});
        let message = format!(
            "{}.{}",
            URL_SAFE_NO_PAD.encode(header.to_string()),
            URL_SAFE_NO_PAD.encode(claims.to_string())
        );
        let signature = self.key.sign(&SystemRandom::new(), message.as_bytes());
        let signature = signature
            .map(|signature| URL_SAFE_NO_PAD.encode(signature.as_ref()))
            .unwrap_or_default();
        format!("{message}.{signature}")
    }
}

fn pairs(text: &[u8]) -> HashMap<String, String> {
    form_urlencoded::parse(text).into_owned().collect()
}

fn random() -> Result<String, aws_lc_rs::error::Unspecified> {
    let mut octets = [0_u8; 16];
    aws_lc_rs::rand::fill(&mut octets)?;
    Ok(URL_SAFE_NO_PAD.encode(octets))
}

/// The page to choose a user on.
fn page(query: &HashMap<String, String>) -> Response<Full<Bytes>> {
    let mut people = String::new();
    for (name, email) in USERS {
        let mut parameters = form_urlencoded::Serializer::new(String::new());
        parameters
            .extend_pairs(query.iter().filter(|(name, _)| *name != "person"))
            .append_pair("person", name);
        // URL encoding leaves no character that is special in HTML except `&`.
        people.push_str(&format!(
            "<li><a href=\"/authorize?{}\">{name} ({email})</a></li>\n",
            parameters.finish().replace('&', "&amp;")
        ));
    }
    let html = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" \
         content=\"width=device-width\">\n<title>Demo \
         provider</title>\n<style>body{{font:1.1rem/1.6 system-ui;max-width:32rem;margin:3rem \
         auto;padding:0 1rem;color-scheme:light dark}}</style>\n<h1>Who are you?</h1>\n<p>This \
         provider is for the demo only and asks for no password.</p>\n<ul>\n{people}</ul>\n</html>\n"
    );
    answer(StatusCode::OK, "text/html; charset=utf-8", html)
}

fn document(json: &Value) -> Response<Full<Bytes>> {
    answer(StatusCode::OK, "application/json", json.to_string())
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    answer(status, "text/plain; charset=utf-8", text.to_owned())
}

fn answer(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let answer = Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, media_type)
        .header(header::CACHE_CONTROL, "no-store");
    answer.body(Full::new(text.into())).unwrap_or_default()
}
