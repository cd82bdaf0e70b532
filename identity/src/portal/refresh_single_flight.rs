//! Takes care that the provider is asked about one session once at a time; whoever comes meanwhile
//! goes on without. Several tabs come with the same refresh token, and a provider that gives a new
//! one each time takes a second use of the old one for a theft (RFC 9700 §4.14.2).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Mutex as Turn;

use crate::provider::RefreshToken;
use crate::session::{Id, Session};

/// The most sessions that are kept in mind; beyond it, those are forgotten that nobody is asking
/// about.
const MAX: usize = 8 * 1024;

/// What the provider said last of a session.
pub(super) type Said = Option<(Session, Option<RefreshToken>)>;

/// The turns of all sessions.
#[derive(Default)]
pub(super) struct Asking(Mutex<HashMap<Id, Arc<Turn<Said>>>>);

// === impl Asking ===

impl Asking {
    /// The turn of one session: whoever has it locked may ask.
    pub(super) fn turn(&self, id: &Id) -> Arc<Turn<Said>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= MAX {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(id.clone()).or_default())
    }
}
