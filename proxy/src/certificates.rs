//! Certificates in use: checked before they are served, found by SNI, replaced while connections go
//! on.
//!
//! | step | module |
//! | --- | --- |
//! | may this one be served? | [`check`] |
//! | which ones are in use after a change? | [`selection`] |
//! | which one does this client get? | [`table`] |
//! | what do all others get? | [`placeholder`] |
//! | which ones does the gateway order by itself? | [`acme`] |

pub(crate) mod acme;
mod active_set;
mod check;
mod placeholder;
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
use portcullis_config::store::Held;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use tokio::sync::watch;

use self::acme::challenges::{ACME_TLS, Challenges};
use self::active_set::{Found, Selection};
pub(crate) use self::check::Checked;
use self::table::Table;

/// How often dates are looked at again: certificates become valid, and expire, without any other
/// change.
const REVIEW: Duration = Duration::from_secs(60);

/// How long before its end a certificate's owner is told: of a short life the last quarter.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The certificates that are served now. Shared by all workers, which read it once a handshake.
pub(crate) struct Certificates {
    table: ArcSwap<Table>,
    selection: ArcSwap<Selection>,
    brought: ArcSwap<Vec<HostPattern>>,
    placeholder: Arc<CertifiedKey>,
    challenges: Arc<Challenges>,
}

/// The placeholder could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the placeholder certificate could not be made: {0}")]
pub struct PlaceholderError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// What is wrong with certificates, without serving them.
#[must_use]
pub fn problems(certificates: &[Certificate], now: SystemTime) -> Vec<Problem> {
    Selection::default().next(&Found { brought: certificates, ..Found::default() }, now).problems
}

/// The hosts of `snapshot` that would get no certificate, told as problems, and the names that
/// would be ordered, without ordering them.
#[must_use]
pub fn planned(
    settings: &Settings,
    snapshot: &Snapshot,
    now: SystemTime,
) -> (Vec<Problem>, Vec<HostPattern>) {
    let Some(acme) = &settings.acme else { return (Vec::new(), Vec::new()) };
    let usable =
        snapshot.certificates.iter().filter_map(|certificate| check::check(certificate, now).ok());
    let brought: Vec<HostPattern> = usable.flat_map(|checked| checked.names).collect();
    let wanted = acme::desired::wanted(snapshot, &settings.zone, acme, &brought);
    (wanted.problems(acme.challenge), wanted.names.into_iter().collect())
}

// === impl Certificates ===

impl Certificates {
    /// Without a certificate but the placeholder.
    pub(crate) fn new() -> Result<Arc<Self>, PlaceholderError> {
        let placeholder = placeholder::make()?;
        Ok(Arc::new(Self {
            table: ArcSwap::from_pointee(Table::new(&[], Arc::clone(&placeholder))),
            selection: ArcSwap::from_pointee(Selection::default()),
            brought: ArcSwap::default(),
            placeholder,
            challenges: Arc::default(),
        }))
    }

    /// Follows what the snapshot says, forever: a task of the control plane.
    pub(crate) async fn follow(
        &self,
        live: &Live,
        mut ordered: watch::Receiver<Option<Arc<Held>>>,
    ) {
        let mut published = live.published();
        loop {
            let held = ordered.borrow_and_update().clone().unwrap_or_default();
            self.update(live, &held, SystemTime::now());
            // Either way the same work follows; and a sender that is gone leaves the dates to be
            // looked at.
            let _ = tokio::time::timeout(REVIEW, changed(&mut published, &mut ordered)).await;
        }
    }

    /// Takes what the snapshot and the store of ordered certificates hold into use as far as it is
    /// good. What people bring is preferred.
    pub(crate) fn update(&self, live: &Live, ordered: &Held, now: SystemTime) {
        let snapshot = live.snapshot.load();
        let previous = self.selection.load();
        let (expected, left) = acme::expected(ordered);
        let found = Found { brought: &snapshot.certificates, ordered: &expected, left: &left };
        let selection = previous.next(&found, now);
        self.brought.store(Arc::new(selection.names_of(&snapshot.certificates)));
        if selection.problems != previous.problems {
            for problem in &selection.problems {
                tracing::warn!(reason = problem.reason, origin = %problem.origin, help = problem.help, "{}", problem.message);
            }
        }
        if !selection.serves_the_same(&previous) {
            for certificate in selection.beside(&previous) {
                tracing::info!(origin = %certificate.origin, names = ?certificate.names, "serving certificate");
            }
            self.table
                .store(Arc::new(Table::new(&selection.in_use, Arc::clone(&self.placeholder))));
        }
        self.selection.store(Arc::new(selection));
    }

    /// The names that certificates are for which people have brought.
    pub(crate) fn brought(&self) -> Arc<Vec<HostPattern>> {
        self.brought.load_full()
    }

    /// What is answered to authorities.
    pub(crate) fn challenges(&self) -> &Arc<Challenges> {
        &self.challenges
    }

    /// What is served.
    pub(crate) fn in_use(&self) -> Vec<Arc<Checked>> {
        self.selection.load().in_use.clone()
    }

    /// What is wrong with certificates.
    pub(crate) fn problems(&self) -> Vec<Problem> {
        self.selection.load().problems.clone()
    }
}

/// Waits for a change of either; what cannot change any more is not waited for.
async fn changed(
    published: &mut watch::Receiver<()>,
    ordered: &mut watch::Receiver<Option<Arc<Held>>>,
) {
    tokio::select! {
        Ok(()) = published.changed() => {}
        Ok(()) = ordered.changed() => {}
        else => std::future::pending().await,
    }
}

impl ResolvesServerCert for Certificates {
    /// An authority that speaks `acme-tls/1` gets the certificate of its challenge, or none (RFC
    /// 8737 §3): for known names and for others.
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
