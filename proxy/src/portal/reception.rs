//! Where workers leave requests for the portal: a bounded queue, and as many at a time as are waited for.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::place::Place;
use super::{Ask, Portal, Reply, handoff};

/// Requests that wait to be begun.
const WAITING: usize = 256;
/// Requests at a time; each may wait for the provider.
const AT_A_TIME: usize = 64;

/// What a worker knows of the portal.
#[derive(Clone)]
pub(crate) struct Reception {
    place: Arc<Place>,
    sender: mpsc::Sender<Left>,
}

/// What workers left.
pub(crate) struct Queue(mpsc::Receiver<Left>);

struct Left {
    ask: Ask,
    answer: oneshot::Sender<Option<Reply>>,
}

/// The queue is full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Busy;

// === impl Reception ===

impl Reception {
    pub(crate) fn new(portal: &Portal) -> (Self, Queue) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { place: Arc::new(portal.place.clone()), sender }, Queue(receiver))
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
        let (answer, answered) = oneshot::channel();
        self.sender.try_send(Left { ask, answer }).map_err(|_| Busy)?;
        answered.await.map_err(|_| Busy)
    }
}

// === impl Queue ===

impl Queue {
    /// Answers, forever: a task of the control plane.
    pub(crate) async fn serve(mut self, portal: Arc<Portal>) {
        let slots = Arc::new(Semaphore::new(AT_A_TIME));
        let mut answering = JoinSet::new();
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let Some(Left { ask, answer }) = self.0.recv().await else { return };
            let portal = Arc::clone(&portal);
            answering.spawn(async move {
                // Whoever asked may be gone.
                let _ = answer.send(portal.respond(&ask, SystemTime::now()).await);
                drop(slot);
            });
            while answering.try_join_next().is_some() {}
        }
    }
}
