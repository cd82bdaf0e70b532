//! Where workers leave requests for the portal.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::portal_origin::Place;
use super::{Ask, Portal, Reply, handoff};
use crate::client_network::ClientNetwork;
use crate::fair_queue::{Class, Counts, FairQueue, Full, Limits, Queued};

/// How many requests wait to be begun, and are under way at a time (of one client a quarter): some
/// of them wait for the provider.
const LIMITS: Limits = Limits { waiting: 256, concurrent: 256, rate: None };

/// What a worker knows of the portal.
#[derive(Clone)]
pub struct Reception {
    place: Arc<Place>,
    queue: FairQueue<Left>,
}

/// A request, and who waits for its answer.
struct Left {
    ask: Ask,
    reply: oneshot::Sender<Option<Reply>>,
}

// === impl Reception ===

impl Reception {
    /// A client of the portal; requests wait until [`serve`](Self::serve) answers them.
    pub fn new(portal: &Portal) -> Self {
        let queue = FairQueue::new("portal", LIMITS);
        Self { place: Arc::new(portal.place.clone()), queue }
    }

    /// Whether a request is for the portal. It does not matter whether the host is known.
    pub fn is_for(&self, host: &str, path: &str) -> bool {
        self.place.is_portal(host) || handoff::is_everywhere(path)
    }

    /// The portal's answer to a client; `None` stands for the hidden one.
    ///
    /// # Errors
    /// Too many are asking.
    pub async fn ask(&self, client: ClientNetwork, ask: Ask) -> Result<Option<Reply>, Full> {
        let (reply, answered) = oneshot::channel();
        self.queue.push(Class::Anonymous, client, Left { ask, reply })?;
        // It made room for another client's.
        answered.await.map_err(|_| Full)
    }

    /// Answers, forever: a task of the control plane.
    pub async fn serve(&self, portal: Arc<Portal>) {
        let respond = |Left { ask, reply }: Left| {
            let portal = Arc::clone(&portal);
            async move {
                // Whoever asked may be gone.
                let _ = reply.send(portal.respond(&ask, SystemTime::now()).await);
            }
        };
        self.queue.serve(respond).await;
    }

    /// What metrics tell of the queue.
    pub fn counts(&self) -> &Arc<Counts> {
        self.queue.counts()
    }
}

impl Queued for Left {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
