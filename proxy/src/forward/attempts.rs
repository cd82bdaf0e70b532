//! Which further attempt a failed one may be followed by: a pure policy.
//!
//! While one endpoint responds, no idempotent request fails: each attempt goes to an endpoint that
//! was not tried, until one responds or none is left. What would multiply the load of a failing
//! backend costs part of its retry budget: see [`Cost`].

use std::net::SocketAddr;

use crate::exchange::Broken;
use crate::upstream::exchange::Failed;

/// The maximum number of attempts of one request.
const MAX: usize = 64;
/// The maximum number of attempts that a backend may have processed. A request that makes each
/// backend crash must not reach all of a large service.
const MAX_SENT: usize = 11;

/// The attempts of one request.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// Not inline: most requests have no failed attempt.
    tried: Vec<Tried>,
    count: usize,
    /// How many of them were responded to with a status that is retried.
    rejected: u32,
    /// How many of them a backend may have processed.
    sent: usize,
    needs_new_connection: bool,
}

#[derive(Debug, Clone, Copy)]
struct Tried {
    address: SocketAddr,
    /// Another attempt may succeed: what failed was an old connection, or one request.
    is_inconclusive: bool,
    /// It was full, so that nothing was attempted.
    was_full: bool,
}

/// What a failed attempt was.
#[derive(Debug, Clone, Copy)]
pub(super) struct FailedAttempt {
    pub(super) address: SocketAddr,
    pub(super) failure: Failed,
    /// Whether the connection had been used before. The backend may have closed it for its age.
    pub(super) was_kept: bool,
    /// Whether the endpoint is ejected now, so that it gets no more load.
    pub(super) is_ejected: bool,
}

/// What a further attempt takes from the retry budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    /// Nothing: no backend has processed the request, or it was sent on a kept connection that the
    /// backend had closed.
    Free,
    /// Nothing, if it goes to an endpoint that responds: the failure was that of an endpoint which
    /// is ejected, not of the backend.
    FreeIfGood,
    /// One retry.
    Paid,
}

/// How often a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeatable {
    /// Not again: part of its body is not available any more.
    Never,
    /// Again, if no backend has processed it.
    Unprocessed,
    /// Again in any case: it is idempotent (RFC 9110 §9.2.2), or its Service declares it so.
    Always,
}

// === impl Attempts ===

impl Attempts {
    /// Whether this is the first attempt.
    pub(super) fn is_first(&self) -> bool {
        self.count == 0
    }

    /// Whether the endpoint was tried, so that another one must be.
    pub(super) fn has_tried(&self, address: SocketAddr) -> bool {
        self.tried.iter().any(|tried| tried.address == address)
    }

    /// Whether the next attempt must not use a kept connection, because one has failed already. What
    /// closed it may have closed others.
    pub(super) fn needs_new_connection(&self) -> bool {
        self.needs_new_connection
    }

    /// An endpoint that was tried, and may be tried once more because none is left. `is_current` says
    /// which endpoints are still there.
    pub(super) fn retry(&mut self, is_current: impl Fn(SocketAddr) -> bool) -> Option<SocketAddr> {
        let tried = self
            .tried
            .iter_mut()
            .find(|tried| tried.is_inconclusive && is_current(tried.address))?;
        tried.is_inconclusive = false;
        Some(tried.address)
    }

    /// Records a failed attempt. Returns what another one costs; `None` if none may follow.
    pub(super) fn failed(&mut self, attempt: FailedAttempt, request: Repeatable) -> Option<Cost> {
        let FailedAttempt { address, failure, was_kept, is_ejected } = attempt;
        let is_processed = is_processed(failure);
        let is_stale = was_kept && failure == Failed::NoResponse;
        self.count += 1;
        self.sent += usize::from(is_processed != Some(false));
        self.needs_new_connection |= was_kept;
        let is_inconclusive = is_stale || failure == Failed::NotSent;
        let tried = Tried { address, is_inconclusive, was_full: false };
        match self.tried.iter_mut().find(|tried| tried.address == address) {
            Some(earlier) if earlier.was_full => *earlier = tried,
            Some(_) => {}
            None => self.tried.push(tried),
        }
        let may_follow = match is_processed {
            Some(false) => request != Repeatable::Never,
            None => request == Repeatable::Always && self.sent < MAX_SENT,
            Some(true) => false,
        };
        let cost = match is_processed {
            Some(false) => Cost::Free,
            _ if is_stale => Cost::Free,
            _ if is_ejected => Cost::FreeIfGood,
            _ => Cost::Paid,
        };
        (may_follow && self.may_go_on()).then_some(cost)
    }

    /// Records an endpoint that is not tried, because that would exceed the retry budget.
    pub(super) fn skipped(&mut self, address: SocketAddr) {
        self.tried.push(Tried { address, is_inconclusive: false, was_full: false });
    }

    /// Whether there may be another attempt at all.
    pub(super) fn may_go_on(&self) -> bool {
        self.count < MAX
    }

    /// Records an endpoint that is full.
    pub(super) fn found_full(&mut self, address: SocketAddr) {
        self.count += 1;
        match self.tried.iter_mut().find(|tried| tried.address == address) {
            Some(tried) => tried.was_full = true,
            None => self.tried.push(Tried { address, is_inconclusive: false, was_full: true }),
        }
    }

    /// Whether an endpoint was full.
    pub(super) fn was_full(&self, address: SocketAddr) -> bool {
        self.tried.iter().any(|tried| tried.was_full && tried.address == address)
    }

    /// Whether any endpoint was full, so that it may be worth waiting.
    pub(super) fn any_was_full(&self) -> bool {
        self.tried.iter().any(|tried| tried.was_full)
    }

    /// Whether the request may go to another backend, because there is nothing left to hope for from
    /// its own: none has responded, and none is worth waiting for.
    pub(super) fn may_cross(&self) -> bool {
        self.rejected == 0 && !self.any_was_full()
    }

    /// Forgets endpoints that were full, because from now on those of another backend are tried.
    pub(super) fn cross(&mut self) {
        let before = self.tried.len();
        self.tried.retain(|tried| !tried.was_full);
        self.count = self.count.saturating_sub(before - self.tried.len());
    }

    /// How many responses were not forwarded because of their status.
    pub(super) fn rejections(&self) -> u32 {
        self.rejected
    }

    /// Records a response that is not forwarded because of its status. The policy of the route
    /// limits how often that happens, not this.
    pub(super) fn rejected(&mut self, address: SocketAddr) {
        self.count += 1;
        self.rejected += 1;
        match self.tried.iter_mut().find(|tried| tried.address == address) {
            Some(tried) => (tried.is_inconclusive, tried.was_full) = (true, false),
            None => {
                self.tried.push(Tried { address, is_inconclusive: true, was_full: false });
            }
        }
    }
}

/// Whether the backend has processed the request; `None` if that is unknown.
fn is_processed(failure: Failed) -> Option<bool> {
    match failure {
        Failed::Connect | Failed::Full | Failed::NotSent => Some(false),
        Failed::NoResponse | Failed::Broken(Broken::Closed | Broken::TimedOut) => None,
        // It has responded, although not with a response that could be forwarded.
        Failed::NoWebSocket | Failed::Broken(Broken::Malformed(_)) => Some(true),
    }
}
