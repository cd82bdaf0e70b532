//! Who leads: a Lease of `coordination.k8s.io`, taken and kept as client-go's leader election does
//! it.
//!
//! No two machines' clocks are compared: a Lease is abandoned when it has not changed for its
//! duration by the clock of whoever watches it, and its holder stops by its own clock a while
//! before that.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::store::Term;

/// The Lease's name.
pub(super) const NAME: &str = "portcullis-acme";
/// How long an abandoned Lease is waited for.
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder that cannot renew it still counts as one.
const DEADLINE: Duration = Duration::from_secs(10);
/// How often it is looked at, and renewed.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// One replica.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    /// The version of the Lease that was seen last, and since when.
    seen: Option<(String, Instant)>,
    /// The term that is held, and when it was renewed.
    held: Option<(Term, Instant)>,
}

/// Whether a replica leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// It does.
    Leads(Term),
    /// Another one does, or nobody.
    Follows,
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None, held: None }
    }

    /// What the Lease should become; `None` where it is another's.
    pub(super) fn look(
        &mut self,
        found: Option<&Lease>,
        now: Instant,
        time: Timestamp,
    ) -> Option<Lease> {
        let Some(lease) = found else {
            return Some(self.lease(None, 1, time, time));
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, now));
        }
        let spec = lease.spec.clone().unwrap_or_default();
        let holder = spec.holder_identity.unwrap_or_default();
        let transitions = spec.lease_transitions.unwrap_or(0);
        if holder == self.identity {
            let acquired = spec.acquire_time.map_or(time, |acquired| acquired.0);
            return Some(self.lease(Some(lease), transitions, acquired, time));
        }
        self.held = None;
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        let still =
            self.seen.as_ref().is_some_and(|(_, since)| now.duration_since(*since) < duration);
        if !holder.is_empty() && still {
            return None;
        }
        Some(self.lease(Some(lease), transitions.saturating_add(1), time, time))
    }

    /// The Lease was written as it should be; `asked` is when that was begun.
    pub(super) fn won(&mut self, written: &Lease, asked: Instant) {
        let transitions =
            written.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        self.seen = Some((written.metadata.resource_version.clone().unwrap_or_default(), asked));
        self.held = Some((Term(u64::try_from(transitions).unwrap_or(0)), asked));
    }

    pub(super) fn standing(&self, now: Instant) -> Standing {
        match self.held {
            Some((term, renewed)) if now.duration_since(renewed) < DEADLINE => {
                Standing::Leads(term)
            }
            _ => Standing::Follows,
        }
    }

    fn lease(
        &self,
        before: Option<&Lease>,
        transitions: i32,
        acquired: Timestamp,
        renewed: Timestamp,
    ) -> Lease {
        let metadata = ObjectMeta {
            name: Some(NAME.to_owned()),
            resource_version: before.and_then(|lease| lease.metadata.resource_version.clone()),
            ..ObjectMeta::default()
        };
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: Some(MicroTime(acquired)),
            renew_time: Some(MicroTime(renewed)),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        };
        Lease { metadata, spec: Some(spec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The API server: gives each version a number.
    fn written(lease: &Lease, version: u32) -> Lease {
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    fn time() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_first_takes_it_and_the_second_waits_until_it_is_abandoned() {
        let start = Instant::now();
        let (mut one, mut other) =
            (Candidate::new("one".to_owned()), Candidate::new("other".to_owned()));
        let lease = written(&one.look(None, start, time()).unwrap(), 1);
        one.won(&lease, start);
        assert_eq!(one.standing(start), Standing::Leads(Term(1)));
        assert!(other.look(Some(&lease), start, time()).is_none());
        assert!(other.look(Some(&lease), start + DURATION - RETRY, time()).is_none());
        let taken = other.look(Some(&lease), start + DURATION, time()).unwrap();
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("1"), "whoever is faster wins");
        other.won(&written(&taken, 2), start + DURATION);
        assert_eq!(other.standing(start + DURATION), Standing::Leads(Term(2)));
    }

    #[test]
    fn one_that_is_renewed_is_never_taken() {
        let start = Instant::now();
        let (mut one, mut other) =
            (Candidate::new("one".to_owned()), Candidate::new("other".to_owned()));
        let mut lease = written(&one.look(None, start, time()).unwrap(), 1);
        for round in 1..100 {
            let now = start + RETRY * round;
            assert!(other.look(Some(&lease), now, time()).is_none());
            lease = written(&one.look(Some(&lease), now, time()).unwrap(), round + 1);
            one.won(&lease, now);
            assert_eq!(one.standing(now), Standing::Leads(Term(1)));
        }
    }

    #[test]
    fn a_holder_that_cannot_renew_stops_before_another_may_begin() {
        let start = Instant::now();
        let mut one = Candidate::new("one".to_owned());
        one.won(&written(&one.lease(None, 1, time(), time()), 1), start);
        assert_eq!(one.standing(start + DEADLINE), Standing::Follows);
        assert!(DEADLINE < DURATION);
    }

    #[test]
    fn a_holder_that_sees_another_stops_at_once() {
        let start = Instant::now();
        let mut one = Candidate::new("one".to_owned());
        one.won(&written(&one.lease(None, 1, time(), time()), 1), start);
        let other = written(&Candidate::new("other".to_owned()).lease(None, 2, time(), time()), 2);
        assert!(one.look(Some(&other), start, time()).is_none());
        assert_eq!(one.standing(start), Standing::Follows);
    }
}
