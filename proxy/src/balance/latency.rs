//! How long an endpoint takes to respond, as one worker has seen it.
//!
//! A moving average over time that is sensitive to peaks, as in Finagle's `PeakEwma`: a slower
//! response counts at once and in full, faster ones only with time. It differs in one point. What
//! was seen is forgotten in favour of what is typical of the endpoint's set, not of zero: an
//! endpoint that does not respond any more, or only with errors, must not seem fast.

use std::time::{Duration, Instant};

/// The time in which the weight of what was seen falls to 1/e.
const DECAY: Duration = Duration::from_secs(10);
/// The shortest latency that counts, in seconds. Below it, differences are chance.
const SHORTEST: f64 = 0.001;
/// How many times as slow as another endpoint, or as is typical, one counts at most. So one request
/// that is slow everywhere leaves an endpoint idle only until another one has so many times its
/// requests in flight, and only for some seconds.
pub(super) const MAX_RATIO: f64 = 64.0;
/// The typical latency, in seconds, before the first response. All endpoints of a set have the same
/// then, so that requests in flight alone decide.
const UNKNOWN: f64 = 1.0;

/// The latency of an endpoint.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Latency {
    seen: Option<Seen>,
}

/// The typical latency of the endpoints of one set: the average of those that respond.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Typical {
    seen: Option<Seen>,
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    seconds: f64,
    at: Instant,
}

// === impl Latency ===

impl Latency {
    /// Whether a response was seen.
    #[cfg(test)]
    pub(crate) fn is_known(self) -> bool {
        self.seen.is_some()
    }

    /// The estimate in seconds.
    pub(super) fn estimate(self, now: Instant, typical: Typical) -> f64 {
        self.seen.map_or(typical.seconds(), |seen| seen.toward(typical.seconds(), now))
    }

    /// The head of a response arrived, so long after the request was sent in whole.
    #[must_use]
    pub(crate) fn responded(self, taken: Duration, now: Instant, typical: Typical) -> Self {
        let longest = typical.seen.map_or(f64::INFINITY, |seen| seen.seconds * MAX_RATIO);
        let taken = taken.as_secs_f64().max(SHORTEST).min(longest);
        let seconds = self.seen.map_or(taken, |seen| {
            let weight = seen.weight(now);
            let is_faster = taken < seen.mix(typical.seconds(), weight);
            if is_faster { seen.mix(taken, weight) } else { taken }
        });
        Self { seen: Some(Seen { seconds, at: now }) }
    }

    /// A request failed, was responded to with an error, or was abandoned, so long after it was sent
    /// in whole. A response takes this time at least; a fast error does not make an endpoint faster.
    #[must_use]
    pub(crate) fn unanswered(self, taken: Duration, now: Instant, typical: Typical) -> Self {
        if taken.as_secs_f64() <= self.estimate(now, typical) {
            return self;
        }
        self.responded(taken, now, typical)
    }
}

// === impl Typical ===

impl Typical {
    fn seconds(self) -> f64 {
        self.seen.map_or(UNKNOWN, |seen| seen.seconds)
    }

    /// An endpoint of the set responded, and has this latency now.
    #[must_use]
    pub(crate) fn responded(self, latency: Latency, now: Instant) -> Self {
        let Some(Seen { seconds, .. }) = latency.seen else { return self };
        let seconds = self.seen.map_or(seconds, |seen| seen.toward(seconds, now));
        Self { seen: Some(Seen { seconds, at: now }) }
    }
}

// === impl Seen ===

impl Seen {
    /// The average of what was seen and of `other`, which holds since then.
    fn toward(self, other: f64, now: Instant) -> f64 {
        self.mix(other, self.weight(now))
    }

    /// The weight of what was seen, from 1 when it was seen to 0.
    fn weight(self, now: Instant) -> f64 {
        let age = now.saturating_duration_since(self.at).as_secs_f64() / DECAY.as_secs_f64();
        // Between two responses of a busy endpoint, the series is exact to 1e-13, and much cheaper.
        if age < 0.001 { 1.0 - age * (1.0 - age / 2.0 * (1.0 - age / 3.0)) } else { (-age).exp() }
    }

    fn mix(self, other: f64, weight: f64) -> f64 {
        other + (self.seconds - other) * weight
    }
}

#[cfg(test)]
mod tests;
