//! Refreshes each session at the provider at most once at a time.
//!
//! Several tabs send the same refresh token, and a provider that rotates them treats a second use
//! as theft (RFC 9700 §4.14.2). Concurrent requests continue without a refresh.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as AsyncMutex;

use crate::provider::RefreshToken;
use crate::session::{Id, Session};

/// Maximum number of sessions; beyond it, those without a refresh in progress are evicted.
const MAX: usize = 8 * 1024;

/// The last refresh of a session.
pub(super) type RefreshOutcome = Option<(Session, Option<RefreshToken>)>;

/// The locks of all sessions.
#[derive(Default)]
pub(super) struct RefreshSingleFlight(Mutex<HashMap<Id, Arc<AsyncMutex<RefreshOutcome>>>>);

// === impl RefreshSingleFlight ===

impl RefreshSingleFlight {
    /// Returns the lock of one session; its holder may refresh it.
    pub(super) fn lock(&self, id: &Id) -> Arc<AsyncMutex<RefreshOutcome>> {
        let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if locks.len() >= MAX {
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
        }
        Arc::clone(locks.entry(id.clone()).or_default())
    }
}
