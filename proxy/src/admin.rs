//! The admin listener: health, metrics and the live table, for operators and their machines. It
//! runs on the control plane's runtime, never on a worker, and reads; all that it can be asked to
//! do is to renew certificates and keys.

pub mod certificates;
mod readiness;
mod serve;
pub mod sessions;
pub mod table;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use portcullis_config::live::Live;
use portcullis_config::problem::Problem;
use portcullis_config::settings::Settings;
use portcullis_config::store::session;

pub(crate) use self::serve::serve;
use self::table::Table;
use crate::access::Authenticator;
use crate::certificates::Certificates;
use crate::certificates::acme::Acme;
use crate::explain::{Explanation, InvalidQuestion, Question, explain_by};
use crate::telemetry::Telemetry;
use crate::worker::Shared;

/// How often readiness is looked at by [`Admin::ready`].
const LOOK: Duration = Duration::from_millis(20);

/// All that the admin listener can tell of.
pub(crate) struct Admin {
    settings: Arc<Settings>,
    live: Arc<Live>,
    certificates: Arc<Certificates>,
    telemetry: Arc<Telemetry>,
    authenticator: Arc<Authenticator>,
    acme: Option<Arc<Acme>>,
    /// Where session keys are kept; `None` where the gateway makes none.
    sessions: Option<Arc<dyn session::Store>>,
    draining: AtomicBool,
}

// === impl Admin ===

impl Admin {
    pub(crate) fn new(
        shared: &Shared,
        certificates: Arc<Certificates>,
        acme: Option<Arc<Acme>>,
        sessions: Option<Arc<dyn session::Store>>,
    ) -> Self {
        Self {
            settings: Arc::clone(&shared.settings),
            live: Arc::clone(&shared.live),
            certificates,
            telemetry: Arc::clone(&shared.telemetry),
            authenticator: Arc::clone(&shared.authenticator),
            acme,
            sessions,
            draining: AtomicBool::new(false),
        }
    }

    /// Says that the gateway drains: it is not ready any more, although it goes on serving.
    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Waits until the gateway is ready.
    pub(crate) async fn ready(&self) {
        while !self.not_ready().is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Why the gateway is not ready; empty where it is.
    fn not_ready(&self) -> Vec<&'static str> {
        let draining = self.draining.load(Ordering::Acquire);
        let certificate =
            !self.settings.listeners.https.address.is_some_and(|_| self.lacks_certificate());
        readiness::reasons(readiness::State {
            synced: self.live.is_synced(),
            draining,
            certificate,
        })
    }

    fn lacks_certificate(&self) -> bool {
        !self.settings.certificates.is_empty() && self.certificates.in_use().is_empty()
    }

    fn certificate_problems(&self) -> Vec<Problem> {
        let mut problems = self.certificates.problems();
        problems.extend(self.acme.iter().flat_map(|acme| acme.problems()));
        problems
    }

    /// Why a request would go where it goes, by what is served now.
    fn explain(&self, question: &Question) -> Result<Explanation, InvalidQuestion> {
        explain_by(&self.settings, &self.live.snapshot.load(), &self.authenticator, question)
    }

    /// The live table.
    fn table(&self) -> Table {
        let mut problems = self.live.problems.load().to_vec();
        problems.extend(self.certificate_problems());
        let now = SystemTime::now();
        Table {
            ready: self.not_ready().is_empty(),
            age_seconds: self.live.age(now).map(|age| age.as_secs()),
            certificates: self
                .certificates
                .in_use()
                .iter()
                .map(|certificate| table::Certificate::new(certificate, now))
                .collect(),
            ..Table::new(&self.live.snapshot.load(), &problems)
        }
    }
}
