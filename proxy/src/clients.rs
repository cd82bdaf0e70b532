//! What is counted of each client, over all listeners and workers: its connections, and the memory
//! that its requests hold.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use portcullis_identity::client_network::ClientNetwork;

/// Parts of the table, so that workers seldom meet at one lock.
const SHARDS: usize = 16;

/// A table of clients. It has an entry for each of those alone that have a [`Client`] somewhere.
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

/// One client's entry in the table, which is there for as long as one of these is.
pub(crate) struct Client {
    clients: Arc<Clients>,
    network: ClientNetwork,
    counts: Arc<Counts>,
}

// === impl Clients ===

impl Clients {
    /// The client at an address.
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

    /// Clients in the table.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|table| table.lock().expect("not poisoned").len()).sum()
    }
}

// === impl Client ===

impl Client {
    /// Counts one more connection, unless there are `most`.
    #[must_use]
    pub(crate) fn connect(&self, most: usize) -> bool {
        add(&self.counts.connections, 1, most)
    }

    /// Takes back a [`connect`](Self::connect).
    pub(crate) fn disconnect(&self) {
        self.counts.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Counts so many octets more, unless that makes more than `most`.
    #[must_use]
    pub(crate) fn take(&self, octets: usize, most: usize) -> bool {
        add(&self.counts.octets, octets, most)
    }

    /// Takes back a [`take`](Self::take).
    pub(crate) fn give_back(&self, octets: usize) {
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
        // Let go while the table is locked, so that of two that leave at once one is the last.
        drop(mem::take(&mut self.counts));
        if table.get(&self.network).is_some_and(|counts| Arc::strong_count(counts) == 1) {
            table.remove(&self.network);
        }
    }
}

/// Adds, unless the sum is more than `most`.
fn add(count: &AtomicUsize, more: usize, most: usize) -> bool {
    let sum = |count: usize| count.checked_add(more).filter(|sum| *sum <= most);
    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, sum).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(clients: &Arc<Clients>, address: &str) -> Client {
        clients.client(address.parse().expect("an address"))
    }

    #[test]
    fn octets_are_counted_for_a_client_wherever_it_comes_from_up_to_the_limit() {
        let clients = Arc::default();
        let (one, again) = (client(&clients, "2001:db8::1"), client(&clients, "2001:db8::ffff:2"));
        assert!(one.take(60, 100));
        assert!(!again.take(41, 100));
        assert!(again.take(40, 100));
        assert!(client(&clients, "2001:db8:0:1::1").take(100, 100), "another client");
        one.give_back(60);
        assert!(again.take(60, 100));
        assert!(!again.take(usize::MAX, usize::MAX), "no overflow");
    }

    #[test]
    fn a_client_that_left_leaves_nothing_behind() {
        let clients = Arc::default();
        let one = client(&clients, "192.0.2.1");
        let (clone, again) = (one.clone(), client(&clients, "::ffff:192.0.2.1"));
        drop((one, again));
        assert_eq!(clients.len(), 1);
        drop(clone);
        assert_eq!(clients.len(), 0);
    }
}
