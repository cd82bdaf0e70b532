//! How many copies of a worker are in flight, and how much memory they hold, with a fair share for
//! each Namespace and service.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use foldhash::quality::RandomState;

use crate::telemetry::Meter;

/// The copies of a worker.
pub(super) struct Budget {
    limit: Usage,
    used: RefCell<HashMap<Owner, Usage, RandomState>>,
    meter: Rc<Meter>,
}

/// A number of copies, and their memory in octets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) copies: usize,
    pub(super) octets: usize,
}

/// Those that copies count for.
pub(super) struct Owners([Owner; 3]);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Owner {
    Worker,
    Namespace(Arc<str>),
    /// By its Namespace and name.
    Service(Arc<str>, Arc<str>),
}

/// What is in use of a budget until this is dropped.
pub(super) struct Share {
    budget: Rc<Budget>,
    owners: Rc<Owners>,
    usage: Usage,
}

// === impl Usage ===

impl Usage {
    /// One copy, without its memory.
    pub(super) const COPY: Self = Self { copies: 1, octets: 0 };

    pub(super) fn memory(octets: usize) -> Self {
        Self { copies: 0, octets }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            copies: self.copies.saturating_add(other.copies),
            octets: self.octets.saturating_add(other.octets),
        }
    }

    fn minus(self, other: Self) -> Self {
        Self {
            copies: self.copies.saturating_sub(other.copies),
            octets: self.octets.saturating_sub(other.octets),
        }
    }

    fn is_within(self, limit: Self) -> bool {
        self.copies <= limit.copies && self.octets <= limit.octets
    }
}

// === impl Owners ===

impl Owners {
    /// The owners of copies of a service's requests.
    pub(super) fn of(namespace: &Arc<str>, service: &Arc<str>) -> Rc<Self> {
        let of_service = Owner::Service(Arc::clone(namespace), Arc::clone(service));
        Rc::new(Self([Owner::Worker, Owner::Namespace(Arc::clone(namespace)), of_service]))
    }
}

// === impl Owner ===

impl Owner {
    /// The part of a worker's limit that it may use: one tenant cannot use up what all share.
    fn part_of(&self, limit: Usage) -> Usage {
        let part = match self {
            Self::Worker => 1,
            Self::Namespace(_) => 2,
            Self::Service(..) => 4,
        };
        Usage { copies: (limit.copies / part).max(1), octets: limit.octets / part }
    }
}

// === impl Budget ===

impl Budget {
    pub(super) fn new(limit: Usage, meter: Rc<Meter>) -> Rc<Self> {
        Rc::new(Self { limit, used: RefCell::default(), meter })
    }

    /// Takes `usage` for its `owners`; `None` if one of them has no room.
    pub(super) fn take(self: &Rc<Self>, owners: &Rc<Owners>, usage: Usage) -> Option<Share> {
        if !self.add(owners, usage) {
            return None;
        }
        Some(Share { budget: Rc::clone(self), owners: Rc::clone(owners), usage })
    }

    fn add(&self, owners: &Owners, usage: Usage) -> bool {
        let mut used = self.used.borrow_mut();
        let has_room = |owner: &Owner| {
            let current = used.get(owner).copied().unwrap_or_default();
            current.plus(usage).is_within(owner.part_of(self.limit))
        };
        if !owners.0.iter().all(has_room) {
            return false;
        }
        for owner in &owners.0 {
            match used.get_mut(owner) {
                Some(current) => *current = current.plus(usage),
                None => drop(used.insert(owner.clone(), usage)),
            }
        }
        self.meter.shadows().taken(usage.octets);
        (0..usage.copies).for_each(|_| self.meter.shadows().started());
        true
    }

    fn remove(&self, owners: &Owners, usage: Usage) {
        let mut used = self.used.borrow_mut();
        for owner in &owners.0 {
            let Some(current) = used.get_mut(owner) else { continue };
            *current = current.minus(usage);
            if *current == Usage::default() {
                used.remove(owner);
            }
        }
        self.meter.shadows().released(usage.octets);
        (0..usage.copies).for_each(|_| self.meter.shadows().ended());
    }
}

// === impl Share ===

impl Share {
    /// Changes the memory to `octets`, at least what it is. Returns `false`, and changes nothing, if
    /// there is no room.
    #[must_use]
    pub(super) fn grow(&mut self, octets: usize) -> bool {
        let more = Usage::memory(octets.saturating_sub(self.usage.octets));
        let has_grown = self.budget.add(&self.owners, more);
        if has_grown {
            self.usage = self.usage.plus(more);
        }
        has_grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.remove(&self.owners, self.usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory;

    const LIMIT: Usage = Usage { copies: 16, octets: 1_600 };

    fn budget() -> Rc<Budget> {
        Budget::new(LIMIT, Rc::new(memory::tests::meter()))
    }

    fn owners(namespace: &str, service: &str) -> Rc<Owners> {
        Owners::of(&namespace.into(), &service.into())
    }

    fn taken(budget: &Rc<Budget>, owners: &Rc<Owners>, usage: Usage) -> Vec<Share> {
        std::iter::from_fn(|| budget.take(owners, usage)).collect()
    }

    #[test]
    fn a_service_has_a_quarter_and_a_namespace_half() {
        for usage in [Usage::COPY, Usage::memory(100)] {
            let budget = budget();
            let first = taken(&budget, &owners("one", "a"), usage);
            let second = taken(&budget, &owners("one", "b"), usage);
            let third = taken(&budget, &owners("one", "c"), usage);
            let other = taken(&budget, &owners("two", "a"), usage);
            let [first, second, third, other] =
                [&first, &second, &third, &other].map(|shares| shares.len());
            assert_eq!((first, second, third, other), (4, 4, 0, 4), "{usage:?}");
        }
    }

    #[test]
    fn what_is_dropped_is_free_again_and_leaves_nothing_behind() {
        let budget = budget();
        let owners = owners("one", "a");
        for _ in 0..3 {
            let mut shares = taken(&budget, &owners, Usage::memory(200));
            assert_eq!(shares.len(), 2);
            assert!(!shares[0].grow(201));
            drop(shares.pop());
            assert!(shares[0].grow(400) && !shares[0].grow(401));
        }
        assert!(budget.used.borrow().is_empty());
    }

    #[test]
    fn the_smallest_limit_allows_one_copy() {
        let meter = Rc::new(memory::tests::meter());
        let budget = Budget::new(Usage { copies: 1, octets: 8 }, meter);
        let first = budget.take(&owners("one", "a"), Usage::COPY);
        assert!(first.is_some() && budget.take(&owners("two", "a"), Usage::COPY).is_none());
    }
}
