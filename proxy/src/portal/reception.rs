//! Where workers leave requests for the portal.

use std::sync::Arc;
use std::time::SystemTime;

use super::place::Place;
use super::{Ask, Portal, Reply, handoff};
use crate::desk::{self, Busy, Desk};

/// Requests that wait to be begun.
const WAITING: usize = 256;
/// Requests at a time; each may wait for the provider.
const AT_A_TIME: usize = 64;

/// What a worker knows of the portal.
#[derive(Clone)]
pub(crate) struct Reception {
    place: Arc<Place>,
    desk: Desk<Ask, Option<Reply>>,
}

/// What workers left.
pub(crate) struct Queue(desk::Queue<Ask, Option<Reply>>);

// === impl Reception ===

impl Reception {
    pub(crate) fn new(portal: &Portal) -> (Self, Queue) {
        let (desk, queue) = desk::open(WAITING);
        (Self { place: Arc::new(portal.place.clone()), desk }, Queue(queue))
    }

    /// Whether a request is for the portal. It does not matter whether the host is known.
    pub(crate) fn is_for(&self, host: &str, path: &str) -> bool {
        self.place.is_portal(host) || handoff::is_everywhere(path)
    }

    /// The portal's answer; `None` stands for the hidden one.
    ///
    /// # Errors
    /// Too many are asking.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Option<Reply>, Busy> {
        self.desk.ask(ask).await
    }
}

// === impl Queue ===

impl Queue {
    /// Answers, forever: a task of the control plane.
    pub(crate) async fn serve(self, portal: Arc<Portal>) {
        let respond = |ask| {
            let portal = Arc::clone(&portal);
            async move { portal.respond(&ask, SystemTime::now()).await }
        };
        self.0.serve(AT_A_TIME, respond).await;
    }
}
