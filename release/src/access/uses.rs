//! When keys were used: which uses are worth recording.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use super::KeyName;
use crate::model::Time;

/// A use of a key is recorded at most this often, in milliseconds.
const RECORDED_EVERY: u64 = 60_000;

/// The uses that were recorded by this process. There is one for each configured key at most.
#[derive(Debug, Default)]
pub struct KeyUses(Mutex<HashMap<KeyName, Time>>);

// === impl KeyUses ===

impl KeyUses {
    /// Whether a use is to be recorded: the first one, and then one a minute.
    #[must_use]
    pub fn is_due(&self, key: &KeyName, now: Time) -> bool {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due =
            recorded.get(key).is_none_or(|last| now.0.saturating_sub(last.0) >= RECORDED_EVERY);
        if is_due {
            recorded.insert(key.clone(), now);
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_recorded_once_a_minute_however_often_it_is_used() {
        let (uses, key, other) = (KeyUses::default(), KeyName::of(&[1; 32]), KeyName::of(&[2; 32]));
        let due = |key, from: u64, until: u64| {
            (from..until).filter(|now| uses.is_due(key, Time(*now))).collect::<Vec<_>>()
        };
        assert_eq!(due(&key, 0, 130_000), [0, 60_000, 120_000]);
        assert_eq!(due(&other, 5, 10), [5]);
        assert_eq!(due(&key, 130_000, 130_010), [0; 0]);
    }
}
