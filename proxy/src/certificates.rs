//! Certificates in use: checked before they are served, found by SNI, replaced while connections go on.
//!
//! | step | module |
//! | --- | --- |
//! | may this one be served? | [`check`] |
//! | which ones are in use after a change? | [`selection`] |
//! | which one does this client get? | [`table`] |
//! | what do all others get? | [`placeholder`] |

mod check;
mod placeholder;
mod selection;
mod table;

#[cfg(test)]
pub(crate) mod testing;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portcullis_config::live::Live;
use portcullis_config::problem::Problem;
use portcullis_config::snapshot::certificate::Certificate;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

pub(crate) use self::check::Checked;
use self::selection::Selection;
use self::table::Table;

/// How often dates are looked at again: certificates become valid, and expire, without any other change.
const REVIEW: Duration = Duration::from_secs(60);

/// How long before its end a certificate's owner is told.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// The certificates that are served now. Shared by all workers, which read it once a handshake.
pub(crate) struct Certificates {
    table: ArcSwap<Table>,
    selection: ArcSwap<Selection>,
    placeholder: Arc<CertifiedKey>,
}

/// The placeholder could not be made.
#[derive(Debug, thiserror::Error)]
#[error("the placeholder certificate could not be made: {0}")]
pub struct PlaceholderError(#[source] Box<dyn std::error::Error + Send + Sync>);

/// What is wrong with certificates, without serving them.
#[must_use]
pub fn problems(certificates: &[Certificate], now: SystemTime) -> Vec<Problem> {
    Selection::default().next(certificates, now).problems
}

// === impl Certificates ===

impl Certificates {
    /// Without a certificate but the placeholder.
    pub(crate) fn new() -> Result<Arc<Self>, PlaceholderError> {
        let placeholder = placeholder::make()?;
        Ok(Arc::new(Self {
            table: ArcSwap::from_pointee(Table::new(&[], Arc::clone(&placeholder))),
            selection: ArcSwap::from_pointee(Selection::default()),
            placeholder,
        }))
    }

    /// Follows what the snapshot says, forever: a task of the control plane.
    pub(crate) async fn follow(&self, live: &Live) {
        let mut published = live.published();
        loop {
            self.update(live, SystemTime::now());
            // Either way the same work follows; and a sender that is gone leaves the dates to be looked at.
            let _ = tokio::time::timeout(REVIEW, published.changed()).await;
        }
    }

    /// Takes what the snapshot holds into use as far as it is good.
    pub(crate) fn update(&self, live: &Live, now: SystemTime) {
        let snapshot = live.snapshot.load();
        let previous = self.selection.load();
        let selection = previous.next(&snapshot.certificates, now);
        if selection.problems != previous.problems {
            for problem in &selection.problems {
                tracing::warn!(reason = problem.reason, origin = %problem.origin, help = problem.help, "{}", problem.message);
            }
        }
        if !selection.serves_the_same(&previous) {
            for certificate in &selection.in_use {
                tracing::info!(origin = %certificate.origin, names = ?certificate.names, "serving certificate");
            }
            self.table.store(Arc::new(Table::new(&selection.in_use, Arc::clone(&self.placeholder))));
        }
        self.selection.store(Arc::new(selection));
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

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.table.load().find(hello.server_name(), hello.signature_schemes()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}
