//! An issuer of tokens: its keys behind a socket, and everything that can be done with them, right
//! or wrong.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;

/// An issuer. Dropped, it is away.
pub(super) struct Issuer {
    address: SocketAddr,
    key: EcdsaKeyPair,
    kid: String,
    document: Arc<watch::Sender<String>>,
    /// What is said of tokens that only the issuer can read.
    opaque: Arc<watch::Sender<Value>>,
    fetches: Arc<AtomicUsize>,
    task: tokio::task::JoinHandle<()>,
}

pub(super) fn encoded(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs()
}

// === impl Issuer ===

impl Issuer {
    pub(super) async fn start(kid: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a key");
        let point = key.public_key().as_ref();
        let keys = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": encoded(&point[1..33]), "y": encoded(&point[33..])}]});
        let document = Arc::new(watch::Sender::new(keys.to_string()));
        let fetches = Arc::new(AtomicUsize::new(0));
        let opaque = Arc::new(watch::Sender::new(json!({})));
        let task = tokio::spawn(serve(
            listener,
            address,
            Arc::clone(&document),
            Arc::clone(&opaque),
            Arc::clone(&fetches),
        ));
        Self { address, key, kid: kid.to_owned(), document, opaque, fetches, task }
    }

    /// Its `iss`.
    pub(super) fn name(&self) -> String {
        format!("http://{}", self.address)
    }

    /// How the gateway is told of it.
    pub(super) fn settings(&self, name: &str, prefix: &str) -> Value {
        json!({"name": name, "issuer": self.name(), "audiences": ["portcullis"], "prefix": prefix, "algorithms": ["ES256"]})
    }

    /// How often its keys have been fetched.
    pub(super) fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }

    /// What it says of an opaque token when it is asked, from now on.
    pub(super) fn say(&self, token: &str, answer: Value) {
        self.opaque.send_modify(|opaque| opaque[token] = answer);
    }

    /// What it says its keys are, from now on.
    pub(super) fn publish(&self, document: &str) {
        self.document.send_replace(document.to_owned());
    }

    /// The header of its tokens.
    pub(super) fn header(&self) -> Value {
        json!({"alg": "ES256", "typ": "JWT", "kid": self.kid})
    }

    /// What a token says of Ann, who uses the application `shop`.
    pub(super) fn claims(&self) -> Value {
        json!({
            "iss": self.name(), "aud": "portcullis", "sub": "1001", "azp": "shop", "iat": now(), "exp": now() + 600,
            "email": "ann@example.com", "email_verified": true, "preferred_username": "ann", "groups": ["dev"]
        })
    }

    /// A token that is right in everything but what `header` and `claims` say.
    pub(super) fn token(&self, header: &Value, claims: &Value) -> String {
        self.sign(&encoded(header.to_string()), &encoded(claims.to_string()))
    }

    /// Signs two parts, whatever is in them.
    pub(super) fn sign(&self, header: &str, claims: &str) -> String {
        let message = format!("{header}.{claims}");
        let signature =
            self.key.sign(&SystemRandom::new(), message.as_bytes()).expect("a signature");
        format!("{message}.{}", encoded(signature))
    }

    /// A token "signed" with the public key as a shared secret, in each form in which the key can
    /// be had.
    pub(super) fn confused(&self, algorithm: &str) -> Vec<String> {
        let mut header = self.header();
        header["alg"] = json!(algorithm);
        let message =
            format!("{}.{}", encoded(header.to_string()), encoded(self.claims().to_string()));
        let point = self.key.public_key().as_ref().to_vec();
        let document = self.document.borrow().clone();
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

/// Answers each connection with one document, and closes it.
async fn serve(
    listener: TcpListener,
    address: SocketAddr,
    document: Arc<watch::Sender<String>>,
    opaque: Arc<watch::Sender<Value>>,
    fetches: Arc<AtomicUsize>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { return };
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
            let of = |path: &str| format!("http://{address}{path}");
            json!({"issuer": of(""), "jwks_uri": of("/keys"), "introspection_endpoint": of("/introspect")}).to_string()
        } else if path == "/introspect" {
            let form = String::from_utf8_lossy(&form);
            let token =
                form.split('&').find_map(|pair| pair.strip_prefix("token=")).unwrap_or_default();
            opaque.borrow().get(token).cloned().unwrap_or(json!({"active": false})).to_string()
        } else {
            fetches.fetch_add(1, Ordering::SeqCst);
            document.borrow().clone()
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: \
             {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        let _ = stream.shutdown().await;
    }
}
