//! Credentials, and the Secrets that tell the gateway of them.

use portcullis_config::client_key::{Key, write_hash};
use serde_json::{Value, json};

/// A client key that no other test has.
pub(crate) fn client_key() -> Key {
    let mut random = [0; 32];
    aws_lc_rs::rand::fill(&mut random).expect("randomness");
    Key::new(&random)
}

/// The Secret of a client key of an application.
pub(crate) fn client_key_secret(name: &str, application: &str, key: &Key) -> Value {
    let content = json!({ "application": application, "hash": write_hash(&key.hash()) });
    secret(name, "client-key", content)
}

/// The Secret of a key that seals sessions: 32 times this octet, so that replicas can share it.
pub(crate) fn session_key_secret(name: &str, octet: char) -> Value {
    secret(name, "session-key", json!({ "key": octet.to_string().repeat(32) }))
}

fn secret(name: &str, credential: &str, content: Value) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": "portcullis",
            "labels": { "portcullis.dev/credential": credential },
        },
        "stringData": content,
    })
}
