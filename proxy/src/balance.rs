//! Chooses the endpoint of an attempt among those to avoid least: the less loaded of two at random,
//! the next in turn, or the one that the caller keeps. Load is latency × requests in flight.
//!
//! Pure functions: the clock, random numbers and the state of endpoints are arguments.

pub(crate) mod answer;
pub(crate) mod check;
pub(crate) mod health;
mod in_turn;
pub(crate) mod latency;
pub(crate) mod ring;
pub(crate) mod warm_up;

use std::time::{Duration, Instant};

use self::health::Health;
use self::latency::{Latency, MAX_RATIO, Typical};
use self::warm_up::WarmUp;

/// The number of endpoints drawn at random before all are searched. Up to half can be ejected, so
/// that few draws find two good ones, however many endpoints there are.
const DRAWS: u64 = 16;
/// The number of the random number that decides about new endpoints, after those of the draws and of
/// the far endpoint.
const SHARE_DRAW: u64 = DRAWS + 1;
/// Endpoints whose latencies differ by less than this factor are equally fast. Otherwise one of them
/// would get every request while there is only one at a time.
const SAME_RATIO: f64 = 2.0;
/// How many times the load of a far endpoint that of a near one may be: a zone with few endpoints
/// sends what is too much for them elsewhere.
const NEAR_RATIO: f64 = 4.0;

/// How much an endpoint is to be avoided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Avoidance {
    Good,
    /// It has as many requests in flight as its slow start allows.
    SlowStarting,
    Ejected,
}

/// What is known of an endpoint when one is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Candidate {
    pub(crate) health: Health,
    pub(crate) latency: Latency,
    pub(crate) warm_up: WarmUp,
    /// The number of requests in flight.
    pub(crate) in_flight: u32,
    /// Whether this request has tried it already: then it is not chosen again.
    pub(crate) is_tried: bool,
}

/// The endpoints to choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a, T> {
    /// All of them, the preferred ones first, which are near.
    pub(crate) endpoints: &'a [T],
    /// The number of those that are near; 0 if all are the same.
    pub(crate) near: usize,
    /// The number of ejected endpoints.
    pub(crate) ejected: usize,
    /// Whether this is the request's first attempt.
    pub(crate) is_first: bool,
    pub(crate) now: Instant,
    pub(crate) typical: Typical,
    /// How long new endpoints start slowly.
    pub(crate) slow_start: Duration,
}

/// The load of an endpoint.
#[derive(Debug, Clone, Copy)]
struct Load {
    /// Its latency, in seconds.
    latency: f64,
    /// The number of requests in flight, and this one.
    requests: f64,
}

/// An endpoint that was chosen of some.
#[derive(Debug)]
struct Chosen<'a, T> {
    endpoint: &'a T,
    avoidance: Avoidance,
    load: Load,
}

// === impl Selection ===

impl<'a, T> Selection<'a, T> {
    /// Whether ejected endpoints are treated like others, because fewer than half are available:
    /// the remaining ones could not take the load of all.
    ///
    /// Further attempts of a request avoid ejected endpoints nevertheless. So a request reaches the
    /// only endpoint that responds, however many do not.
    pub(crate) fn panics(&self) -> bool {
        self.is_first && self.ejected * 2 > self.endpoints.len()
    }

    /// Chooses an endpoint that this request has not tried; `None` if there is none.
    ///
    /// `random` is uniform over `u64`.
    pub(crate) fn choose(&self, candidate: impl Fn(&T) -> Candidate, random: u64) -> Option<&'a T> {
        self.choose_near(&candidate, random)
            .or_else(|| Some(self.choose_of(self.endpoints, &candidate, random)?.endpoint))
    }

    /// Chooses a good one of those that are near, or a far one with much less load.
    fn choose_near(&self, candidate: &impl Fn(&T) -> Candidate, random: u64) -> Option<&'a T> {
        let (near, far) = self.near_and_far()?;
        let near = self.choose_of(near, candidate, random)?;
        if near.avoidance != Avoidance::Good {
            return None;
        }
        let other = far.get(below(far.len(), mixed(random, DRAWS)))?;
        let candidate = candidate(other);
        let is_much_less = || {
            let load = self.load(&candidate, random);
            Load { requests: load.requests * NEAR_RATIO, ..load }.is_less(near.load)
        };
        let is_good = self.avoidance(&candidate) == Some(Avoidance::Good);
        Some(if is_good && is_much_less() { other } else { near.endpoint })
    }

    /// `None` if all endpoints are treated alike.
    fn near_and_far(&self) -> Option<(&'a [T], &'a [T])> {
        if self.near == 0 || self.panics() {
            None
        } else {
            self.endpoints.split_at_checked(self.near)
        }
    }

    fn choose_of(
        &self,
        endpoints: &'a [T],
        candidate: &impl Fn(&T) -> Candidate,
        random: u64,
    ) -> Option<Chosen<'a, T>> {
        let drawn =
            if endpoints.len() > 2 { self.draw(endpoints, candidate, random) } else { None };
        drawn.or_else(|| self.search(endpoints, candidate, random))
    }

    /// Draws endpoints until two of them are good, and returns the less loaded one.
    fn draw(
        &self,
        endpoints: &'a [T],
        candidate: &impl Fn(&T) -> Candidate,
        random: u64,
    ) -> Option<Chosen<'a, T>> {
        let mut first: Option<Chosen<'a, T>> = None;
        for number in 0..DRAWS {
            let endpoint = endpoints.get(below(endpoints.len(), mixed(random, number)))?;
            let candidate = candidate(endpoint);
            if self.avoidance(&candidate) != Some(Avoidance::Good) {
                continue;
            }
            let drawn = || Chosen {
                endpoint,
                avoidance: Avoidance::Good,
                load: self.load(&candidate, random),
            };
            match first {
                None => first = Some(drawn()),
                Some(other) if std::ptr::eq(other.endpoint, endpoint) => {}
                Some(other) => return Some(other.or_less_loaded(drawn())),
            }
        }
        None
    }

    /// Chooses among all that are to be avoided least.
    fn search(
        &self,
        endpoints: &'a [T],
        candidate: &impl Fn(&T) -> Candidate,
        random: u64,
    ) -> Option<Chosen<'a, T>> {
        let (mut least, mut count) = (None, 0);
        for endpoint in endpoints {
            let Some(avoidance) = self.avoidance(&candidate(endpoint)) else { continue };
            if least.is_none_or(|least| avoidance < least) {
                (least, count) = (Some(avoidance), 1);
            } else if least == Some(avoidance) {
                count += 1;
            }
        }
        let (first, second) = match count {
            0 => return None,
            1 => (0, 0),
            count => two_of(count, random),
        };
        let mut among = endpoints.iter().filter_map(|endpoint| {
            let candidate = candidate(endpoint);
            let avoidance = self.avoidance(&candidate).filter(|found| Some(*found) == least)?;
            Some(Chosen { endpoint, avoidance, load: self.load(&candidate, random) })
        });
        let one = among.nth(first.min(second))?;
        let other = match first.abs_diff(second) {
            0 => one,
            distance => among.nth(distance - 1)?,
        };
        let (first, second) = if first < second { (one, other) } else { (other, one) };
        Some(first.or_less_loaded(second))
    }

    /// `None` for an endpoint that was tried.
    fn avoidance(&self, candidate: &Candidate) -> Option<Avoidance> {
        if candidate.is_tried {
            return None;
        }
        Some(if self.panics() {
            Avoidance::Good
        } else {
            candidate.health.avoidance(candidate.in_flight)
        })
    }

    /// The load of an endpoint, divided by its share if it is new. One that fails is finished early,
    /// so that it has little in flight: its recent failures count as load. They are ignored in one
    /// choice of eight, or it would never get the request that shows that it responds.
    fn load(&self, candidate: &Candidate, random: u64) -> Load {
        let penalty = if random.is_multiple_of(8) { 0 } else { candidate.health.penalty() };
        Load {
            latency: candidate.latency.estimate(self.now, self.typical),
            requests: (f64::from(candidate.in_flight) + 1.0) * (1.0 + f64::from(penalty))
                / self.share(candidate, random),
        }
    }

    /// The share of the usual requests that an endpoint gets. While there is only one request at a
    /// time, all endpoints are idle, and one with any smaller share would never be the less loaded
    /// one: an idle endpoint has the whole share in that share of the choices.
    fn share(&self, candidate: &Candidate, random: u64) -> f64 {
        let share = candidate.warm_up.share(self.now, self.slow_start);
        let is_whole = || candidate.in_flight == 0 && uniform(mixed(random, SHARE_DRAW)) < share;
        if share < 1.0 && is_whole() { 1.0 } else { share }
    }
}

// === impl Chosen ===

impl<T> Clone for Chosen<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Chosen<'_, T> {}

impl<T> Chosen<'_, T> {
    fn or_less_loaded(self, other: Self) -> Self {
        if other.load.is_less(self.load) { other } else { self }
    }
}

// === impl Load ===

impl Load {
    fn is_less(self, other: Self) -> bool {
        let ratio = self.latency / other.latency;
        self.requests * slowness(ratio) < other.requests * slowness(ratio.recip())
    }
}

/// What a request counts on an endpoint that is `ratio` times as slow as another one.
fn slowness(ratio: f64) -> f64 {
    (ratio.min(MAX_RATIO) / SAME_RATIO).max(1.0)
}

/// Two different indices below `count`, which is at least 2, each pair as likely as any other.
fn two_of(count: usize, random: u64) -> (usize, usize) {
    let first = below(count, random);
    let second = below(count - 1, random << 32);
    (first, if second >= first { second + 1 } else { second })
}

/// Maps the upper 32 bits of `random` onto `0..count` without the bias of a remainder.
fn below(count: usize, random: u64) -> usize {
    let scaled = (u128::from(random >> 32) * count as u128) >> 32;
    usize::try_from(scaled).unwrap_or_default()
}

/// Maps `random` onto numbers from 0 to 1.
fn uniform(random: u64) -> f64 {
    random as f64 / u64::MAX as f64
}

/// The `number`th random number that follows from `random` (splitmix64).
fn mixed(random: u64, number: u64) -> u64 {
    let state = random.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
