//! Leader election by a Lease of `coordination.k8s.io`, as in client-go.
//!
//! Clocks of different machines are never compared: a Lease has expired when it has not changed for
//! its duration by the observer's clock, and its holder stops by its own clock before that.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use tokio::time::Instant;

use crate::store::Term;

/// The name of the Lease.
pub(super) const NAME: &str = "portcullis-acme";
/// The duration of the Lease: how long it must be unchanged before another replica takes it.
const DURATION: Duration = Duration::from_secs(15);
/// The renew deadline: how long a leader that cannot renew the Lease stays the leader.
const DEADLINE: Duration = Duration::from_secs(10);
/// The interval between attempts to acquire or renew the Lease.
pub(super) const RETRY: Duration = Duration::from_secs(2);

/// A replica that takes part in leader election.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    /// The last seen version of the Lease, and when it was first seen.
    seen: Option<(String, Instant)>,
    /// The current term, and when it was last renewed.
    term: Option<(Term, Instant)>,
}

/// Whether a replica is the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LeaderState {
    /// It is the leader.
    Leader(Term),
    /// It is not the leader.
    Follower,
}

// === impl Candidate ===

impl Candidate {
    pub(super) fn new(identity: String) -> Self {
        Self { identity, seen: None, term: None }
    }

    /// Returns the Lease to write; `None` if another replica holds it.
    ///
    /// A new term is later than `stored`, the last one that has written: a Lease that was deleted,
    /// or restored from a backup, would begin again with terms that the store rejects.
    pub(super) fn desired_lease(
        &mut self,
        found: Option<&Lease>,
        stored: Term,
        now: Instant,
        time: Timestamp,
    ) -> Option<Lease> {
        let least = i32::try_from(stored.0).unwrap_or(i32::MAX).saturating_add(1);
        let Some(lease) = found else {
            return Some(self.lease(None, least, time, time));
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
            let is_superseded = transitions.saturating_add(1) < least;
            let transitions = if is_superseded { least } else { transitions };
            return Some(self.lease(Some(lease), transitions, acquired, time));
        }
        self.term = None;
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(DURATION, Duration::from_secs);
        let is_valid =
            self.seen.as_ref().is_some_and(|(_, since)| now.duration_since(*since) < duration);
        if !holder.is_empty() && is_valid {
            return None;
        }
        Some(self.lease(Some(lease), transitions.saturating_add(1).max(least), time, time))
    }

    /// Records that the Lease was written; `requested_at` is when the request was sent.
    pub(super) fn acquired(&mut self, written: &Lease, requested_at: Instant) {
        let transitions =
            written.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
        self.seen =
            Some((written.metadata.resource_version.clone().unwrap_or_default(), requested_at));
        self.term = Some((Term(u64::try_from(transitions).unwrap_or(0)), requested_at));
    }

    pub(super) fn state(&self, now: Instant) -> LeaderState {
        match self.term {
            Some((term, renewed)) if now.duration_since(renewed) < DEADLINE => {
                LeaderState::Leader(term)
            }
            _ => LeaderState::Follower,
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

    /// The Lease as the API server returns it, with a version.
    fn written(lease: &Lease, version: u32) -> Lease {
        let mut lease = lease.clone();
        lease.metadata.resource_version = Some(version.to_string());
        lease
    }

    fn time() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    #[test]
    fn the_first_acquires_the_lease_and_the_second_waits_until_it_expires() {
        let start = Instant::now();
        let (mut one, mut other) =
            (Candidate::new("one".to_owned()), Candidate::new("other".to_owned()));
        let lease = written(&one.desired_lease(None, Term(0), start, time()).unwrap(), 1);
        one.acquired(&lease, start);
        assert_eq!(one.state(start), LeaderState::Leader(Term(1)));
        assert!(other.desired_lease(Some(&lease), Term(1), start, time()).is_none());
        assert!(
            other.desired_lease(Some(&lease), Term(1), start + DURATION - RETRY, time()).is_none()
        );
        let taken = other.desired_lease(Some(&lease), Term(1), start + DURATION, time()).unwrap();
        assert_eq!(
            taken.metadata.resource_version.as_deref(),
            Some("1"),
            "a concurrent write is detected by the version"
        );
        other.acquired(&written(&taken, 2), start + DURATION);
        assert_eq!(other.state(start + DURATION), LeaderState::Leader(Term(2)));
    }

    #[test]
    fn a_renewed_lease_is_never_taken_by_another() {
        let start = Instant::now();
        let (mut one, mut other) =
            (Candidate::new("one".to_owned()), Candidate::new("other".to_owned()));
        let mut lease = written(&one.desired_lease(None, Term(0), start, time()).unwrap(), 1);
        for round in 1..100 {
            let now = start + RETRY * round;
            assert!(other.desired_lease(Some(&lease), Term(1), now, time()).is_none());
            lease =
                written(&one.desired_lease(Some(&lease), Term(1), now, time()).unwrap(), round + 1);
            one.acquired(&lease, now);
            assert_eq!(one.state(now), LeaderState::Leader(Term(1)));
        }
    }

    #[test]
    fn a_leader_that_cannot_renew_stops_before_another_can_acquire_the_lease() {
        let start = Instant::now();
        let mut one = Candidate::new("one".to_owned());
        one.acquired(&written(&one.lease(None, 1, time(), time()), 1), start);
        assert_eq!(one.state(start + DEADLINE), LeaderState::Follower);
        assert!(DEADLINE < DURATION);
    }

    #[test]
    fn a_leader_that_sees_another_holder_stops_immediately() {
        let start = Instant::now();
        let mut one = Candidate::new("one".to_owned());
        one.acquired(&written(&one.lease(None, 1, time(), time()), 1), start);
        let other = written(&Candidate::new("other".to_owned()).lease(None, 2, time(), time()), 2);
        assert!(one.desired_lease(Some(&other), Term(1), start, time()).is_none());
        assert_eq!(one.state(start), LeaderState::Follower);
    }

    #[test]
    fn a_lease_that_was_deleted_or_restored_begins_a_later_term_than_the_last() {
        let start = Instant::now();
        let mut one = Candidate::new("one".to_owned());
        let mut term_after = |found: Option<&Lease>, now| {
            let lease = written(&one.desired_lease(found, Term(7), now, time()).unwrap(), 9);
            one.acquired(&lease, now);
            (one.state(now), lease)
        };
        let (state, lease) = term_after(None, start);
        assert_eq!(state, LeaderState::Leader(Term(8)), "it was deleted");
        assert_eq!(term_after(Some(&lease), start).0, LeaderState::Leader(Term(8)), "renewed");
        let old = Candidate::new("other".to_owned()).lease(None, 3, time(), time());
        let old = written(&old, 8);
        one.desired_lease(Some(&old), Term(7), start, time());
        let mut term_after = |found: &Lease, now| {
            let lease = written(&one.desired_lease(Some(found), Term(7), now, time()).unwrap(), 9);
            one.acquired(&lease, now);
            one.state(now)
        };
        assert_eq!(term_after(&old, start + DURATION), LeaderState::Leader(Term(8)), "restored");
        let own = written(&Candidate::new("one".to_owned()).lease(None, 3, time(), time()), 8);
        assert_eq!(term_after(&own, start), LeaderState::Leader(Term(8)), "restored to its holder");
    }
}
