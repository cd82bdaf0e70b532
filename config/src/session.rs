//! State of login sessions that the replicas of a gateway share, in Secrets that they write.
//!
//! | module | what | Secrets |
//! | --- | --- | --- |
//! | [`revocations`] | revoked sessions | `portcullis-ended-sessions-1` to `-4` |
//! | [`keys`] | the keys that seal sessions, generated and rotated by the gateway | `portcullis-session-keys` |
//! | [`store::credentials`](crate::store::credentials) | how such a Secret is changed, in a cluster and in a folder | |
//!
//! Their names never change, so that a Role can grant access to these alone, without the right to
//! create or delete Secrets. They are read like all credentials: by the watch of the source, into
//! the snapshot. An entry is fully described by its name and is never changed, so replicas that add
//! and remove entries at the same time do not undo each other's changes.

pub mod keys;
pub mod revocations;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::certificate::SecretBytes;

/// How much the clocks of replicas may differ: expired entries are kept for that much longer.
pub(crate) const LEEWAY: Duration = Duration::from_secs(300);

/// Entries to add to one Secret and to remove from it. All others stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The Secret's name.
    pub secret: Cow<'static, str>,
    /// The value of its label [`CREDENTIAL`](crate::model::credential::CREDENTIAL).
    pub kind: &'static str,
    /// Annotations to set; others stay.
    pub annotate: BTreeMap<String, String>,
    /// The entries to add.
    pub add: BTreeMap<String, SecretBytes>,
    /// The entries to remove, where they exist.
    pub remove: BTreeSet<String>,
    /// The state that the Secret must be in for the change to apply; without it, it always applies.
    pub only_if: Option<Seen>,
}

// === impl Change ===

impl Change {
    /// An empty change of a Secret.
    #[must_use]
    pub fn of(secret: Cow<'static, str>, kind: &'static str) -> Self {
        Self {
            secret,
            kind,
            annotate: BTreeMap::new(),
            add: BTreeMap::new(),
            remove: BTreeSet::new(),
            only_if: None,
        }
    }
}

/// The state of a Secret when a change to it was computed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its `metadata.resourceVersion`, where it exists in a cluster.
    pub version: Option<Arc<str>>,
    /// The names of its entries.
    pub entries: BTreeSet<String>,
}
