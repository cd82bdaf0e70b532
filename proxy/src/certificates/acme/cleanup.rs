//! Removal of ordered certificates that are no longer needed, after a while.
//!
//! A certificate that is not known to have been ordered is never removed.

use std::time::{Duration, SystemTime};

use portcullis_config::model::HostPattern;
use portcullis_config::store::StoreState;
use portcullis_config::unix_time::seconds;

use super::desired::covers;
use super::leader::{Leader, facts};
use super::order::OrderError;
use super::state::{Seconds, State};

// === impl Leader ===

impl Leader<'_> {
    /// Removes certificates that have been unneeded for long enough.
    pub(super) async fn clean_up(&self, stored: &StoreState) -> Result<(), OrderError> {
        let removable =
            removable(&self.state(), stored, self.acme.acme().keep_unwanted, SystemTime::now());
        for certificate in &removable {
            self.acme.store().remove_certificate(self.term, certificate.clone()).await?;
            self.state().unneeded.remove(certificate);
            tracing::info!(certificate, "removed an unneeded certificate");
        }
        if removable.is_empty() { Ok(()) } else { self.save().await }
    }

    /// The time of the next removal, in seconds since 1970.
    pub(super) fn next_clean_up(&self) -> Seconds {
        let (keep, now) = (self.acme.acme().keep_unwanted.as_secs(), seconds(SystemTime::now()));
        let state = self.state();
        let ends = state.unneeded.values().map(|since| since.saturating_add(keep));
        ends.filter(|end| *end > now).min().unwrap_or(Seconds::MAX)
    }
}

/// The certificates that have been unneeded for `keep`, except those that are the only one for a
/// name.
fn removable(state: &State, stored: &StoreState, keep: Duration, now: SystemTime) -> Vec<String> {
    let is_due = |since: Seconds| since.saturating_add(keep.as_secs()) <= seconds(now);
    let due: Vec<&String> =
        state.unneeded.iter().filter(|(_, since)| is_due(**since)).map(|(name, _)| name).collect();
    if due.is_empty() {
        return Vec::new();
    }
    let missing = state.certificates.iter().filter(|(name, _)| facts(stored, name, now).is_none());
    let missing: Vec<HostPattern> = missing
        .flat_map(|(_, record)| &record.names)
        .filter_map(|name| name.parse().ok())
        .collect();
    let is_needed = |name: &str| {
        let names = facts(stored, name, now).map(|facts| facts.names).unwrap_or_default();
        let patterns = names.iter().filter_map(|name| name.parse::<HostPattern>().ok());
        patterns.into_iter().any(|pattern| missing.iter().any(|name| covers(&pattern, name)))
    };
    due.into_iter().filter(|name| !is_needed(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use portcullis_config::store::StoredCertificate;

    use super::*;
    use crate::certificates::acme::state::Record;
    use crate::certificates::testing::{certificate, now};

    const KEEP: Duration = Duration::from_secs(3600);

    fn stored(certificates: &[(&str, &[&str])]) -> StoreState {
        let entry = |names: &[&str]| StoredCertificate {
            certificate: certificate("place", names),
            renewal_requested: false,
        };
        StoreState {
            certificates: certificates
                .iter()
                .map(|(name, names)| ((*name).to_owned(), entry(names)))
                .collect(),
            ..StoreState::default()
        }
    }

    fn record(name: &str) -> Record {
        Record { names: BTreeSet::from([name.to_owned()]), ..Record::default() }
    }

    #[test]
    fn only_unneeded_certificates_are_removed_after_a_while() {
        let mut state = State::default();
        let stored = stored(&[("old", &["a.test"]), ("brought", &["b.test"])]);
        state.unneeded.insert("old".to_owned(), seconds(now()));
        assert!(removable(&state, &stored, KEEP, now()).is_empty());
        assert_eq!(removable(&state, &stored, KEEP, now() + KEEP), ["old"]);
    }

    #[test]
    fn the_only_certificate_for_a_name_stays_until_there_is_another() {
        let mut state = State::default();
        state.unneeded.insert("wildcard".to_owned(), 0);
        state.certificates.insert("new".to_owned(), record("a.apps.test"));
        let before = stored(&[("wildcard", &["*.apps.test"])]);
        assert!(removable(&state, &before, KEEP, now()).is_empty());
        let after = stored(&[("wildcard", &["*.apps.test"]), ("new", &["a.apps.test"])]);
        assert_eq!(removable(&state, &after, KEEP, now()), ["wildcard"]);
    }

    #[test]
    fn an_expired_certificate_is_removed_even_if_it_is_the_only_one() {
        let mut state = State::default();
        state.unneeded.insert("old".to_owned(), 0);
        state.certificates.insert("new".to_owned(), record("a.test"));
        let later = now() + Duration::from_secs(400 * 24 * 3600);
        assert_eq!(removable(&state, &stored(&[("old", &["a.test"])]), KEEP, later), ["old"]);
    }
}
