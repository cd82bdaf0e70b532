//! The client keys, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::client_key;
use portcullis_config::snapshot::access::ClientKey;

use super::caller::{Application, Caller};
use super::rejected::Rejected;

/// All client keys, by SHA-256. The time of a lookup reveals at most the hash, which a client
/// cannot choose.
#[derive(Default)]
pub struct ClientKeys(HashMap<[u8; 32], Entry>);

struct Entry {
    application: Application,
    expires: Option<SystemTime>,
}

// === impl ClientKeys ===

impl ClientKeys {
    /// Builds the table.
    pub fn new(keys: &[ClientKey]) -> Self {
        Self(
            keys.iter()
                .map(|key| {
                    (
                        key.hash,
                        Entry {
                            application: Arc::clone(&key.application).into(),
                            expires: key.expires,
                        },
                    )
                })
                .collect(),
        )
    }

    /// Returns the caller of a key.
    pub fn find(&self, key: &str, now: SystemTime) -> Result<Caller, Rejected> {
        let entry =
            if key.len() == client_key::LENGTH { self.0.get(&client_key::hash(key)) } else { None };
        let Some(entry) = entry else {
            return Err(if client_key::is_well_formed(key) {
                Rejected::UnknownClientKey
            } else {
                Rejected::Malformed
            });
        };
        if entry.expires.is_some_and(|expires| expires <= now) {
            return Err(Rejected::Expired);
        }
        Ok(Caller {
            application: Some(entry.application.clone()),
            user: None,
            until: entry.expires,
        })
    }
}
