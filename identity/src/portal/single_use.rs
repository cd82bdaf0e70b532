//! Remembers what was used, until it expires: states of logins, and codes.
//!
//! Other replicas do not know it. There a value is valid once more until it expires, in the browser
//! that it is bound to.

use std::collections::{HashSet, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use portcullis_config::unix_time::seconds;

use crate::session::Id;

/// Maximum number of identifiers. Beyond it the oldest are forgotten: one client must not keep
/// others from logging in, and each value is bound to one browser in any case.
const MAX: usize = 64 * 1024;

/// Identifiers that were used. All have the same lifetime.
#[derive(Default)]
pub(super) struct SingleUse(Mutex<Used>);

#[derive(Default)]
struct Used {
    ids: HashSet<Id>,
    /// With the times when they expire, in the order of their use.
    order: VecDeque<(Id, u64)>,
}

// === impl SingleUse ===

impl SingleUse {
    /// Marks an identifier as used until it expires, in seconds since 1970; returns false if it was
    /// used before.
    pub(super) fn take(&self, id: &Id, until: u64, now: SystemTime) -> bool {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = seconds(now);
        while used.order.len() >= MAX || used.order.front().is_some_and(|(_, until)| *until <= now)
        {
            if let Some((oldest, _)) = used.order.pop_front() {
                used.ids.remove(&oldest);
            }
        }
        let is_new = used.ids.insert(id.clone());
        if is_new {
            used.order.push_back((id.clone(), until));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::at;

    #[test]
    fn an_identifier_is_used_once_until_it_expires() {
        let (used, one, other) =
            (SingleUse::default(), Id::random().unwrap(), Id::random().unwrap());
        assert!(used.take(&one, 160, at(100)));
        assert!(!used.take(&one, 160, at(159)));
        assert!(used.take(&other, 219, at(159)));
        assert!(used.take(&one, 220, at(160)));
    }

    #[test]
    fn the_number_of_identifiers_is_bounded() {
        let used = SingleUse::default();
        let first = Id::random().unwrap();
        assert!(used.take(&first, 200, at(100)));
        for _ in 0..MAX {
            assert!(used.take(&Id::random().unwrap(), 200, at(100)), "other clients find room");
        }
        let used = used.0.into_inner().unwrap();
        assert_eq!((used.ids.len(), used.order.len()), (MAX, MAX));
        assert!(!used.ids.contains(&first));
    }
}
