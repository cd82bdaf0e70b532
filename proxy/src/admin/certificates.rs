//! The page `/certificates`, which `portcullis certs` reads too: certificates in use, their expiry,
//! and their next renewal.
//!
//! Fields are only ever added: readers must ignore unknown ones.

use std::time::SystemTime;

use portcullis_config::model::Origin;
use portcullis_config::store::StoreError;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::certificates::acme::Acme;
use crate::certificates::acme::state::Record;
use crate::live_table::origin;

/// A certificate that is served, or to be ordered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its own name, if the gateway orders it; empty if an operator provides it.
    pub name: String,
    /// The DNS names that it is valid for.
    pub names: Vec<String>,
    /// The resource or file that it is in; empty before it was issued.
    pub origin: String,
    /// The directory of the authority that issued it, if the gateway ordered it.
    pub issuer: Option<String>,
    /// When it expires, in seconds since 1970.
    pub not_after: Option<u64>,
    /// Seconds until then; 0 once it has expired.
    pub expires_in_seconds: Option<u64>,
    /// When it is to be renewed, in seconds since 1970, if that is known.
    pub renew_at: Option<u64>,
    /// When a failed order is retried, in seconds since 1970.
    pub next_try: Option<u64>,
    /// Consecutive failed orders.
    pub failures: u32,
    /// The error of the last failed order.
    pub last_error: Option<String>,
    /// What is wrong with the certificate that is served, such as that its Secret is gone.
    #[serde(default)]
    pub problem: Option<String>,
}

/// Why a renewal was not requested.
#[derive(Debug)]
pub(super) enum NotRenewed {
    Unknown,
    Store(StoreError),
}

// === impl Admin ===

impl Admin {
    /// All certificates: those that the gateway orders, and those that operators provide.
    pub(super) fn certificate_list(&self) -> Vec<Certificate> {
        let now = SystemTime::now();
        let in_use = self.certificates.in_use();
        let problems = self.certificates.problems();
        let problem = |of: &Origin| {
            let found = problems.iter().find(|problem| problem.origin == *of);
            found.map(|problem| problem.message.clone())
        };
        let served = |checked: &crate::certificates::Checked| Certificate {
            names: checked.names.iter().map(ToString::to_string).collect(),
            origin: origin(&checked.origin),
            not_after: Some(seconds(checked.not_after)),
            expires_in_seconds: Some(checked.remaining(now).as_secs()),
            problem: problem(&checked.origin),
            ..Certificate::default()
        };
        let mut list = Vec::new();
        let mut ordered = Vec::new();
        for (name, record) in self.acme.iter().flat_map(|acme| acme.state().certificates.clone()) {
            let stored = self.acme.as_ref().and_then(|acme| stored_origin(acme, &name));
            let found =
                stored.and_then(|stored| in_use.iter().find(|checked| checked.origin == stored));
            ordered.extend(found.map(|checked| checked.origin.clone()));
            list.push(Certificate::ordered(
                name,
                record,
                found.map(|checked| served(checked)).unwrap_or_default(),
            ));
        }
        list.extend(
            in_use
                .iter()
                .filter(|checked| !ordered.contains(&checked.origin))
                .map(|checked| served(checked)),
        );
        list
    }

    /// Requests the renewal of an ordered certificate, found by its own name or a DNS name.
    /// Returns its own name.
    pub(super) async fn renew(&self, name: &str) -> Result<String, NotRenewed> {
        let Some(acme) = &self.acme else { return Err(NotRenewed::Unknown) };
        let state = acme.state();
        let found = state
            .certificates
            .iter()
            .find(|(own, record)| *own == name || record.names.contains(name));
        let Some((own, _)) = found else { return Err(NotRenewed::Unknown) };
        match acme.store().request_renewal(own.clone()).await {
            Ok(()) => Ok(own.clone()),
            // It has not been issued yet: an order is under way.
            Err(StoreError::Unknown) => Ok(own.clone()),
            Err(error) => Err(NotRenewed::Store(error)),
        }
    }

    /// Requests new keys for the accounts with authorities.
    pub(super) async fn roll_over(&self) -> Result<(), NotRenewed> {
        let Some(acme) = &self.acme else { return Err(NotRenewed::Unknown) };
        // Identifies the request; only ever compared for equality.
        let request = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros()
            .to_string();
        match acme.store().request_rollover(request).await {
            Ok(()) => Ok(()),
            Err(StoreError::Unknown) => Err(NotRenewed::Unknown),
            Err(error) => Err(NotRenewed::Store(error)),
        }
    }
}

fn stored_origin(acme: &Acme, name: &str) -> Option<Origin> {
    let stored = acme.store().contents().borrow().clone()?;
    stored.certificates.get(name).map(|stored| stored.certificate.origin.clone())
}

// === impl Certificate ===

impl Certificate {
    fn ordered(name: String, record: Record, served: Self) -> Self {
        let names =
            if served.names.is_empty() { record.names.into_iter().collect() } else { served.names };
        let renewal = record.renewal.filter(|renewal| Some(renewal.not_after) == served.not_after);
        Self {
            name,
            names,
            issuer: record.authority,
            renew_at: renewal.map(|renewal| renewal.at),
            next_try: record.failure.as_ref().map(|failure| failure.until),
            failures: record.failure.as_ref().map_or(0, |failure| failure.failures),
            last_error: record.failure.map(|failure| failure.error),
            ..served
        }
    }
}
