//! Certificates as `/certificates` tells them, which `portcullis certs` reads too: what is served,
//! until when, and what comes next.
//!
//! Fields are only ever added. Whatever reads it must pass over fields that it does not know.

use std::time::SystemTime;

use portcullis_config::store::StoreError;
use portcullis_config::unix_time::seconds;
use serde::{Deserialize, Serialize};

use super::Admin;
use crate::certificates::acme::Acme;
use crate::certificates::acme::state::Record;
use crate::live_table::origin;

/// A certificate that is served, or that is to be.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certificate {
    /// Its own name, where the gateway orders it; empty where people have brought it.
    pub name: String,
    /// The names that it is for.
    pub names: Vec<String>,
    /// Where it was found; empty before there is one.
    pub origin: String,
    /// The directory of the authority that issued it, where the gateway has ordered it.
    pub issuer: Option<String>,
    /// When it ends, in seconds since 1970.
    pub not_after: Option<u64>,
    /// Seconds until then; 0 once it has ended.
    pub expires_in_seconds: Option<u64>,
    /// When it is to be renewed, in seconds since 1970, as far as that is known.
    pub renew_at: Option<u64>,
    /// When an order that failed is tried again, in seconds since 1970.
    pub next_try: Option<u64>,
    /// Orders that failed in a row.
    pub failures: u32,
    /// Why the last one failed.
    pub last_error: Option<String>,
}

/// Why a renewal was not asked for.
#[derive(Debug)]
pub(super) enum NotRenewed {
    Unknown,
    Store(StoreError),
}

// === impl Admin ===

impl Admin {
    /// All certificates: those that are ordered, and those that were brought.
    pub(super) fn certificate_list(&self) -> Vec<Certificate> {
        let now = SystemTime::now();
        let in_use = self.certificates.in_use();
        let served = |checked: &crate::certificates::Checked| Certificate {
            names: checked.names.iter().map(ToString::to_string).collect(),
            origin: origin(&checked.origin),
            not_after: Some(seconds(checked.not_after)),
            expires_in_seconds: Some(checked.remaining(now).as_secs()),
            ..Certificate::default()
        };
        let mut list = Vec::new();
        let mut ordered = Vec::new();
        for (name, record) in self.acme.iter().flat_map(|acme| acme.known().certificates.clone()) {
            let kept = self.acme.as_ref().and_then(|acme| kept(acme, &name));
            let found = kept.and_then(|kept| in_use.iter().find(|checked| checked.origin == kept));
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

    /// Asks for the renewal of an ordered certificate, by its own name or by a name that it is for.
    /// Returns its own name.
    pub(super) async fn renew(&self, name: &str) -> Result<String, NotRenewed> {
        let Some(acme) = &self.acme else { return Err(NotRenewed::Unknown) };
        let known = acme.known();
        let found = known
            .certificates
            .iter()
            .find(|(own, record)| *own == name || record.names.contains(name));
        let Some((own, _)) = found else { return Err(NotRenewed::Unknown) };
        match acme.store().ask_renewal(own.clone()).await {
            Ok(()) => Ok(own.clone()),
            // It is being ordered already.
            Err(StoreError::Unknown) => Ok(own.clone()),
            Err(error) => Err(NotRenewed::Store(error)),
        }
    }

    /// Asks for new keys of the accounts with authorities.
    pub(super) async fn roll_over(&self) -> Result<(), NotRenewed> {
        let Some(acme) = &self.acme else { return Err(NotRenewed::Unknown) };
        // What tells one request from another is never compared but for equality.
        let request = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default()
            .as_micros()
            .to_string();
        match acme.store().ask_rollover(request).await {
            Ok(()) => Ok(()),
            Err(StoreError::Unknown) => Err(NotRenewed::Unknown),
            Err(error) => Err(NotRenewed::Store(error)),
        }
    }
}

fn kept(acme: &Acme, name: &str) -> Option<portcullis_config::model::Origin> {
    let held = acme.store().held().borrow().clone()?;
    held.certificates.get(name).map(|kept| kept.certificate.origin.clone())
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
            next_try: record.trouble.as_ref().map(|trouble| trouble.until),
            failures: record.trouble.as_ref().map_or(0, |trouble| trouble.failures),
            last_error: record.trouble.map(|trouble| trouble.error),
            ..served
        }
    }
}
