//! Counts the connections and the request memory of each client, over all listeners and workers.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_identity::client_network::ClientNetwork;

/// The number of shards, to reduce lock contention between workers.
const SHARDS: usize = 16;

/// A table of clients, which has an entry as long as there is a [`Client`] for it.
#[derive(Default)]
pub(crate) struct Clients {
    shards: [Mutex<Table>; SHARDS],
    hasher: RandomState,
}

type Table = HashMap<ClientNetwork, Arc<Counts>>;

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    octets: AtomicUsize,
}

/// A handle to a client's entry in the table, which is removed with the last handle.
pub(crate) struct Client {
    clients: Arc<Clients>,
    network: ClientNetwork,
    counts: Arc<Counts>,
}

// === impl Clients ===

impl Clients {
    /// Returns the client at an address.
    pub(crate) fn client(self: &Arc<Self>, address: IpAddr) -> Client {
        let network = ClientNetwork::from(address);
        let counts = Arc::clone(self.shard(network).entry(network).or_default());
        Client { clients: Arc::clone(self), network, counts }
    }

    fn shard(&self, network: ClientNetwork) -> MutexGuard<'_, Table> {
        let index = self.hasher.hash_one(network) as usize % SHARDS;
        let [first, ..] = &self.shards;
        self.shards.get(index).unwrap_or(first).lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of clients in the table.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|table| table.lock().expect("not poisoned").len()).sum()
    }
}

// === impl Client ===

impl Client {
    /// Counts a connection. Returns `false` if there are already `max`.
    #[must_use]
    pub(crate) fn connect(&self, max: usize) -> bool {
        add(&self.counts.connections, 1, max)
    }

    /// Reverts a [`connect`](Self::connect).
    pub(crate) fn disconnect(&self) {
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts octets. Returns `false` if the sum would exceed `max`.
    #[must_use]
    pub(crate) fn take(&self, octets: usize, max: usize) -> bool {
        add(&self.counts.octets, octets, max)
    }

    /// Reverts a [`take`](Self::take).
    pub(crate) fn release(&self, octets: usize) {
        self.counts.octets.fetch_sub(octets, Ordering::Relaxed);
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self {
            clients: Arc::clone(&self.clients),
            network: self.network,
            counts: Arc::clone(&self.counts),
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let mut table = self.clients.shard(self.network);
        // Drop while the table is locked: of two concurrent drops, one must be the last.
        drop(mem::take(&mut self.counts));
        if table.get(&self.network).is_some_and(|counts| Arc::strong_count(counts) == 1) {
            table.remove(&self.network);
        }
    }
}

/// Adds to a counter. Returns `false` if the sum would exceed `max`.
fn add(count: &AtomicUsize, more: usize, max: usize) -> bool {
    let sum = |count: usize| count.checked_add(more).filter(|sum| *sum <= max);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(clients: &Arc<Clients>, address: &str) -> Client {
        clients.client(address.parse().expect("an address"))
    }

    #[test]
    fn octets_are_counted_per_client_network_up_to_the_limit() {
        let clients = Arc::default();
        let (one, other) = (client(&clients, "2001:db8::1"), client(&clients, "2001:db8::ffff:2"));
        assert!(one.take(60, 100));
        assert!(!other.take(41, 100));
        assert!(other.take(40, 100));
        assert!(client(&clients, "2001:db8:0:1::1").take(100, 100), "another client");
        one.release(60);
        assert!(other.take(60, 100));
        assert!(!other.take(usize::MAX, usize::MAX), "no overflow");
    }

    #[test]
    fn the_last_handle_removes_the_entry() {
        let clients = Arc::default();
        let one = client(&clients, "192.0.2.1");
        let (clone, other) = (one.clone(), client(&clients, "::ffff:192.0.2.1"));
        drop((one, other));
        assert_eq!(clients.len(), 1);
        drop(clone);
        assert_eq!(clients.len(), 0);
    }
}
