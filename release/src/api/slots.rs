//! Bounds the requests that make the builder wait for a cluster or a registry.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;

use super::Problem;
use crate::access::Principal;

/// Such requests in progress, of all callers together.
const ALL: usize = 16;
/// Such requests in progress of one caller.
const PER_CALLER: usize = 4;

/// The requests in progress, by caller.
#[derive(Debug, Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<HashMap<String, usize>>>);

/// A request in progress, until this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    slots: Slots,
    caller: String,
}

// === impl Slots ===

impl Slots {
    /// Takes a slot for a request of this caller.
    ///
    /// # Errors
    /// The caller has too many requests in progress, or all callers together have.
    pub(super) fn take(&self, principal: &Principal) -> Result<Slot, Problem> {
        self.take_for(principal.name())
    }

    fn take_for(&self, caller: &str) -> Result<Slot, Problem> {
        let mut taken = self.lock();
        let own = taken.get(caller).copied().unwrap_or(0);
        let all: usize = taken.values().sum();
        let (limit, whose) = match (own >= PER_CALLER, all >= ALL) {
            (true, _) => (PER_CALLER, "of the caller"),
            (false, true) => (ALL, "of all callers"),
            (false, false) => {
                taken.insert(caller.to_owned(), own + 1);
                return Ok(Slot { slots: self.clone(), caller: caller.to_owned() });
            }
        };
        Err(Problem::new(
            StatusCode::TOO_MANY_REQUESTS,
            format!("{limit} requests {whose} that ask a cluster or a registry are in progress"),
        ))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut taken = self.slots.lock();
        if let Some(count) = taken.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use axum::response::IntoResponse;
    use http::header::RETRY_AFTER;

    use super::*;

    #[test]
    fn a_caller_and_all_callers_together_have_a_limit() {
        let slots = Slots::default();
        let mut taken: Vec<Slot> = (0..PER_CALLER).map(|_| slots.take_for("a").unwrap()).collect();
        let refused = slots.take_for("a").unwrap_err();
        assert!(refused.detail.contains("of the caller"), "{}", refused.detail);
        let response = refused.into_response();
        assert_eq!(response.status(), StatusCode::TOO_MANY_REQUESTS);
        assert!(response.headers().contains_key(RETRY_AFTER));
        for caller in ["b", "c", "d"] {
            taken.extend((0..PER_CALLER).map(|_| slots.take_for(caller).unwrap()));
        }
        assert_eq!(taken.len(), ALL);
        assert!(slots.take_for("e").unwrap_err().detail.contains("of all callers"));
        taken.pop();
        assert!(slots.take_for("e").is_ok());
        taken.clear();
        assert!(slots.lock().is_empty());
    }
}
