//! Bounds the requests that make the builder wait for a cluster or a registry, or hold templates.
//!
//! Each caller gets a [fair share](crate::fair_share) of them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::StatusCode;

use super::Problem;
use crate::access::Principal;
use crate::fair_share::has_place;

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
        if own < PER_CALLER && has_place(ALL, all, own) {
            taken.insert(caller.to_owned(), own + 1);
            return Ok(Slot { slots: self.clone(), caller: caller.to_owned() });
        }
        let reason = if own >= PER_CALLER {
            format!(
                "{PER_CALLER} requests of the caller that need a cluster, a registry or templates"
            )
        } else if all >= ALL {
            format!("{ALL} requests of all callers that need a cluster, a registry or templates")
        } else {
            format!(
                "{all} of {ALL} requests that need a cluster, a registry or templates, and {own} of \
                 the caller,"
            )
        };
        Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, format!("{reason} are in progress")))
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
        taken.clear();
        assert!(slots.lock().is_empty());
    }

    #[test]
    fn callers_with_many_requests_leave_slots_to_others() {
        let slots = Slots::default();
        let mut taken = Vec::new();
        let mut fill = |caller: &str| {
            let before = taken.len();
            taken.extend(std::iter::from_fn(|| slots.take_for(caller).ok()));
            taken.len() - before
        };
        assert_eq!(["a", "b", "c", "d", "e", "f"].map(&mut fill), [4, 4, 4, 2, 1, 1]);
        assert_eq!(fill("g"), 0);
        let refused = slots.take_for("g").unwrap_err();
        assert!(refused.detail.contains("16 requests of all callers"), "{}", refused.detail);
        assert_eq!(taken.len(), ALL);
        taken.pop();
        let refused = slots.take_for("d").unwrap_err();
        assert!(refused.detail.contains("and 2 of the caller"), "{}", refused.detail);
        assert!(slots.take_for("g").is_ok());
    }
}
