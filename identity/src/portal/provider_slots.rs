//! Slots for requests to the provider: a slow provider, or a client with many logins, does not keep
//! other clients from logging in.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::client_network::ClientNetwork;
use crate::fair_queue::{Class, Counts, FairQueue, Limits, Queued};

/// Queued and concurrent requests to the provider. One client gets at most a quarter of them for
/// logins, and a quarter is reserved for users with a session.
const LIMITS: Limits = Limits { waiting: 256, concurrent: 32, rate: None };
/// How long a request waits for a slot.
const MAX_WAIT: Duration = Duration::from_secs(5);

/// The slots. Cheap to clone.
#[derive(Clone)]
pub(super) struct ProviderSlots(FairQueue<Waiting>);

/// The right to one request to the provider, until it is dropped.
pub(super) struct Slot {
    _released_on_drop: oneshot::Sender<()>,
}

struct Waiting(oneshot::Sender<Slot>);

// === impl ProviderSlots ===

impl ProviderSlots {
    pub(super) fn new() -> Self {
        Self(FairQueue::new("login_provider", LIMITS))
    }

    /// Waits for a slot; `None` if there is none in time. Users with a session are
    /// [known](Class::Known).
    pub(super) async fn acquire(&self, class: Class, client: ClientNetwork) -> Option<Slot> {
        let (grant, granted) = oneshot::channel();
        self.0.push(class, client, Waiting(grant)).ok()?;
        timeout(MAX_WAIT, granted).await.ok()?.ok()
    }

    /// Grants slots forever: a task of the control plane.
    pub(super) async fn serve(&self) {
        let grant = |Waiting(grant): Waiting| async move {
            let (release, released) = oneshot::channel();
            if grant.send(Slot { _released_on_drop: release }).is_ok() {
                let _ = released.await;
            }
        };
        self.0.serve(grant).await;
    }

    /// Returns the counters of the queue, for metrics.
    pub(super) fn counts(&self) -> &Arc<Counts> {
        self.0.counts()
    }
}

impl Queued for Waiting {
    fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}
