//! Where a backend's pods listen, swapped on its own without rebuilding the table.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use serde::{Serialize, Serializer};

/// Names one endpoint set: a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port number (`spec.ports[].port`).
    pub port: u16,
}

/// A cell that holds the current [`EndpointSet`] of one key. It outlives snapshots, so that a worker can
/// keep connections and load by its [`id`](Self::id).
#[derive(Debug)]
pub struct Endpoints {
    key: EndpointKey,
    id: u64,
    current: ArcSwap<EndpointSet>,
}

/// The endpoints of one Service port at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    /// Those that take new requests.
    pub ready: Vec<Endpoint>,
    /// Those that are being shut down but still serve (EndpointSlice conditions `serving` and `terminating`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Endpoint>,
}

/// One address of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    /// The topology zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
}

// === impl Endpoints ===

impl Endpoints {
    /// A new cell with an id of its own.
    #[must_use]
    pub fn new(key: EndpointKey, set: EndpointSet) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { key, id: NEXT.fetch_add(1, Ordering::Relaxed), current: ArcSwap::from_pointee(set) }
    }

    /// What it holds the endpoints of.
    #[must_use]
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Unique among all cells of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The set as it is now. Wait-free; hold it for one choice, not for a request.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<EndpointSet>> {
        self.current.load()
    }

    /// Replaces the set. Requests in flight keep the endpoint that they have.
    pub fn store(&self, set: EndpointSet) {
        self.current.store(Arc::new(set));
    }
}

impl Serialize for Endpoints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.load().serialize(serializer)
    }
}

// === impl EndpointSet ===

impl EndpointSet {
    /// Those that may take a new request: the ready ones, or where none is left the draining ones
    /// (as kube-proxy does, KEP-1669).
    #[must_use]
    pub fn eligible(&self) -> &[Endpoint] {
        if self.ready.is_empty() { &self.draining } else { &self.ready }
    }
}
