//! The client keys that are known, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_config::client_key;
use portcullis_config::snapshot::access::ClientKey;

use super::caller::Caller;
use super::rejected::Rejected;

/// All client keys. They are looked up by SHA-256 of what was shown: how long that takes tells
/// about the hash alone, which nobody can choose their way towards.
#[derive(Default)]
pub struct ClientKeys(HashMap<[u8; 32], Known>);

struct Known {
    application: Arc<str>,
    expires: Option<SystemTime>,
}

// === impl ClientKeys ===

impl ClientKeys {
    /// A table of these keys.
    pub fn new(keys: &[ClientKey]) -> Self {
        Self(
            keys.iter()
                .map(|key| {
                    (
                        key.hash,
                        Known { application: Arc::clone(&key.application), expires: key.expires },
                    )
                })
                .collect(),
        )
    }

    /// Whose key it is.
    pub fn find(&self, key: &str, now: SystemTime) -> Result<Caller, Rejected> {
        let known =
            if key.len() == client_key::LENGTH { self.0.get(&client_key::hash(key)) } else { None };
        let Some(known) = known else {
            return Err(if client_key::is_well_formed(key) {
                Rejected::UnknownClientKey
            } else {
                Rejected::Malformed
            });
        };
        if known.expires.is_some_and(|expires| expires <= now) {
            return Err(Rejected::Expired);
        }
        Ok(Caller {
            application: Some(Arc::clone(&known.application)),
            user: None,
            until: known.expires,
        })
    }
}
