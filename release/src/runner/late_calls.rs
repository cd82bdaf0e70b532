//! What calls leave that arrive late.
//!
//! A call can outlive the builder that sent it: in a queue of the API server, or in the network. Its
//! precondition makes it do nothing where there is an object, but where an object was deleted, it
//! creates it again. So pruned objects are looked for until no such call can arrive any more.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::Runner;
use crate::cluster::{ClusterError, Owner};
use crate::model::{Placement, Time};
use crate::store::WatchedObject;

/// How often they are looked for.
pub(super) const LOOKED_FOR_EVERY: Duration = Duration::from_secs(30);
/// For how long at least, in milliseconds: TCP gives up a connection without acknowledgements after 15 minutes
/// (`tcp_retries2`), and the API server a request after one.
pub(super) const WATCHED_FOR: u64 = 16 * 60 * 1000;
/// The longest that one call may take: a deployment of the same service waits for it.
const MAX_CALL: Duration = Duration::from_secs(2);

// === impl Runner ===

impl Runner {
    /// Deletes the objects of a placement that late calls have created again. No deployment to it
    /// may be worked on at the same time. An object is forgotten after a look that began when no
    /// late call could arrive any more.
    pub(super) async fn sweep(self: Arc<Self>, placement: Placement) {
        let now = Time::now();
        let watched = match self.store.watched(&placement, now).await {
            Ok(watched) => watched,
            Err(error) => return tracing::error!(%error, "failed to read the pruned objects"),
        };
        for watched in &watched {
            let looked = if watched.is_back { Ok(()) } else { self.prune_again(watched).await };
            if let Err(error) = looked {
                let object = &watched.object;
                tracing::warn!(%object, %error, "failed to look for a pruned object");
                match error {
                    ClusterError::Rejected(_) => continue,
                    ClusterError::Unreachable(_) => return,
                }
            }
            if watched.is_over
                && let Err(error) = self.store.unwatch(watched, now).await
            {
                return tracing::error!(%error, "failed to forget a pruned object");
            }
        }
    }

    async fn prune_again(&self, watched: &WatchedObject) -> Result<(), ClusterError> {
        let WatchedObject { placement, namespace, object, .. } = watched;
        let (service, epoch) = (placement.service.clone(), self.store.epoch());
        let owner = Owner { service, epoch, fence: None };
        let pruned = timeout(MAX_CALL, self.cluster.prune(namespace, object, &owner)).await;
        pruned.unwrap_or_else(|_| Err(ClusterError::Unreachable("no response in time".to_owned())))
    }
}
