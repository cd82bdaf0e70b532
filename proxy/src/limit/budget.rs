//! The memory of all rate limits together, shared out by Namespace.
//!
//! A Namespace gets more only as long as it holds at most as much as it leaves to others. So one
//! alone gets half, and those that need little always get it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The memory of all limits.
#[derive(Debug)]
pub(super) struct MemoryBudget {
    octets: usize,
    held: Mutex<Held>,
    /// The sum, for metrics.
    gauge: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Held {
    sum: usize,
    /// Without Namespaces that hold nothing.
    by_namespace: HashMap<Arc<str>, usize>,
}

/// The memory of one limit, returned when this is dropped.
#[derive(Debug)]
pub(super) struct Memory {
    budget: Arc<MemoryBudget>,
    namespace: Arc<str>,
    octets: AtomicUsize,
}

// === impl MemoryBudget ===

impl MemoryBudget {
    pub(super) fn new(octets: usize, gauge: Arc<AtomicU64>) -> Arc<Self> {
        Arc::new(Self { octets, held: Mutex::default(), gauge })
    }

    fn take(&self, namespace: &Arc<str>, octets: usize) -> bool {
        let mut held = self.lock();
        let own = held.by_namespace.get(namespace).copied().unwrap_or(0) + octets;
        let sum = held.sum + octets;
        if own > self.octets.saturating_sub(sum) {
            return false;
        }
        held.sum = sum;
        held.by_namespace.insert(Arc::clone(namespace), own);
        self.gauge.store(sum as u64, Ordering::Relaxed);
        true
    }

    fn release(&self, namespace: &Arc<str>, octets: usize) {
        let mut held = self.lock();
        held.sum = held.sum.saturating_sub(octets);
        self.gauge.store(held.sum as u64, Ordering::Relaxed);
        if let Some(own) = held.by_namespace.get_mut(namespace) {
            *own = own.saturating_sub(octets);
            if *own == 0 {
                held.by_namespace.remove(namespace);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Memory ===

impl Memory {
    pub(super) fn new(budget: &Arc<MemoryBudget>, namespace: &Arc<str>) -> Self {
        Self {
            budget: Arc::clone(budget),
            namespace: Arc::clone(namespace),
            octets: AtomicUsize::new(0),
        }
    }

    /// Takes `octets` more. Returns `false` if there are none for the Namespace.
    pub(super) fn take(&self, octets: usize) -> bool {
        let taken = self.budget.take(&self.namespace, octets);
        if taken {
            self.octets.fetch_add(octets, Ordering::Relaxed);
        }
        taken
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.budget.release(&self.namespace, *self.octets.get_mut());
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The memory of a limit of one Namespace.
    pub(in crate::limit) fn memory(octets: usize) -> Memory {
        Memory::new(&MemoryBudget::new(octets, Arc::default()), &"shop".into())
    }

    #[test]
    fn a_namespace_holds_at_most_as_much_as_it_leaves_to_others() {
        let gauge = Arc::default();
        let budget = MemoryBudget::new(1_000, Arc::clone(&gauge));
        let limits: Vec<_> = (0..5).map(|_| Memory::new(&budget, &"greedy".into())).collect();
        let taken = limits.iter().cycle().take(1_000).filter(|limit| limit.take(10)).count();
        assert_eq!(taken * 10, 500, "all of its limits together");
        let other = Memory::new(&budget, &"modest".into());
        assert!(other.take(200) && !other.take(100), "the others share what is left");
        assert!(Memory::new(&budget, &"third".into()).take(100));
        assert_eq!(gauge.load(Ordering::Relaxed), 700);
        drop(limits);
        assert_eq!(gauge.load(Ordering::Relaxed), 200);
        assert!(other.take(300));
        drop(other);
        assert!(budget.lock().by_namespace.is_empty());
    }
}
