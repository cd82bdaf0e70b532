//! Server certificates: checked before they are served, selected by SNI, and replaced without
//! closing connections.
//!
//! | step | module |
//! | --- | --- |
//! | check a certificate | [`check`] |
//! | choose the active set after a change | [`active_set`] |
//! | limit a tenant's certificate to its own hosts | [`scope`] |
//! | select the certificate for a client | [`table`] |
//! | serve names without a certificate | [`placeholder`] |
//! | order certificates by ACME | [`acme`] |

pub(crate) mod acme;
mod active_set;
mod check;
mod placeholder;
mod scope;
mod table;

#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portcullis_config::live::Live;
use portcullis_config::model::HostPattern;
use portcullis_config::problem::Problem;
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::certificate::Certificate;
use portcullis_config::store::StoreState;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use self::acme::challenges::{ACME_TLS, Challenges};
use self::active_set::{ActiveSet, Available};
pub(crate) use self::check::Checked;
use self::scope::Scopes;
use self::table::Table;

/// How often dates are checked: certificates become valid, and expire, without any other change.
const DATE_CHECK: Duration = Duration::from_secs(60);

/// How long before its expiry a certificate is reported; a quarter of its lifetime if that is less.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The certificates in use. Shared by all workers, which read it once for each handshake.
pub(crate) struct Certificates {
    table: ArcSwap<Table>,
    active: ArcSwap<ActiveSet>,
    provided_names: ArcSwap<Vec<HostPattern>>,
    placeholder: Arc<CertifiedKey>,
    challenges: Arc<Challenges>,
}

/// The placeholder certificate could not be generated.
#[derive(Debug, thiserror::Error)]
#[error("failed to generate the placeholder certificate: {0}")]
pub struct PlaceholderError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// The problems of certificates, without serving them.
#[must_use]
pub fn problems(certificates: &[Certificate], now: SystemTime) -> Vec<Problem> {
    let available = Available { provided: certificates, ..Available::default() };
    ActiveSet::default().next(&available, now).problems
}

/// The hosts of `snapshot` that would get no certificate, as problems, and the names that would be
/// ordered, without ordering them.
#[must_use]
pub fn planned(
    settings: &Settings,
    snapshot: &Snapshot,
    now: SystemTime,
) -> (Vec<Problem>, Vec<HostPattern>) {
    let Some(acme) = &settings.acme else { return (Vec::new(), Vec::new()) };
    let usable =
        snapshot.certificates.iter().filter_map(|certificate| check::check(certificate, now).ok());
    let scopes = Scopes::new(snapshot);
    let provided: Vec<HostPattern> = usable.flat_map(|checked| scopes.names(&checked)).collect();
    let desired = acme::desired::desired(snapshot, &settings.zone, acme, &provided);
    (desired.problems(acme.challenge), desired.names.into_keys().collect())
}

// === impl Certificates ===

impl Certificates {
    /// Creates a set with no certificate but the placeholder.
    pub(crate) fn new() -> Result<Arc<Self>, PlaceholderError> {
        let placeholder = placeholder::generate()?;
        Ok(Arc::new(Self {
            table: ArcSwap::from_pointee(Table::new(
                &[],
                &Scopes::default(),
                Arc::clone(&placeholder),
            )),
            active: ArcSwap::from_pointee(ActiveSet::default()),
            provided_names: ArcSwap::default(),
            placeholder,
            challenges: Arc::default(),
        }))
    }

    /// Keeps the active set up to date, forever: a task of the control plane.
    pub(crate) async fn watch(
        &self,
        live: &Live,
        mut ordered: watch::Receiver<Option<Arc<StoreState>>>,
    ) {
        let mut published = live.published();
        loop {
            let stored = ordered.borrow_and_update().clone().unwrap_or_default();
            self.update(live, &stored, SystemTime::now());
            // On a timeout, or without senders, dates are still checked.
            let _ = tokio::time::timeout(DATE_CHECK, changed(&mut published, &mut ordered)).await;
        }
    }

    /// Takes usable certificates of the snapshot and of the store of ordered ones into use. Those
    /// that operators provide are preferred.
    pub(crate) fn update(&self, live: &Live, ordered: &StoreState, now: SystemTime) {
        let snapshot = live.snapshot.load();
        let previous = self.active.load();
        let needed = acme::needed(ordered);
        let available = Available::new(&snapshot.certificates, &ordered.certificates, needed);
        let mut active = previous.next(&available, now);
        let scopes = Scopes::new(&snapshot);
        active.problems.extend(active.in_use.iter().filter_map(|checked| scopes.problem(checked)));
        self.provided_names.store(Arc::new(active.names_of(&snapshot.certificates, &scopes)));
        if active.problems != previous.problems {
            for problem in &active.problems {
                tracing::warn!(reason = problem.reason, origin = %problem.origin, help = problem.help, "{}", problem.message);
            }
        }
        let serves_the_same = active.serves_the_same(&previous);
        if !serves_the_same {
            for certificate in active.added_since(&previous) {
                let names: Vec<String> =
                    certificate.names.iter().map(ToString::to_string).collect();
                let names = names.join(", ");
                tracing::info!(origin = %certificate.origin, names, "serving certificate");
            }
        }
        // The hosts that limit a certificate may have changed.
        if !serves_the_same || active.in_use.iter().any(|checked| scopes.limits(checked)) {
            let table = Table::new(&active.in_use, &scopes, Arc::clone(&self.placeholder));
            self.table.store(Arc::new(table));
        }
        self.active.store(Arc::new(active));
    }

    /// The names of the certificates that operators provide.
    pub(crate) fn provided_names(&self) -> Arc<Vec<HostPattern>> {
        self.provided_names.load_full()
    }

    /// The open ACME challenges.
    pub(crate) fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// The certificates that are served.
    pub(crate) fn in_use(&self) -> Vec<Arc<Checked>> {
        self.active.load().in_use.clone()
    }

    /// The problems of certificates.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.active.load().problems.clone()
    }
}

/// Waits for a change of either; a channel without a sender is ignored.
async fn changed(
    published: &mut watch::Receiver<()>,
    ordered: &mut watch::Receiver<Option<Arc<StoreState>>>,
) {
    tokio::select! {
        Ok(()) = published.changed() => {}
        Ok(()) = ordered.changed() => {}
        else => std::future::pending().await,
    }
}

impl ResolvesServerCert for Certificates {
    /// Selects the certificate. An authority that offers `acme-tls/1` gets that of its challenge,
    /// or none (RFC 8737 §3), for known and unknown names alike.
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS)) {
            return self.challenges.certificate(hello.server_name()?);
        }
        Some(self.table.load().find(hello.server_name(), hello.signature_schemes()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}
