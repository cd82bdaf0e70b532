//! What all replicas of a gateway must know of login sessions, in Secrets that they write
//! themselves.
//!
//! | module | what | Secrets |
//! | --- | --- | --- |
//! | [`ended`] | the sessions that were ended before their time | `portcullis-ended-sessions-1` to `-4` |
//! | [`keys`] | the keys that seal sessions, made and rotated by the gateway | `portcullis-session-keys` |
//! | [`store::session`](crate::store::session) | how such a Secret is changed, in a cluster and in a folder | |
//!
//! Their names never change, so that a Role can grant these alone, and nobody needs the right to
//! make or delete any. They are read like all credentials: by the watch of the source, into the
//! snapshot. An entry's name says all about it, and no entry is ever changed: so replicas
//! that add and take away at the same time undo nothing of each other's.

pub mod keys;
pub mod revocations;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::snapshot::certificate::SecretBytes;

/// By how much the clocks of replicas may differ: for so long more is kept what is over.
pub(crate) const LEEWAY: Duration = Duration::from_secs(300);

/// Entries to be added to one Secret and to be taken from it. All others stay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The Secret's name.
    pub secret: &'static str,
    /// The value of its label [`CREDENTIAL`](crate::model::credential::CREDENTIAL).
    pub kind: &'static str,
    /// What is added.
    pub add: BTreeMap<String, SecretBytes>,
    /// What is taken away, where it is there.
    pub remove: BTreeSet<String>,
    /// What the Secret must be like for the change to hold; without it, the change holds in any
    /// case.
    pub only_if: Option<Seen>,
}

/// What a Secret was like when it was decided to change it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// Its `metadata.resourceVersion`, where it comes from a cluster and is there.
    pub version: Option<Arc<str>>,
    /// The names of its entries.
    pub entries: BTreeSet<String>,
}
