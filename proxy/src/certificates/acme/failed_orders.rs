//! Failed orders of the last hour by Namespace, and failed names: what a tenant's names that cannot
//! be validated may cost. Part of the stored state, so that a new leader continues the count.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_config::model::HostPattern;
use serde::{Deserialize, Serialize};

use super::state::{Failure, Seconds};

/// The period in which failed orders are counted.
const PERIOD: Seconds = 3600;
/// How long the failure of a name is kept after its next retry, so that a name that is removed and
/// added again continues its back-off.
const KEPT: Seconds = 24 * 3600;
/// The most octets of failures that are kept: the state is one Secret of at most 1 MiB.
const MAX_KEPT: usize = 128 * 1024;
/// The longest error that is kept of a name, in bytes, for the same reason.
const MAX_ERROR: usize = 100;

/// The failed orders of each Namespace, by time, the oldest first.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FailedOrders(BTreeMap<String, Vec<Seconds>>);

/// The last failure of each name that could not be validated.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct FailedNames(BTreeMap<String, Failure>);

// === impl FailedOrders ===

impl FailedOrders {
    /// Counts a failed order.
    pub(crate) fn record(&mut self, namespace: &str, now: Seconds) {
        self.0.retain(|_, times| {
            times.retain(|time| is_recent(*time, now));
            !times.is_empty()
        });
        self.0.entry(namespace.to_owned()).or_default().push(now);
    }

    /// How many orders of a Namespace failed within the last hour.
    pub(crate) fn of(&self, namespace: &str, now: Seconds) -> usize {
        self.recent(namespace, now).count()
    }

    /// When fewer than `most` orders of a Namespace will have failed within an hour.
    pub(crate) fn below(&self, namespace: &str, most: usize, now: Seconds) -> Seconds {
        after(self.recent(namespace, now), most)
    }

    /// When fewer than `most` orders of all Namespaces will have failed within an hour.
    pub(crate) fn all_below(&self, most: usize, now: Seconds) -> Seconds {
        after(self.0.keys().flat_map(|namespace| self.recent(namespace, now)), most)
    }

    fn recent(&self, namespace: &str, now: Seconds) -> impl Iterator<Item = Seconds> {
        let times = self.0.get(namespace).into_iter().flatten().copied();
        times.filter(move |time| is_recent(*time, now))
    }
}

/// A time in the future was written when the clock was wrong.
fn is_recent(time: Seconds, now: Seconds) -> bool {
    time <= now && now - time < PERIOD
}

/// When fewer than `most` of `times` will be recent.
fn after(times: impl Iterator<Item = Seconds>, most: usize) -> Seconds {
    let mut times: Vec<Seconds> = times.collect();
    times.sort_unstable();
    let last = times.len().checked_sub(most).and_then(|index| times.get(index));
    last.map_or(0, |time| time.saturating_add(PERIOD))
}

// === impl FailedNames ===

impl FailedNames {
    /// Records the failure of a name.
    pub(crate) fn record(&mut self, name: &str, failure: &Failure, now: Seconds) {
        self.0.retain(|_, failure| failure.until.saturating_add(KEPT) > now);
        let mut failure = failure.clone();
        failure.error.truncate(failure.error.floor_char_boundary(MAX_ERROR));
        self.0.insert(name.to_owned(), failure);
        let size = |(name, failure): (&String, &Failure)| name.len() + failure.error.len() + 64;
        let mut kept: usize = self.0.iter().map(size).sum();
        while kept > MAX_KEPT {
            let first = self.0.iter().min_by_key(|(_, failure)| failure.until);
            let Some(name) = first.map(|(name, _)| name.clone()) else { return };
            let removed = self.0.remove(&name);
            kept -= removed.map_or(0, |failure| size((&name, &failure)));
        }
    }

    /// Removes names that were validated.
    pub(crate) fn validated(&mut self, names: &BTreeSet<String>) {
        self.0.retain(|name, _| !names.contains(name));
    }

    /// The last failure of a name.
    pub(crate) fn get(&self, name: &str) -> Option<&Failure> {
        self.0.get(name)
    }

    /// The names.
    pub(crate) fn names(&self) -> BTreeSet<HostPattern> {
        self.0.keys().filter_map(|name| name.parse().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Seconds = 1_800_000_000;

    #[test]
    fn failed_orders_are_counted_for_an_hour() {
        let mut failed = FailedOrders::default();
        failed.record("shop", NOW);
        failed.record("shop", NOW + 10);
        failed.record("other", NOW + 20);
        assert_eq!(failed.of("shop", NOW + 20), 2);
        assert_eq!(failed.below("shop", 2, NOW + 20), NOW + PERIOD);
        assert_eq!(failed.below("shop", 1, NOW + 20), NOW + 10 + PERIOD);
        assert_eq!(failed.below("shop", 3, NOW + 20), 0);
        assert_eq!(failed.all_below(3, NOW + 20), NOW + PERIOD);
        assert_eq!(failed.of("shop", NOW + PERIOD), 1);
        failed.record("other", NOW + 2 * PERIOD);
        assert_eq!(failed.0.len(), 1, "nothing old is stored");
        assert_eq!(failed.of("other", NOW), 0, "by a clock that was ahead");
    }

    #[test]
    fn failures_of_names_are_kept_until_they_are_validated_or_old() {
        let failure = |until| Failure { failures: 1, until, error: String::new() };
        let mut failed = FailedNames::default();
        failed.record("a.test", &failure(NOW), NOW);
        failed.record("b.test", &failure(NOW + 60), NOW);
        assert_eq!(failed.get("a.test"), Some(&failure(NOW)));
        failed.validated(&BTreeSet::from(["a.test".to_owned()]));
        assert_eq!(failed.get("a.test"), None);
        failed.record("c.test", &failure(NOW + 2 * KEPT), NOW + 60 + KEPT);
        assert_eq!(failed.get("b.test"), None);
    }
}
