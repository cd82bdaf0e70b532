//! Certificates that were ordered and that nobody needs any more are removed after a while, so that
//! they don't heap up.
//!
//! What is not known to have been ordered is never removed.

use std::time::{Duration, SystemTime};

use portcullis_config::model::HostPattern;
use portcullis_config::store::Held;
use portcullis_config::unix_time::seconds;

use super::desired::covers;
use super::leader::{Leader, facts};
use super::order::Failed;
use super::state::{Seconds, State};

// === impl Leader ===

impl Leader<'_> {
    /// Removes what was left behind long enough ago.
    pub(super) async fn clean_up(&mut self, held: &Held) -> Result<(), Failed> {
        let unneeded =
            unneeded(&self.state, held, self.acme.acme().keep_unwanted, SystemTime::now());
        for certificate in &unneeded {
            self.acme.store().remove_certificate(self.term, certificate.clone()).await?;
            self.state.left.remove(certificate);
            tracing::info!(certificate, "a certificate that nobody needs any more was removed");
        }
        if unneeded.is_empty() { Ok(()) } else { self.save().await }
    }

    /// When something is to be removed next, as far as that is known; in seconds since 1970.
    pub(super) fn next_clean_up(&self) -> Seconds {
        let (keep, now) = (self.acme.acme().keep_unwanted.as_secs(), seconds(SystemTime::now()));
        let ends = self.state.left.values().map(|since| since.saturating_add(keep));
        ends.filter(|end| *end > now).min().unwrap_or(Seconds::MAX)
    }
}

/// What was left behind `keep` ago, and is not the only certificate that there is for a name.
fn unneeded(state: &State, held: &Held, keep: Duration, now: SystemTime) -> Vec<String> {
    let is_due = |since: Seconds| since.saturating_add(keep.as_secs()) <= seconds(now);
    let due: Vec<&String> =
        state.left.iter().filter(|(_, since)| is_due(**since)).map(|(name, _)| name).collect();
    if due.is_empty() {
        return Vec::new();
    }
    let lacking = state.certificates.iter().filter(|(name, _)| facts(held, name, now).is_none());
    let lacking: Vec<HostPattern> = lacking
        .flat_map(|(_, record)| &record.names)
        .filter_map(|name| name.parse().ok())
        .collect();
    let is_needed = |name: &str| {
        let names = facts(held, name, now).map(|facts| facts.names).unwrap_or_default();
        let patterns = names.iter().filter_map(|name| name.parse::<HostPattern>().ok());
        patterns.into_iter().any(|kept| lacking.iter().any(|name| covers(&kept, name)))
    };
    due.into_iter().filter(|name| !is_needed(name)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use portcullis_config::store::Kept;

    use super::*;
    use crate::certificates::acme::state::Record;
    use crate::certificates::testing::{certificate, now};

    const KEEP: Duration = Duration::from_secs(3600);

    fn held(certificates: &[(&str, &[&str])]) -> Held {
        let kept = |names: &[&str]| Kept {
            certificate: certificate("place", names),
            renewal_asked: false,
        };
        Held {
            certificates: certificates
                .iter()
                .map(|(name, names)| ((*name).to_owned(), kept(names)))
                .collect(),
            ..Held::default()
        }
    }

    fn wanted(name: &str) -> Record {
        Record { names: BTreeSet::from([name.to_owned()]), ..Record::default() }
    }

    #[test]
    fn what_was_left_is_removed_after_a_while_and_nothing_else() {
        let mut state = State::default();
        let held = held(&[("old", &["a.test"]), ("brought", &["b.test"])]);
        state.left.insert("old".to_owned(), seconds(now()));
        assert!(unneeded(&state, &held, KEEP, now()).is_empty());
        assert_eq!(unneeded(&state, &held, KEEP, now() + KEEP), ["old"]);
    }

    #[test]
    fn what_is_the_only_one_for_a_name_stays_until_there_is_another() {
        let mut state = State::default();
        state.left.insert("wildcard".to_owned(), 0);
        state.certificates.insert("new".to_owned(), wanted("a.apps.test"));
        let before = held(&[("wildcard", &["*.apps.test"])]);
        assert!(unneeded(&state, &before, KEEP, now()).is_empty());
        let after = held(&[("wildcard", &["*.apps.test"]), ("new", &["a.apps.test"])]);
        assert_eq!(unneeded(&state, &after, KEEP, now()), ["wildcard"]);
    }

    #[test]
    fn what_has_ended_is_of_no_use_to_any_name() {
        let mut state = State::default();
        state.left.insert("old".to_owned(), 0);
        state.certificates.insert("new".to_owned(), wanted("a.test"));
        let later = now() + Duration::from_secs(400 * 24 * 3600);
        assert_eq!(unneeded(&state, &held(&[("old", &["a.test"])]), KEEP, later), ["old"]);
    }
}
