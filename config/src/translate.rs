//! Translates [`Resources`] to a [`Snapshot`] and a list of [`Problem`]s, as a pure function.
//!
//! An invalid resource never affects another: each is translated on its own, and its invalid parts
//! are reported as a [`Problem`]. If such a part controls access, access is denied.

pub mod annotations;
mod cors;
pub mod endpoints;

mod access;
mod dirty;
mod health_check;
mod hostnames;
mod implicit;
mod policy;
mod port;
mod rate_limit;
mod retry_on;
mod variants;

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::Origin;
use crate::model::vocabulary::ENVIRONMENT;
use crate::problem::{Problem, Severity};
use crate::resources::credential::Credential;
use crate::resources::{Namespace, Resources};
use crate::session::keys;
use crate::settings::hostname::InvalidTemplate;
use crate::settings::{CertificateSettings, Settings};
use crate::snapshot::access::{Credentials, KeyRing, RevokedSessions};
use crate::snapshot::certificate::Certificate;
use crate::snapshot::endpoints::EndpointCells;
use crate::snapshot::{Listener, ListenerProtocol, Snapshot};

pub(crate) use self::dirty::Dirty;
pub use self::endpoints::endpoint_set;
pub use self::policy::MAX_RETRIES;
pub use self::retry_on::RETRY_CODES;
pub use self::variants::{NamedRange, Previous, STABLE, SplitView, UnusableVariant, split_view};

/// The result of a translation.
#[derive(Debug, Default)]
pub struct Translation {
    /// The routing table.
    pub snapshot: Snapshot,
    /// The problems, sorted by resource.
    pub problems: Vec<Problem>,
}

/// Translates all resources. The result does not depend on the order in which objects were added,
/// but on earlier versions of each (`Annotations::last_valid`).
#[must_use]
pub fn translate(settings: &Settings, resources: &Resources) -> Translation {
    translate_reusing(settings, resources, &mut EndpointCells::default())
}

/// Translates all resources, and reuses endpoint cells by [`EndpointCells::cell`], so that workers
/// keep their state of them. The caller commits the cells once the snapshot is published.
#[must_use]
pub fn translate_reusing(
    settings: &Settings,
    resources: &Resources,
    cells: &mut EndpointCells,
) -> Translation {
    let (Translation { snapshot, mut problems }, credential_problems) =
        translate_apart(settings, resources, cells);
    problems.extend(credential_problems);
    problems.sort_by(|one, other| (&one.origin, one).cmp(&(&other.origin, other)));
    problems.dedup();
    Translation { snapshot, problems }
}

/// Translates all resources, and returns the problems of credentials, which also change on their
/// own, separately. Problems are not sorted.
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
    let (credentials, credential_problems) = credentials(resources);
    let snapshot = Snapshot {
        listeners: http.into_iter().chain(https).collect(),
        certificates: certificates(settings, resources, &mut problems),
        credentials,
        public_names,
        tenants: tenants(settings, resources),
    };
    (Translation { snapshot, problems }, credential_problems)
}

/// The certificates of the configuration, in its order. Missing files are not reported here, but by
/// the source that reads them.
fn certificates(
    settings: &Settings,
    resources: &Resources,
    problems: &mut Vec<Problem>,
) -> Vec<Certificate> {
    let mut find = |certificate: &CertificateSettings| {
        let found = resources.certificate(certificate).cloned();
        if let (None, CertificateSettings::Secret { namespace, name }) = (&found, certificate) {
            problems.push(Problem {
                severity: Severity::Error,
                reason: "NoCertificate",
                origin: Origin {
                    kind: "Secret",
                    namespace: namespace.as_str().into(),
                    name: name.as_str().into(),
                    place: None,
                },
                message: "the configuration refers to it for a certificate, but it does not exist \
                          or is not readable"
                    .to_owned(),
                help: "create it with type `kubernetes.io/tls`, and allow the gateway to read it"
                    .to_owned(),
            });
        }
        found
    };
    settings.certificates.iter().filter_map(&mut find).collect()
}

/// The environments with Secrets among the certificates. Whoever may write such a Secret must not
/// replace the certificate of another Namespace's host, or of the zone.
fn tenants(settings: &Settings, resources: &Resources) -> BTreeSet<Arc<str>> {
    let namespaces = settings.certificates.iter().filter_map(|certificate| match certificate {
        CertificateSettings::Secret { namespace, .. } => resources.namespace(namespace),
        CertificateSettings::Files { .. } => None,
    });
    let is_tenant = |namespace: &&Namespace| {
        namespace.labels.get(ENVIRONMENT.name).is_some()
            && !implicit::is_reserved(settings, resources, namespace.name())
    };
    namespaces.filter(is_tenant).map(|namespace| namespace.name().clone()).collect()
}

/// All credentials, in the order of their Secrets' names, and their problems. Of two Secrets with
/// the same client key the first takes effect.
pub(crate) fn credentials(resources: &Resources) -> (Credentials, Vec<Problem>) {
    let (mut credentials, mut problems) = (Credentials::default(), Vec::new());
    let mut seen: BTreeMap<[u8; 32], &Origin> = BTreeMap::new();
    for credential in resources.credentials() {
        match credential {
            Credential::SessionKey(key) => credentials.session_keys.push(key.clone()),
            Credential::SessionKeys(ring, keys) => {
                problems.extend(invalid_key_entries(ring));
                credentials.session_keys.extend_from_slice(keys);
                if *ring.origin.name == *keys::SECRET {
                    credentials.key_ring = Some(ring.clone());
                }
            }
            Credential::RevokedSessions(revoked) => {
                problems.extend(invalid_revocation_entries(revoked));
                credentials.revoked_sessions.push(revoked.clone());
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
                    message: format!("it has the same key as {}, which takes effect", entry.get()),
                    help: "create a key for each application with `portcullis key create`, and \
                           remove this one"
                        .to_owned(),
                }),
            },
        }
    }
    (credentials, problems)
}

fn invalid_key_entries(ring: &KeyRing) -> Option<Problem> {
    ring.has_invalid_entries.then(|| Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin: ring.origin.clone(),
        message: "some of its entries are not keys of 32 octets named by their creation time"
            .to_owned(),
        help: "remove them; until then they are not used".to_owned(),
    })
}

fn invalid_revocation_entries(revoked: &RevokedSessions) -> Option<Problem> {
    revoked.has_invalid_entries.then(|| Problem {
        severity: Severity::Error,
        reason: "Unreadable",
        origin: revoked.origin.clone(),
        message: "some of its entries are not valid revocations: all sessions that started before \
                  are revoked"
            .to_owned(),
        help: "remove them; only the gateway writes to this Secret".to_owned(),
    })
}

// === impl Problem ===

impl From<InvalidTemplate> for Problem {
    fn from(error: InvalidTemplate) -> Self {
        Self {
            severity: Severity::Error,
            reason: "InvalidHostnameTemplate",
            origin: Origin::default(),
            message: format!("`{}`: {error}", error.key()),
            help: error.help().to_owned(),
        }
    }
}

#[cfg(test)]
mod tests;
