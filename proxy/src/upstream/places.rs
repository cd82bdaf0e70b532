//! The places of one endpoint: how many requests may be in flight, and whose.
//!
//! The first half of the places is for whoever comes first. In the second half, a client gets
//! another place only while more are free than it holds. So one client alone leaves a quarter of all
//! places to others, and a client that holds none gets the last one.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::num::NonZeroU64;

use foldhash::fast::RandomState;

/// The places of an endpoint.
#[derive(Debug)]
pub(super) struct Places {
    limit: Cell<usize>,
    /// The number of places that are for whoever comes first.
    open: Cell<usize>,
    taken: Cell<usize>,
    /// Of the other places, those that each client holds, without clients that hold none.
    held: RefCell<HashMap<NonZeroU64, usize, RandomState>>,
}

/// A place that was taken, and must be [released](Places::release): that of a client, if it is one
/// of the second half.
#[derive(Debug)]
pub(super) struct Place(Option<NonZeroU64>);

// === impl Places ===

impl Places {
    pub(super) fn new(limit: usize) -> Self {
        let places = Self {
            limit: Cell::default(),
            open: Cell::default(),
            taken: Cell::default(),
            held: RefCell::default(),
        };
        places.resize(limit);
        places
    }

    /// Changes the number of places. If more are taken, they stay so.
    pub(super) fn resize(&self, limit: usize) {
        self.limit.set(limit);
        self.open.set(limit / 2);
    }

    pub(super) fn taken(&self) -> usize {
        self.taken.get()
    }

    /// Takes a place for a client, whose `key` is not needed if there are many; `None` if there is
    /// none for it.
    pub(super) fn take(&self, key: impl FnOnce() -> NonZeroU64) -> Option<Place> {
        let taken = self.taken.get();
        if taken < self.open.get() {
            self.taken.set(taken + 1);
            return Some(Place(None));
        }
        let key = key();
        if !self.has_share(key) {
            return None;
        }
        *self.held.borrow_mut().entry(key).or_default() += 1;
        self.taken.set(taken + 1);
        Some(Place(Some(key)))
    }

    /// Whether there is a place for a client.
    pub(super) fn has_place(&self, key: NonZeroU64) -> bool {
        self.taken.get() < self.open.get() || self.has_share(key)
    }

    /// Whether more places are free than a client holds.
    fn has_share(&self, key: NonZeroU64) -> bool {
        let free = self.limit.get().saturating_sub(self.taken.get());
        free > 0 && self.held.borrow().get(&key).is_none_or(|held| *held < free)
    }

    pub(super) fn release(&self, place: &Place) {
        self.taken.set(self.taken.get().saturating_sub(1));
        let Place(Some(key)) = place else { return };
        let mut held = self.held.borrow_mut();
        if let Some(count) = held.get_mut(key) {
            *count -= 1;
            if *count == 0 {
                held.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_identity::round_robin::RoundRobin;
    use proptest::prelude::*;

    use super::*;

    const GREEDY: u64 = 1;

    fn key(client: u64) -> NonZeroU64 {
        NonZeroU64::new(client).unwrap()
    }

    /// As many places as a client gets.
    fn fill(places: &Places, client: u64) -> Vec<Place> {
        std::iter::from_fn(|| places.take(|| key(client))).collect()
    }

    #[test]
    fn half_of_the_places_are_taken_without_a_look_at_the_client() {
        let places = Places::new(10);
        let all: Vec<_> = (0..5).map(|_| places.take(|| unreachable!()).unwrap()).collect();
        assert!(places.held.borrow().is_empty());
        all.iter().for_each(|place| places.release(place));
        assert_eq!(places.taken(), 0);
    }

    #[test]
    fn one_client_leaves_a_quarter_of_the_places_to_others() {
        let places = Places::new(1_024);
        let greedy = fill(&places, GREEDY);
        assert_eq!(greedy.len(), 768);
        assert_eq!(fill(&places, 2).len(), 128, "the half of what is left");
        greedy.iter().for_each(|place| places.release(place));
        assert_eq!(places.held.borrow().len(), 1, "who holds none is forgotten");
    }

    #[test]
    fn the_last_place_is_for_a_client_that_holds_none() {
        let places = Places::new(1);
        let only = places.take(|| key(GREEDY)).unwrap();
        assert!(places.take(|| key(2)).is_none());
        places.release(&only);
        assert!(places.take(|| key(2)).is_some());
    }

    #[test]
    fn fewer_places_than_are_taken_admit_nobody_until_enough_are_released() {
        let places = Places::new(8);
        let mut taken = fill(&places, GREEDY);
        places.resize(2);
        while places.taken() >= 2 {
            assert!(places.take(|| key(2)).is_none());
            places.release(&taken.pop().unwrap());
        }
        assert!(places.take(|| key(2)).is_some());
    }

    /// An endpoint with requests in flight and waiting ones, as `Endpoint` and `WaitQueue` have
    /// them, with the client of each.
    struct World {
        places: Places,
        in_flight: Vec<(u64, Place)>,
        waiting: RoundRobin<(), NonZeroU64>,
    }

    impl World {
        fn arrive(&mut self, client: u64) {
            match self.places.take(|| key(client)) {
                Some(place) => self.in_flight.push((client, place)),
                None => self.waiting.push(key(client), ()),
            }
        }

        /// A request completes. Returns the clients that got a place by it.
        fn complete(&mut self, index: usize) -> Vec<u64> {
            let (_, place) = self.in_flight.swap_remove(index % self.in_flight.len());
            self.places.release(&place);
            let mut admitted = Vec::new();
            while let Some((client, ())) = self.waiting.pop(|key| self.places.has_place(key)) {
                let place = self.places.take(|| client).unwrap();
                self.in_flight.push((client.get(), place));
                admitted.push(client.get());
            }
            admitted
        }
    }

    proptest! {
        /// Whatever a greedy client does, there never are more requests in flight than places; no
        /// request of another client waits while a place is free that this client has no other one
        /// of; and a client that waits is admitted before any other is for the second time.
        #[test]
        fn a_client_waits_for_a_free_place_and_for_no_greedy_one(
            limit in 1..40_usize,
            events in proptest::collection::vec((any::<bool>(), 1..6_u64, any::<usize>()), 1..300),
        ) {
            let mut world = World {
                places: Places::new(limit),
                in_flight: Vec::new(),
                waiting: RoundRobin::default(),
            };
            let mut admitted_since: HashMap<u64, Vec<u64>> = HashMap::new();
            for (arrives, client, index) in events {
                if arrives || world.in_flight.is_empty() {
                    (0..if client == GREEDY { 20 } else { 1 }).for_each(|_| world.arrive(client));
                } else {
                    for admitted in world.complete(index) {
                        admitted_since.remove(&admitted);
                        for others in admitted_since.values_mut() {
                            others.push(admitted);
                        }
                    }
                }
                prop_assert!(world.places.taken() == world.in_flight.len());
                prop_assert!(world.in_flight.len() <= limit);
                for client in 1..6 {
                    let is_waiting = world.waiting.len_of(key(client)) > 0;
                    let holds = world.in_flight.iter().filter(|(one, _)| *one == client).count();
                    if is_waiting {
                        let free = limit - world.in_flight.len();
                        prop_assert!(free == 0 || holds >= free, "{free} are free, it holds {holds}");
                        let others = admitted_since.entry(client).or_default();
                        if holds == 0 {
                            let most = (1..6).map(|one| others.iter().filter(|o| **o == one).count());
                            prop_assert!(most.max() <= Some(1), "{client} waits: {others:?}");
                        } else {
                            others.clear();
                        }
                    } else {
                        admitted_since.remove(&client);
                    }
                }
            }
        }
    }
}
