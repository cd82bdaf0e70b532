//! Endpoint sets: the addresses of a backend's pods, swapped without rebuilding the table.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwap, Guard};
use serde::{Serialize, Serializer};

use super::stable_hash::stable_hasher;

/// The identity of an endpoint set: a Service's port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct EndpointKey {
    /// The Service's namespace.
    pub namespace: Arc<str>,
    /// The Service's name.
    pub service: Arc<str>,
    /// The Service's port number (`spec.ports[].port`).
    pub port: u16,
}

/// A cell with the current [`EndpointSet`] of one key. It outlives snapshots, so that a worker can
/// index connections and load by its [`id`](Self::id).
#[derive(Debug)]
pub struct Endpoints {
    key: EndpointKey,
    id: u64,
    current: ArcSwap<EndpointSet>,
}

/// The endpoints of one Service port at one instant.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct EndpointSet {
    /// Endpoints that accept new requests.
    pub ready: Vec<Endpoint>,
    /// Endpoints that are being shut down but still serve (EndpointSlice conditions `serving` and
    /// `terminating`).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub draining: Vec<Endpoint>,
    /// How many addresses of EndpointSlices are rejected.
    #[serde(skip_serializing_if = "is_zero")]
    pub rejected: usize,
}

/// One address of one pod.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Endpoint {
    /// The address that it listens on.
    pub address: SocketAddr,
    /// The topology zone that it runs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Arc<str>>,
    /// The identity (`uid`) of its pod, where known. Another pod at the same address is another
    /// endpoint: it inherits neither connections nor records of failures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<Arc<str>>,
    /// Whether it is preferred, because it is near the gateway.
    #[serde(skip_serializing_if = "is_false")]
    pub near: bool,
}

/// The key of the hash of endpoints: the fractions of the square roots of 5 and 7.
const ENDPOINT_KEY: (u64, u64) = (0x3c6e_f372_fe94_f82b, 0xa54f_f53a_5f1d_36f1);

/// The cells of a snapshot by key, so that the next snapshot reuses those that it needs.
#[derive(Debug, Default)]
pub struct EndpointCells {
    cells: BTreeMap<EndpointKey, Cell>,
}

#[derive(Debug)]
struct Cell {
    endpoints: Arc<Endpoints>,
    /// The set to store once the next snapshot is published; `None` where that does not need one.
    next: Option<EndpointSet>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde calls")]
fn is_false(flag: &bool) -> bool {
    !*flag
}

// === impl EndpointCells ===

impl EndpointCells {
    /// Returns the existing cell of `key`, or creates one. An existing cell changes to `set` with
    /// [`commit`](Self::commit).
    pub fn cell(&mut self, key: EndpointKey, set: EndpointSet) -> Arc<Endpoints> {
        match self.cells.get_mut(&key) {
            Some(cell) => {
                cell.next = Some(set);
                cell.endpoints.clone()
            }
            None => {
                let endpoints = Arc::new(Endpoints::new(key.clone(), set.clone()));
                self.cells.insert(key, Cell { endpoints: endpoints.clone(), next: Some(set) });
                endpoints
            }
        }
    }

    /// Stores into each cell the set that it was last requested with, and removes cells that were
    /// not requested since the last commit.
    pub fn commit(&mut self) {
        self.cells.retain(|_, cell| match cell.next.take() {
            Some(set) => {
                cell.endpoints.update(set);
                true
            }
            None => false,
        });
    }

    /// The cells of all ports of a Service.
    pub fn of_service<'a>(
        &'a self,
        namespace: &Arc<str>,
        service: &Arc<str>,
    ) -> impl Iterator<Item = &'a Arc<Endpoints>> {
        let key =
            |port| EndpointKey { namespace: namespace.clone(), service: service.clone(), port };
        self.cells.range(key(0)..=key(u16::MAX)).map(|(_, cell)| &cell.endpoints)
    }
}

// === impl Endpoints ===

impl Endpoints {
    /// Creates a cell with a new id.
    #[must_use]
    pub fn new(key: EndpointKey, set: EndpointSet) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self { key, id: NEXT.fetch_add(1, Ordering::Relaxed), current: ArcSwap::from_pointee(set) }
    }

    /// The Service port whose endpoints it holds.
    #[must_use]
    pub fn key(&self) -> &EndpointKey {
        &self.key
    }

    /// Unique among all cells of this process.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The current set. Wait-free; hold the guard for one choice, not for a request.
    #[must_use]
    pub fn load(&self) -> Guard<Arc<EndpointSet>> {
        self.current.load()
    }

    /// Replaces the set if it differs; returns whether it did.
    pub fn update(&self, set: EndpointSet) -> bool {
        let differs = **self.current.load() != set;
        if differs {
            self.store(set);
        }
        differs
    }

    /// Replaces the set. Requests in flight keep the endpoint that they have.
    pub fn store(&self, set: EndpointSet) {
        self.current.store(Arc::new(set));
    }
}

impl Serialize for Endpoints {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct View<'a> {
            #[serde(flatten)]
            key: &'a EndpointKey,
            #[serde(flatten)]
            set: &'a EndpointSet,
        }
        View { key: &self.key, set: &self.load() }.serialize(serializer)
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// A hash of its pod and address, the same in every process, by which callers keep it.
    #[must_use]
    pub fn stable_hash(&self) -> u64 {
        let mut hasher = stable_hasher(ENDPOINT_KEY);
        match self.address.ip() {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.write(&self.address.port().to_be_bytes());
        hasher.write(self.pod.as_deref().unwrap_or_default().as_bytes());
        hasher.finish()
    }
}

// === impl EndpointSet ===

impl EndpointSet {
    /// The endpoints for new requests: the ready ones, or the draining ones where none is ready (as
    /// in kube-proxy, KEP-1669).
    #[must_use]
    pub fn eligible(&self) -> &[Endpoint] {
        if self.ready.is_empty() { &self.draining } else { &self.ready }
    }
}
