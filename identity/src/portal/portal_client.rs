//! The queue by which workers send requests to the portal.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use super::{Portal, PortalRequest, Reply};
use crate::fair_queue::{Class, Counts, FairQueue, Full, Limits, Queued};

/// Queued and concurrent requests (a quarter for one client): some wait for the provider.
const LIMITS: Limits = Limits { waiting: 256, concurrent: 256, rate: None };

/// A worker's handle to the portal.
#[derive(Clone)]
pub struct PortalClient {
    queue: FairQueue<PendingRequest>,
}

/// A request, and the receiver of its reply.
struct PendingRequest {
    request: PortalRequest,
    reply: oneshot::Sender<Option<Reply>>,
}

// === impl PortalClient ===

impl PortalClient {
    /// Creates a client of the portal; [`serve`](Self::serve) answers its requests.
    pub fn new() -> Self {
        Self { queue: FairQueue::new("portal", LIMITS) }
    }

    /// Sends a request to the portal; `None` stands for the hidden answer.
    ///
    /// # Errors
    /// The queue is full.
    pub async fn send(&self, request: PortalRequest) -> Result<Option<Reply>, Full> {
        let (reply, answered) = oneshot::channel();
        self.queue.push(Class::Anonymous, request.client, PendingRequest { request, reply })?;
        // The request was displaced by another client's.
        answered.await.map_err(|_| Full)
    }

    /// Serves requests forever: a task of the control plane.
    pub async fn serve(&self, portal: Arc<Portal>) {
        let serving = Arc::clone(&portal);
        let respond = |PendingRequest { request, reply }: PendingRequest| {
            let portal = Arc::clone(&portal);
            async move {
                // The worker may have given up.
                let _ = reply.send(portal.respond(&request, SystemTime::now()).await);
            }
        };
        tokio::join!(self.queue.serve(respond), serving.slots.serve());
    }

    /// Returns the counters of the queues, for metrics.
    pub fn queues<'q>(&'q self, portal: &'q Portal) -> [&'q Arc<Counts>; 2] {
        [self.queue.counts(), portal.slots.counts()]
    }
}

impl Default for PortalClient {
    fn default() -> Self {
        Self::new()
    }
}

impl Queued for PendingRequest {
    fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }
}
