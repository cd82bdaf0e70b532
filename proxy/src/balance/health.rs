//! Whether an endpoint responds, as one worker has seen it.
//!
//! An endpoint is good until it fails. Then it is ejected, for longer each time, and probed: once a
//! probe succeeds, it starts slowly with one request at a time, then more.

use std::time::Duration;

use super::Avoidance;

/// The duration of the first ejection. Each further one is twice as long.
const FIRST_EJECTION: Duration = Duration::from_millis(500);
/// The duration of the longest ejection.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// The strikes at which an endpoint is ejected.
const LIMIT: u8 = 30;
/// The requests in flight at which a slow start ends.
const FULL: u8 = 32;

/// The state of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Health {
    phase: Phase,
    /// The weight of the failures since the last response.
    strikes: u8,
    /// The number of ejections since it was last good.
    level: u8,
    /// Counts ejections, so that a late result of a request from before is recognized.
    era: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Good,
    Ejected,
    /// Ejected because its active check fails: only a check that succeeds ends this.
    Failing,
    /// A probe succeeded; so many requests may be in flight.
    Starting(u8),
}

/// The time before or after an ejection in which a request began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Era(u32);

/// How an endpoint failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It could not be connected to, or fell silent. Ejects it at once.
    Unreachable,
    /// It closed a new connection without a response. Ejects it after three in a row.
    Closed,
    /// It responded with a server error. Ejects it after five in a row, where that is allowed.
    ServerError,
}

// === impl Health ===

impl Default for Health {
    fn default() -> Self {
        Self { phase: Phase::Good, strikes: 0, level: 0, era: 0 }
    }
}

impl Health {
    pub(crate) fn is_ejected(self) -> bool {
        matches!(self.phase, Phase::Ejected | Phase::Failing)
    }

    /// Whether it responds and never failed since it last did.
    pub(crate) fn is_good(self) -> bool {
        self.phase == Phase::Good && self.strikes == 0
    }

    /// The weight of recent failures. What counts in a slow start is the next request alone, which
    /// must be given.
    pub(super) fn penalty(self) -> u8 {
        if self.phase == Phase::Good { self.strikes } else { 0 }
    }

    /// To be passed with the result of a request that begins now.
    pub(crate) fn era(self) -> Era {
        Era(self.era)
    }

    /// How much it is to be avoided, with so many requests in flight.
    pub(super) fn avoidance(self, in_flight: u32) -> Avoidance {
        match self.phase {
            Phase::Good => Avoidance::Good,
            Phase::Starting(window) if in_flight < u32::from(window) => Avoidance::Good,
            Phase::Starting(_) => Avoidance::SlowStarting,
            Phase::Ejected | Phase::Failing => Avoidance::Ejected,
        }
    }

    /// Whether it starts slowly, and already has as many requests in flight as that allows.
    pub(crate) fn is_slowed(self, in_flight: u32) -> bool {
        self.avoidance(in_flight) == Avoidance::SlowStarting
    }

    /// A request of `era` was responded to. Another one is allowed in flight during a slow start.
    #[must_use]
    pub(crate) fn responded(self, era: Era) -> Self {
        if era.0 != self.era {
            return self;
        }
        let phase = match self.phase {
            Phase::Failing => return self,
            // Although ejected, it was chosen, because there were not enough others.
            Phase::Ejected => Phase::Starting(2),
            Phase::Starting(window) if window < FULL => Phase::Starting(window + 1),
            Phase::Starting(_) | Phase::Good => Phase::Good,
        };
        let level = if phase == Phase::Good { 0 } else { self.level };
        Self { phase, strikes: 0, level, era: self.era }
    }

    /// A request of `era` failed. `may_eject` says whether a server error may eject the endpoint.
    #[must_use]
    pub(crate) fn failed(self, era: Era, failure: Failure, may_eject: bool) -> Self {
        if era.0 != self.era || self.is_ejected() {
            return self;
        }
        let strikes = self.strikes.saturating_add(failure.strikes()).min(LIMIT);
        if strikes < LIMIT || failure == Failure::ServerError && !may_eject {
            return Self { strikes, ..self };
        }
        let level = if self.phase == Phase::Good { 0 } else { self.level.saturating_add(1) };
        Self { phase: Phase::Ejected, strikes, level, era: self.era.wrapping_add(1) }
    }

    /// A probe connected to the endpoint: it starts with one request, and is ejected again if that
    /// fails.
    #[must_use]
    pub(crate) fn probed(self) -> Self {
        if self.phase != Phase::Ejected {
            return self;
        }
        let strikes = LIMIT - Failure::ServerError.strikes();
        Self { phase: Phase::Starting(1), strikes, ..self }
    }

    /// A probe failed: the next one follows after a longer time.
    #[must_use]
    pub(crate) fn probe_failed(self) -> Self {
        let is_probed = self.phase == Phase::Ejected;
        Self { level: self.level.saturating_add(u8::from(is_probed)), ..self }
    }

    /// Its active check fails: it is ejected until [`check_passed`](Self::check_passed).
    #[must_use]
    pub(crate) fn check_failed(self) -> Self {
        if self.phase == Phase::Failing {
            return self;
        }
        Self { phase: Phase::Failing, era: self.era.wrapping_add(1), ..self }
    }

    /// Its active check succeeds again: it starts slowly.
    #[must_use]
    pub(crate) fn check_passed(self) -> Self {
        if self.phase != Phase::Failing {
            return self;
        }
        Self { phase: Phase::Ejected, ..self }.probed()
    }

    /// How long it is ejected before the next probe; `None` if it gets none. `random` is
    /// uniform over `u64`, and spreads the probes of workers and replicas by a quarter either way.
    pub(crate) fn until_probe(self, random: u64) -> Option<Duration> {
        if self.phase != Phase::Ejected {
            return None;
        }
        let doubled = FIRST_EJECTION.saturating_mul(1 << self.level.min(16));
        let quarter = doubled.min(LONGEST_EJECTION) / 4;
        let jitter = (quarter.as_micros() * 2 * u128::from(random >> 32)) >> 32;
        Some(quarter * 3 + Duration::from_micros(u64::try_from(jitter).unwrap_or_default()))
    }
}

// === impl Failure ===

impl Failure {
    fn strikes(self) -> u8 {
        match self {
            Self::Unreachable => LIMIT,
            Self::Closed => LIMIT / 3,
            Self::ServerError => LIMIT / 5,
        }
    }
}
