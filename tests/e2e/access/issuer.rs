//! A token issuer: a server for its keys, and everything that can be signed with them, valid
//! or not.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// An issuer. Unreachable once dropped.
pub(crate) struct Issuer {
    address: SocketAddr,
    name: String,
    key: EcdsaKeyPair,
    kid: String,
    says: Arc<Says>,
    task: tokio::task::JoinHandle<()>,
}

/// Its responses, and the requests that it got.
struct Says {
    name: String,
    document: watch::Sender<String>,
    /// The introspection responses for opaque tokens.
    opaque: watch::Sender<Value>,
    /// The delay of introspection responses.
    delay: watch::Sender<Duration>,
    fetches: AtomicUsize,
    /// The number of introspection requests for each opaque token.
    questions: Mutex<HashMap<String, usize>>,
    /// The current number of introspection requests, and the maximum.
    asking: (AtomicUsize, AtomicUsize),
}

pub(crate) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

// === impl Issuer ===

impl Issuer {
    pub(crate) async fn start(kid: &str) -> Self {
        Self::named(kid, None).await
    }

    /// One whose `iss` is not the address that it listens on.
    pub(crate) async fn named(kid: &str, name: Option<&str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let name = name.map_or_else(|| format!("http://{address}"), str::to_owned);
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = key.public_key().as_ref();
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encoded(&point[1..33]), "y": encoded(&point[33..])}]});
        let says = Arc::new(Says {
            name: name.clone(),
            document: watch::Sender::new(keys.to_string()),
            opaque: watch::Sender::new(json!({})),
            delay: watch::Sender::new(Duration::ZERO),
            fetches: AtomicUsize::new(0),
            questions: Mutex::default(),
            asking: Default::default(),
        });
        let task = tokio::spawn(serve(listener, Arc::clone(&says)));
        Self { address, name, key, kid: kid.to_owned(), says, task }
    }

    /// Its `iss`.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    /// The address that it listens on.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its entry in the gateway's configuration.
    pub(crate) fn settings(&self, name: &str, prefix: &str) -> Value {
        json!({"name": name, "issuer": self.name(), "audiences": ["portcullis"], "prefix": prefix, "algorithms": ["ES256"]})
    }

    /// The number of fetches of its keys.
    pub(crate) fn fetches(&self) -> usize {
        self.says.fetches.load(Ordering::SeqCst)
    }

    /// Sets the introspection response for an opaque token.
    pub(crate) fn say(&self, token: &str, answer: Value) {
        self.says.opaque.send_modify(|opaque| opaque[token] = answer);
    }

    /// Sets the delay of introspection responses.
    pub(crate) fn take(&self, delay: Duration) {
        self.says.delay.send_replace(delay);
    }

    /// The number of introspection requests for an opaque token.
    pub(crate) fn questions(&self, token: &str) -> usize {
        let questions = self.says.questions.lock().expect("no panic");
        questions.get(token).copied().unwrap_or(0)
    }

    /// The maximum number of concurrent introspection requests.
    pub(crate) fn most_questions(&self) -> usize {
        self.says.asking.1.load(Ordering::SeqCst)
    }

    /// Sets its published keys.
    pub(crate) fn publish(&self, document: &str) {
        self.says.document.send_replace(document.to_owned());
    }

    /// The header of its tokens.
    pub(crate) fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.kid})
    }

    /// The claims of a token for Ann, who uses the application `shop`.
    pub(crate) fn claims(&self) -> Value {
        json!({
            "iss": self.name(), "aud": "portcullis", "sub": "1001", "azp": "shop", "iat": now(), "exp": now() + 600,
            "email": "ann@example.com", "email_verified": true, "preferred_username": "ann", "groups": ["dev"]
        })
    }

    /// A valid token except for `header` and `claims`.
    pub(crate) fn token(&self, header: &Value, claims: &Value) -> String {
        self.sign(&encoded(header.to_string()), &encoded(claims.to_string()))
    }

    /// Signs two parts, regardless of their content.
    pub(crate) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{header}.{claims}");
        let signature =
            self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", encoded(signature))
    }

    /// A token "signed" with the public key as a shared secret, in each form in which the key can
    /// be encoded.
    pub(crate) fn confused(&self, algorithm: &str) -> Vec<String> {
        let mut header = self.header();
        header["alg"] = json!(algorithm);
        let message =
            format!("{}.{}", encoded(header.to_string()), encoded(self.claims().to_string()));
        let point = self.key.public_key().as_ref().to_vec();
        let document = self.says.document.borrow().clone();
        let hash = match algorithm {
            "HS384" => hmac::HMAC_SHA384,
            "HS512" => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        };
        let secrets = [
            point.clone(),
            point[1..].to_vec(),
            document.into_bytes(),
            encoded(&point).into_bytes(),
            Vec::new(),
        ];
        secrets
            .iter()
            .map(|secret| {
                format!(
                    "{message}.{}",
                    encoded(hmac::sign(&hmac::Key::new(hash, secret), message.as_bytes()))
                )
            })
            .collect()
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Responds to each connection with one document, and closes it.
async fn serve(listener: TcpListener, says: Arc<Says>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
        let says = Arc::clone(&says);
        tokio::spawn(async move { says.answer(stream).await });
    }
}

// === impl Says ===

impl Says {
    async fn answer(&self, stream: TcpStream) {
        let mut stream = BufReader::new(stream);
        let (mut line, mut path, mut length) = (String::new(), String::new(), 0);
        while stream.read_line(&mut line).await.is_ok_and(|read| read > 2) {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap_or_default().to_owned();
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
            line.clear();
        }
        let mut form = vec![0; length];
        let _ = stream.read_exact(&mut form).await;
        let body = if path.ends_with("/openid-configuration") {
            let of = |path: &str| format!("{}{path}", self.name);
            json!({"issuer": of(""), "jwks_uri": of("/keys"), "introspection_endpoint": of("/introspect")}).to_string()
        } else if path == "/introspect" {
            let form = String::from_utf8_lossy(&form);
            let token =
                form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
            self.introspect(token).await
        } else {
            self.fetches.fetch_add(1, Ordering::SeqCst);
            self.document.borrow().clone()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    async fn introspect(&self, token: &str) -> String {
        let (now, most) = &self.asking;
        most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        *self.questions.lock().expect("no panic").entry(token.to_owned()).or_default() += 1;
        let delay = *self.delay.borrow();
        tokio::time::sleep(delay).await;
        now.fetch_sub(1, Ordering::SeqCst);
        self.opaque.borrow().get(token).cloned().unwrap_or(json!({"active": false})).to_string()
    }
}
