//! Keeps callers at an endpoint: consistent hashing with bounded load (Mirrokni, Thorup and
//! Zadimoghaddam 2016).
//!
//! Endpoints and callers are points of a circle. A caller keeps the endpoint whose point follows its
//! own; the next one in order takes the request if that endpoint is to be avoided, or has too much
//! load. Each worker and replica has the same circle, because the points are hashes of the endpoints
//! alone.

use std::collections::HashMap;

use super::{Avoidance, Candidate, Selection, below};

/// The most points of an endpoint. Its share of the callers varies by 1/√64 of the mean.
const POINTS: usize = 64;
/// The most points of a circle: beyond 1,024 endpoints, each has fewer. To build it takes 6 ms, in
/// which a worker does nothing else.
const ALL_POINTS: usize = 65_536;
/// The most endpoints of a set whose callers keep theirs: each has 16 points at least.
pub(crate) const MAX_ENDPOINTS: usize = 4_096;
/// The lower bits of a point, which are the position of its endpoint in the set.
const POSITION: u64 = (1 << 20) - 1;
/// How many points are looked at before any endpoint that has room is taken. Full ones that follow
/// each other are rare, unless few callers send most requests.
const STEPS: usize = 16;
/// The requests in flight that an endpoint may have whatever the others have: with fewer of them
/// none is overloaded, and the parallel requests of one browser must not leave their endpoint.
const FREE: usize = 32;

/// The circle of one set.
#[derive(Debug, Clone, Default)]
pub(crate) struct Ring {
    /// In ascending order.
    points: Vec<u64>,
    /// The hashes of the endpoints, in the order of the set.
    hashes: Vec<u64>,
}

/// The endpoint of a caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept<'a, T> {
    pub(crate) endpoint: &'a T,
    /// Whether it is the one that the caller keeps while nothing is wrong with it.
    pub(crate) is_own: bool,
}

// === impl Ring ===

impl Ring {
    /// Creates the circle of the endpoints with these hashes, which are in the order of the set.
    pub(crate) fn new(hashes: Vec<u64>) -> Self {
        Self::default().changed(hashes)
    }

    /// Creates the circle of a set that replaces this one. It takes time in proportion to the
    /// points, apart from those that are new.
    pub(crate) fn changed(&self, hashes: Vec<u64>) -> Self {
        let number = points_of_each(hashes.len());
        if !self.points.is_empty() && points_of_each(self.hashes.len()) != number {
            return Self::new(hashes);
        }
        let mut added: HashMap<u64, u64> = hashes.iter().copied().zip(0..=POSITION).collect();
        let position = |hash: &u64| added.remove(hash);
        let kept: Vec<Option<u64>> = self.hashes.iter().map(position).collect();
        let moved = |point: &u64| {
            let position = kept.get(usize::try_from(point & POSITION).ok()?)?.as_ref()?;
            Some(point & !POSITION | position)
        };
        let mut points: Vec<u64> = self.points.iter().filter_map(moved).collect();
        let points_of = |(hash, position): (u64, u64)| {
            (1..=number).map(move |number| super::mixed(hash, number) & !POSITION | position)
        };
        let mut new: Vec<u64> = added.into_iter().flat_map(points_of).collect();
        new.sort_unstable();
        points.append(&mut new);
        // Two ascending runs, which the stable sort merges.
        points.sort();
        Self { points, hashes }
    }

    /// The positions of endpoints from the one that a caller keeps on, in the order in which they
    /// are tried. An endpoint can occur several times.
    fn from(&self, caller: u64) -> impl Iterator<Item = usize> {
        let begin = self.points.partition_point(|point| *point < caller & !POSITION);
        let (before, after) = self.points.split_at_checked(begin).unwrap_or_default();
        let position = |point: &u64| usize::try_from(point & POSITION).unwrap_or_default();
        after.iter().chain(before).map(position)
    }
}

/// The points of each of so many endpoints. They depend on nothing else, so that the circle is the
/// same everywhere.
fn points_of_each(endpoints: usize) -> u64 {
    (ALL_POINTS / endpoints.max(1)).clamp(1, POINTS) as u64
}

// === impl Selection ===

impl<'a, T> Selection<'a, T> {
    /// Chooses the endpoint that a caller keeps, or the next one on `ring` that is good and has at
    /// most 5/4 of the mean load; `None` if this request has tried all.
    ///
    /// `caller` is the hash of the caller, `in_flight` the number of requests in flight at all
    /// endpoints, and `random` uniform over `u64`.
    pub(crate) fn choose_kept(
        &self,
        ring: &Ring,
        caller: u64,
        in_flight: usize,
        candidate: impl Fn(&T) -> Candidate,
        random: u64,
    ) -> Option<Kept<'a, T>> {
        let room = self.room(in_flight);
        let has_room = |endpoint: &&T| {
            let candidate = candidate(endpoint);
            self.avoidance(&candidate) == Some(Avoidance::Good)
                && (candidate.in_flight as usize) < self.room_of(&candidate, room)
        };
        let mut own = None;
        for position in ring.from(caller).take(STEPS) {
            let own = *own.get_or_insert(position);
            if let Some(endpoint) = self.endpoints.get(position).filter(has_room) {
                return Some(Kept { endpoint, is_own: position == own });
            }
        }
        let begin = below(self.endpoints.len(), random);
        let (before, from) = self.endpoints.split_at_checked(begin)?;
        // No one may have room if endpoints start slowly.
        let endpoint = from.iter().chain(before).find(has_room);
        let endpoint = endpoint.or_else(|| self.choose(&candidate, random))?;
        Some(Kept { endpoint, is_own: false })
    }

    /// The requests that an endpoint may have in flight, this one included: 5/4 of the mean of those
    /// that get requests.
    fn room(&self, in_flight: usize) -> usize {
        let ejected = if self.panics() { 0 } else { self.ejected };
        let available = self.endpoints.len().saturating_sub(ejected).max(1);
        (in_flight + 1).saturating_mul(5).div_ceil(4 * available)
    }

    /// What an endpoint may have of `room`, which is less if it is new.
    fn room_of(&self, candidate: &Candidate, room: usize) -> usize {
        if room <= FREE {
            return FREE;
        }
        let share = candidate.warm_up.share(self.now, self.slow_start);
        ((room as f64 * share) as usize).max(FREE)
    }
}

#[cfg(test)]
mod tests;
