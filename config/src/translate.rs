//! What resources mean: a pure function from [`Resources`] to a [`Snapshot`], with what is wrong
//! beside it.
//!
//! One bad resource never hides another: each is translated on its own, and what cannot be
//! understood of it is told as a [`Problem`]. Where that is about access, it stays closed.

pub mod annotations;
pub mod endpoints;

mod access;
mod dirty;
mod implicit;
mod policy;
mod port;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use crate::model::Origin;
use crate::problem::{Problem, Severity};
use crate::resources::Resources;
use crate::resources::credential::Credential;
use crate::session::keys;
use crate::settings::hostname::InvalidTemplate;
use crate::settings::{CertificateSettings, Settings};
use crate::snapshot::access::{Credentials, EndedSessions, KeyRing};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::endpoints::EndpointCells;
use crate::snapshot::{Listener, ListenerProtocol, Snapshot};

pub(crate) use self::dirty::Dirty;
pub use self::endpoints::endpoint_set;
pub use self::policy::{MAX_RETRIES, RETRY_CODES};

/// What resources mean.
#[derive(Debug, Default)]
pub struct Translation {
    /// The routing table.
    pub snapshot: Snapshot,
    /// What is wrong, by resource.
    pub problems: Vec<Problem>,
}

/// Translates all resources. The same resources give the same translation, in whatever order they
/// came.
#[must_use]
pub fn translate(settings: &Settings, resources: &Resources) -> Translation {
    translate_reusing(settings, resources, &mut EndpointCells::default())
}

/// Translates all resources, and takes endpoint cells from `cells` by [`EndpointCells::cell`], so
/// that workers keep what they know of them. The caller commits the cells once the snapshot is
/// published.
#[must_use]
pub fn translate_reusing(
    settings: &Settings,
    resources: &Resources,
    cells: &mut EndpointCells,
) -> Translation {
    let (Translation { snapshot, mut problems }, wrong) =
        translate_apart(settings, resources, cells);
    problems.extend(wrong);
    problems.sort_by(|one, other| (&one.origin, one).cmp(&(&other.origin, other)));
    problems.dedup();
    Translation { snapshot, problems }
}

/// The same; what is wrong with credentials, which change by themselves too, stands beside the
/// rest, and nothing of it in an order.
pub(crate) fn translate_apart(
    settings: &Settings,
    resources: &Resources,
    cells: &mut EndpointCells,
) -> (Translation, Vec<Problem>) {
    let mut problems = Vec::new();
    let (hosts, public_names) = implicit::hosts(settings, resources, cells, &mut problems);
    let hosts = Arc::new(hosts);
    problems.extend(resources.all_slices().filter_map(|slice| endpoints::orphan(resources, slice)));
    let listener = |name: &str, protocol| Listener {
        name: name.into(),
        protocol,
        hostname: None,
        hosts: hosts.clone(),
    };
    let http =
        settings.listeners.http.address.map(|_| listener(Listener::HTTP, ListenerProtocol::Http));
    let https = settings
        .listeners
        .https
        .address
        .map(|_| listener(Listener::HTTPS, ListenerProtocol::Https));
    let (credentials, wrong) = credentials(resources);
    let snapshot = Snapshot {
        listeners: http.into_iter().chain(https).collect(),
        certificates: certificates(settings, resources, &mut problems),
        credentials,
        public_names,
    };
    (Translation { snapshot, problems }, wrong)
}

/// The certificates that the configuration names, in its order. One from files that is missing was
/// told by who reads files.
fn certificates(
    settings: &Settings,
    resources: &Resources,
    problems: &mut Vec<Problem>,
) -> Vec<Certificate> {
    let mut find = |wanted: &CertificateSettings| {
        let found = resources.certificate(wanted).cloned();
        if let (None, CertificateSettings::Secret { namespace, name }) = (&found, wanted) {
            problems.push(Problem {
                severity: Severity::Error,
                reason: "NoCertificate",
                origin: Origin {
                    kind: "Secret",
                    namespace: namespace.as_str().into(),
                    name: name.as_str().into(),
                    place: None,
                },
                message: "the configuration names it for a certificate, but it is not there, or \
                          not readable"
                    .to_owned(),
                help: "create it, of type `kubernetes.io/tls`, and let the gateway read it"
                    .to_owned(),
            });
        }
        found
    };
    settings.certificates.iter().filter_map(&mut find).collect()
}

/// All credentials, in the order of their Secrets' names, and what is wrong with them. Of two
/// Secrets with the same client key the first counts.
pub(crate) fn credentials(resources: &Resources) -> (Credentials, Vec<Problem>) {
    let (mut credentials, mut problems) = (Credentials::default(), Vec::new());
    let mut seen: BTreeMap<[u8; 32], &Origin> = BTreeMap::new();
    for credential in resources.credentials() {
        match credential {
            Credential::SessionKey(key) => credentials.session_keys.push(key.clone()),
            Credential::SessionKeys(ring, keys) => {
                problems.extend(garbled_keys(ring));
                credentials.session_keys.extend_from_slice(keys);
                if *ring.origin.name == *keys::SECRET {
                    credentials.key_ring = Some(ring.clone());
                }
            }
            Credential::EndedSessions(ended) => {
                problems.extend(garbled_ends(ended));
                credentials.ended_sessions.push(ended.clone());
            }
            Credential::ClientKey(key) => match seen.entry(key.hash) {
                Entry::Vacant(entry) => {
                    entry.insert(&key.origin);
                    credentials.client_keys.push(key.clone());
                }
                Entry::Occupied(entry) => problems.push(Problem {
                    severity: Severity::Error,
                    reason: "DuplicateKey",
                    origin: key.origin.clone(),
                    message: format!("it holds the same key as {}, which counts", entry.get()),
                    help: "make a key for each application by `portcullis key create`, and take \
                           this one away"
                        .to_owned(),
                }),
            },
        }
    }
    (credentials, problems)
}

fn garbled_keys(ring: &KeyRing) -> Option<Problem> {
    ring.is_garbled.then(|| Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin: ring.origin.clone(),
        message: "some of its entries hold no key of 32 octets, named by when it was made"
            .to_owned(),
        help: "take them away; until then they seal and open no session".to_owned(),
    })
}

fn garbled_ends(ended: &EndedSessions) -> Option<Problem> {
    ended.is_garbled.then(|| Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin: ended.origin.clone(),
        message: "some of its entries tell of no session that was ended, or cannot be understood: \
                  all sessions that had begun before are ended"
            .to_owned(),
        help: "take them away; nobody but the gateway writes there".to_owned(),
    })
}

// === impl Problem ===

impl From<InvalidTemplate> for Problem {
    fn from(wrong: InvalidTemplate) -> Self {
        Self {
            severity: Severity::Error,
            reason: "InvalidHostnameTemplate",
            origin: Origin::default(),
            message: format!("`{}`: {wrong}", wrong.key()),
            help: wrong.help().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
