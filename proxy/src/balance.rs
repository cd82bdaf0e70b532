//! Chooses the endpoint of an attempt: the less loaded of two at random, among those to avoid
//! least.
//!
//! Pure functions: the clock, random numbers and the state of endpoints are arguments.

pub(crate) mod health;

use self::health::Health;

/// The number of endpoints drawn at random before all are searched. Up to half can be ejected, so
/// that few draws find two good ones, however many endpoints there are.
const DRAWS: u64 = 16;

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
    /// The number of requests in flight.
    pub(crate) in_flight: u32,
    /// Whether this request has tried it already: then it is not chosen again.
    pub(crate) is_tried: bool,
}

/// The endpoints to choose from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Selection<'a, T> {
    pub(crate) endpoints: &'a [T],
    /// The number of ejected endpoints.
    pub(crate) ejected: usize,
    /// Whether this is the request's first attempt.
    pub(crate) is_first: bool,
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
        let drawn = if self.endpoints.len() > 2 { self.draw(&candidate, random) } else { None };
        drawn.or_else(|| self.search(&candidate, random))
    }

    /// Draws endpoints until two of them are good, and returns the less loaded one.
    fn draw(&self, candidate: &impl Fn(&T) -> Candidate, random: u64) -> Option<&'a T> {
        let mut first: Option<(&T, u32)> = None;
        for number in 0..DRAWS {
            let endpoint =
                self.endpoints.get(below(self.endpoints.len(), mixed(random, number)))?;
            let candidate = candidate(endpoint);
            if self.avoidance(&candidate) != Some(Avoidance::Good) {
                continue;
            }
            match first {
                None => first = Some((endpoint, candidate.load(random))),
                Some((other, _)) if std::ptr::eq(other, endpoint) => {}
                Some((other, load)) => {
                    return Some(if candidate.load(random) < load { endpoint } else { other });
                }
            }
        }
        None
    }

    /// Chooses among all that are to be avoided least.
    fn search(&self, candidate: &impl Fn(&T) -> Candidate, random: u64) -> Option<&'a T> {
        let (mut least, mut count) = (None, 0);
        for endpoint in self.endpoints {
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
        let mut among = self.endpoints.iter().filter_map(|endpoint| {
            let candidate = candidate(endpoint);
            (self.avoidance(&candidate) == least).then(|| (endpoint, candidate.load(random)))
        });
        let near = among.nth(first.min(second))?;
        let far = match first.abs_diff(second) {
            0 => near,
            distance => among.nth(distance - 1)?,
        };
        let (first, second) = if first < second { (near, far) } else { (far, near) };
        Some(if second.1 < first.1 { second.0 } else { first.0 })
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
}

// === impl Candidate ===

impl Candidate {
    /// The load to compare. An endpoint that fails is finished early, so that it has little in
    /// flight: its recent failures count as load. They are ignored in one choice of eight, or it
    /// would never get the request that shows that it responds.
    fn load(&self, random: u64) -> u32 {
        let penalty = if random.is_multiple_of(8) { 0 } else { self.health.penalty() };
        self.in_flight.saturating_add(1).saturating_mul(1 + u32::from(penalty))
    }
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

/// The `number`th random number that follows from `random` (splitmix64).
fn mixed(random: u64, number: u64) -> u64 {
    let state = random.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests;
