//! The clients of one rate limit: a bounded table that all workers share, with one time for each.
//!
//! A client that is known is counted without a lock. A new one takes the place that is due first,
//! and *its time with it*. If that time has passed, as always in a table that is not full, this is
//! no different from an empty place. If not, the new client starts with the debt of the one that
//! owed least. So a flood of clients cannot make the table forget what one of them owes: whoever
//! returns after it was displaced finds no smaller debt than it left (compare "Space-Saving",
//! Metwally et al. 2005). The price is paid by new clients while the table is full.

//!
//! A table has one segment of places for all clients until there is [`Memory`] for more. Once that is
//! used up, clients without a segment share the first one, for as long as the table exists: they
//! compete with each other, as in a full table.

use std::num::NonZeroU64;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use super::budget::Memory;

/// The number of segments. Memory is allocated for those in use.
const SEGMENTS: usize = 512;
/// The number of clients of a segment.
const PLACES: usize = 32;

/// The due times of up to 16,384 clients.
#[derive(Debug)]
pub(super) struct Table {
    /// That of clients without one of their own.
    first: Box<Segment>,
    /// `None` where there was no memory when the first client came: it never moves from the first
    /// segment to another one, which would forget its debt.
    segments: Box<[OnceLock<Option<Box<Segment>>>]>,
    memory: Memory,
    /// There was no memory for another segment.
    is_confined: AtomicBool,
}

#[derive(Debug, Default)]
struct Segment {
    entries: [Entry; PLACES],
    /// Held to give a place to another client.
    assignment: Mutex<()>,
}

#[derive(Debug, Default)]
struct Entry {
    /// 0 is none.
    client: AtomicU64,
    due: AtomicU64,
}

/// Whether a client took the place of one whose time had not passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Own,
    Displacing,
}

/// Applies `decide` to a due time, and stores the result.
///
/// # Errors
/// Returns that of `decide`; nothing is stored.
pub(super) fn update(due: &AtomicU64, decide: impl Fn(u64) -> Result<u64, u64>) -> Result<(), u64> {
    let mut current = due.load(Ordering::Relaxed);
    loop {
        let next = decide(current)?;
        match due.compare_exchange_weak(current, next, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => return Ok(()),
            Err(changed) => current = changed,
        }
    }
}

// === impl Table ===

impl Table {
    pub(super) fn new(memory: Memory) -> Self {
        let has_memory = memory.take(SEGMENTS * size_of::<OnceLock<Option<Box<Segment>>>>());
        let segments = if has_memory { SEGMENTS } else { 0 };
        Self {
            first: Box::default(),
            segments: (0..segments).map(|_| OnceLock::new()).collect(),
            memory,
            is_confined: AtomicBool::new(false),
        }
    }

    /// Applies `decide` to the due time of a client, which is a uniform hash, and stores the result.
    /// Returns the due time, and how the client got its place.
    ///
    /// # Errors
    /// Returns that of `decide`; nothing is stored.
    pub(super) fn update(
        &self,
        client: NonZeroU64,
        now: u64,
        decide: impl Fn(u64) -> Result<u64, u64>,
    ) -> Result<(&AtomicU64, Place), (u64, Place)> {
        let mut place = Place::Own;
        let segment = self.segment(client);
        loop {
            let entry = match segment.find(client) {
                Some(entry) => entry,
                None => {
                    let (entry, how) = segment.assign(client, now).ok_or((0, place))?;
                    place = how;
                    entry
                }
            };
            update(&entry.due, &decide).map_err(|wait| (wait, place))?;
            // Unless another client got the place meanwhile: then that one was counted, too.
            if entry.client.load(Ordering::Acquire) == client.get() {
                return Ok((&entry.due, place));
            }
        }
    }

    /// Returns the segment of a client.
    fn segment(&self, client: NonZeroU64) -> &Segment {
        let index = (client.get() >> 32) as usize % SEGMENTS;
        let Some(segment) = self.segments.get(index) else { return &self.first };
        // One worker decides for all.
        segment.get_or_init(|| self.create()).as_deref().unwrap_or(&self.first)
    }

    /// Creates a segment, unless the memory is used up.
    fn create(&self) -> Option<Box<Segment>> {
        if self.is_confined.load(Ordering::Relaxed) || !self.memory.take(size_of::<Segment>()) {
            self.is_confined.store(true, Ordering::Relaxed);
            return None;
        }
        Some(Box::default())
    }

    /// Whether no client owes anything any more, so that the table can be dropped.
    pub(super) fn is_idle(&self, now: u64) -> bool {
        let more =
            self.segments.iter().filter_map(OnceLock::get).flatten().map(|segment| &**segment);
        let mut entries =
            std::iter::once(&*self.first).chain(more).flat_map(|segment| &segment.entries);
        entries.all(|entry| !entry.owes(now))
    }
}

// === impl Segment ===

impl Segment {
    fn find(&self, client: NonZeroU64) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.client.load(Ordering::Acquire) == client.get())
    }

    /// Gives a client that has none the place that is due first. There always is one.
    fn assign(&self, client: NonZeroU64, now: u64) -> Option<(&Entry, Place)> {
        let _assignment = self.assignment.lock().unwrap_or_else(PoisonError::into_inner);
        // Another worker may have been faster.
        if let Some(entry) = self.find(client) {
            return Some((entry, Place::Own));
        }
        let first = self.entries.iter().min_by_key(|entry| entry.due.load(Ordering::Relaxed))?;
        let place = if first.owes(now) { Place::Displacing } else { Place::Own };
        first.client.store(client.get(), Ordering::Release);
        Some((first, place))
    }
}

// === impl Entry ===

impl Entry {
    fn owes(&self, now: u64) -> bool {
        self.due.load(Ordering::Relaxed) > now
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use std::sync::atomic::AtomicU32;

    use portcullis_config::snapshot::rate_limit::RateScope;

    use super::*;
    use crate::limit::budget::tests::memory;
    use crate::limit::gcra::Gcra;
    use crate::limit::gcra::tests::limit;
    use crate::random::Random;

    const NOW: u64 = 1_000_000_000;

    fn table() -> Table {
        Table::new(memory(1 << 20))
    }

    fn client(number: u64) -> NonZeroU64 {
        // All in one segment.
        NonZeroU64::new(number + 1).unwrap()
    }

    fn is_allowed(table: &Table, gcra: Gcra, number: u64, now: u64) -> bool {
        table.update(client(number), now, |due| gcra.decide(due, now)).is_ok()
    }

    #[test]
    fn each_client_has_a_limit_of_its_own() {
        let (table, gcra) = (table(), Gcra::of(&limit(10, 2, RateScope::User), NonZeroU32::MIN));
        for number in 0..PLACES as u64 {
            let allowed = (0..5).filter(|_| is_allowed(&table, gcra, number, NOW)).count();
            assert_eq!(allowed, 2, "client {number}");
        }
    }

    #[test]
    fn a_flood_of_clients_makes_the_table_forget_nothing() {
        let (table, gcra) = (table(), Gcra::of(&limit(1, 5, RateScope::User), NonZeroU32::MIN));
        while is_allowed(&table, gcra, 0, NOW) {}
        for number in 1..10_000 {
            is_allowed(&table, gcra, number, NOW);
        }
        assert!(!is_allowed(&table, gcra, 0, NOW), "the first one is still at its limit");
        let later = NOW + 5 * 1_000_000_000;
        assert!(is_allowed(&table, gcra, 20_000, later), "and everything is forgotten in time");
    }

    #[test]
    fn a_light_flood_does_not_exclude_new_clients() {
        let (table, gcra) = (table(), Gcra::of(&limit(10, 10, RateScope::User), NonZeroU32::MIN));
        for number in 1..=4 * PLACES as u64 {
            is_allowed(&table, gcra, number, NOW);
        }
        assert!(is_allowed(&table, gcra, 0, NOW), "it starts with the least debt of all");
    }

    #[test]
    fn in_a_full_table_each_client_gets_no_more_than_its_limit() {
        let (table, gcra) = (table(), Gcra::of(&limit(1_000, 3, RateScope::User), NonZeroU32::MIN));
        let random = Random::seeded(0);
        let mut allowed = vec![0_u32; 100];
        let (mut now, end) = (NOW, NOW + NOW);
        while now < end {
            now += random.next() % 20_000;
            let number = random.next() % 100;
            allowed[number as usize] += u32::from(is_allowed(&table, gcra, number, now));
        }
        assert!(allowed.iter().all(|count| *count <= 1_003), "{allowed:?}");
    }

    #[test]
    fn without_memory_clients_share_a_segment_and_nothing_is_forgotten() {
        let gcra = Gcra::of(&limit(1, 2, RateScope::User), NonZeroU32::MIN);
        // For none, and for the directory and one segment.
        for octets in [0, 3 * (SEGMENTS * 16 + 1_000)] {
            let table = Table::new(memory(octets));
            let spread = |number: u64| NonZeroU64::new(number << 32 | 1).unwrap();
            let is_allowed =
                |number| table.update(spread(number), NOW, |due| gcra.decide(due, NOW)).is_ok();
            let allowed = (0..PLACES as u64).filter(|number| is_allowed(*number)).count();
            assert_eq!(allowed, PLACES, "each its first request");
            let rest = (0..PLACES as u64).cycle().take(1_000).filter(|number| is_allowed(*number));
            assert_eq!(rest.count(), PLACES, "and its second one");
            assert!((0..10_000).filter(|number| is_allowed(*number)).count() < 1_000);
            assert!((0..PLACES as u64).all(|number| !is_allowed(number)));
            assert!(!table.is_idle(NOW));
            assert!(table.is_idle(NOW + 3 * NOW));
        }
    }

    #[test]
    fn workers_that_compete_for_the_last_memory_give_a_client_one_burst() {
        let gcra = Gcra::of(&limit(1, 1, RateScope::User), NonZeroU32::MIN);
        for _ in 0..500 {
            // For the directory and one segment.
            let table = Table::new(memory(2 * (SEGMENTS * 16 + size_of::<Segment>())));
            let (allowed, start) = (AtomicU32::new(0), std::sync::Barrier::new(4));
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        start.wait();
                        for _ in 0..3 {
                            let is_allowed = is_allowed(&table, gcra, 0, NOW);
                            allowed.fetch_add(u32::from(is_allowed), Ordering::Relaxed);
                        }
                    });
                }
            });
            assert_eq!(allowed.into_inner(), 1);
        }
    }

    #[test]
    fn workers_share_the_limit_of_a_client_exactly() {
        let (table, gcra) = (table(), Gcra::of(&limit(1, 1_000, RateScope::User), NonZeroU32::MIN));
        let allowed = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for number in 0..10_000 {
                        let is_allowed = is_allowed(&table, gcra, number % 5, NOW);
                        allowed.fetch_add(u32::from(is_allowed), Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(allowed.into_inner(), 5 * 1_000);
    }
}
