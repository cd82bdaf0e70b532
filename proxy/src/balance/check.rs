//! The verdict of active checks on an endpoint, and which checks are begun: pure functions.

use std::collections::VecDeque;
use std::num::NonZeroU8;

/// What the checks of an endpoint have found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Checked {
    /// The failures since the last success.
    failures: u8,
    is_failing: bool,
}

// === impl Checked ===

impl Checked {
    pub(crate) fn is_failing(self) -> bool {
        self.is_failing
    }

    /// A check has ended. `limit` failures in a row are needed before it counts as failing; one
    /// success ends that.
    #[must_use]
    pub(crate) fn ended(self, passed: bool, limit: NonZeroU8) -> Self {
        if passed {
            return Self::default();
        }
        let failures = self.failures.saturating_add(1);
        Self { failures, is_failing: self.is_failing || failures >= limit.get() }
    }
}

/// The checks of one Namespace that are due, the one to begin first before the others.
#[derive(Debug, Clone)]
pub(crate) struct Due<'a, T> {
    pub(crate) namespace: &'a str,
    /// How many of its checks are under way.
    pub(crate) running: usize,
    pub(crate) checks: VecDeque<T>,
}

/// Chooses up to `limit` checks to begin while `free` places are left, and returns them with their
/// Namespaces.
///
/// Namespaces, which must be sorted, take turns after the one that was `last`, so that a long list
/// delays no other. None takes a place while it has as many as are free: if its checks hang, there
/// are places for others.
pub(crate) fn in_turn<'a, T>(
    mut due: Vec<Due<'a, T>>,
    last: &str,
    mut free: usize,
    limit: usize,
) -> Vec<(&'a str, T)> {
    let next = due.partition_point(|one| one.namespace <= last);
    due.rotate_left(next);
    let mut turns = VecDeque::from(due);
    let mut chosen = Vec::new();
    while chosen.len() < limit
        && let Some(mut one) = turns.pop_front()
    {
        if one.running < free
            && let Some(check) = one.checks.pop_front()
        {
            chosen.push((one.namespace, check));
            free -= 1;
            one.running += 1;
            turns.push_back(one);
        }
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(namespace: &str, running: usize, count: usize) -> Due<'_, usize> {
        Due { namespace, running, checks: (0..count).collect() }
    }

    #[test]
    fn failures_in_a_row_count_and_one_success_ends_them() {
        let limit = NonZeroU8::new(3).unwrap();
        let after = |outcomes: &[bool]| {
            let checked = Checked::default();
            outcomes.iter().fold(checked, |checked, passed| checked.ended(*passed, limit))
        };
        assert!(!after(&[false, false]).is_failing());
        assert!(after(&[false, false, false]).is_failing());
        assert!(!after(&[false, false, true, false, false]).is_failing());
        assert!(after(&[false; 300]).is_failing());
        assert!(!after(&[false, false, false, true]).is_failing());
    }

    #[test]
    fn a_long_list_delays_no_other() {
        let all = vec![due("a", 0, 100), due("b", 0, 1), due("c", 0, 2), due("d", 0, 0)];
        let chosen = |last, limit| in_turn(all.clone(), last, 1_000, limit);
        assert_eq!(chosen("", 5), [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("c", 1)]);
        assert_eq!(chosen("a", 2), [("b", 0), ("c", 0)], "the next one in turn begins");
        assert_eq!(chosen("d", 1), [("a", 0)]);
        assert_eq!(chosen("", 1_000).len(), 103);
    }

    #[test]
    fn checks_that_hang_leave_places_for_other_namespaces() {
        let hanging = |running, free| in_turn(vec![due("a", running, 100)], "", free, 1_000).len();
        assert_eq!(hanging(0, 64), 32, "half of the places");
        assert_eq!(hanging(32, 32), 0);
        let chosen = in_turn(vec![due("a", 32, 100), due("b", 0, 100)], "", 32, 1_000);
        assert_eq!(chosen.len(), 16, "another one gets half of the rest");
        assert!(chosen.iter().all(|(namespace, _)| *namespace == "b"));
        assert_eq!(in_turn(vec![due("a", 0, 1)], "", 0, 1_000), []);
    }
}
