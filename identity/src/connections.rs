//! The connections of a listener, bounded by eviction: a new connection is never rejected, an old
//! one is evicted instead.
//!
//! The invariant: the peer with the most connections loses one, preferably the oldest that has no
//! request. A peer with few connections loses none to a peer with many.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::{AbortHandle, JoinSet};

/// The most connections.
#[derive(Debug, Clone, Copy)]
pub struct Capacity {
    /// In total.
    pub connections: usize,
    /// From one address.
    pub per_peer: usize,
}

/// The tasks of one listener's connections.
#[derive(Debug, Clone)]
pub struct ConnectionTasks(Arc<Mutex<Connections<AbortHandle>>>);

/// One connection of [`ConnectionTasks`], removed on drop.
#[derive(Debug)]
pub struct ConnectionGuard {
    tasks: ConnectionTasks,
    id: Id,
}

/// The open connections of one listener. `H` is a handle that closes one.
#[derive(Debug)]
struct Connections<H> {
    capacity: Capacity,
    /// By age, oldest first.
    open: BTreeMap<Id, Connection<H>>,
    peers: HashMap<IpAddr, usize>,
    next: u64,
}

/// The number of a connection, in order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Id(u64);

#[derive(Debug)]
struct Connection<H> {
    peer: IpAddr,
    has_request: bool,
    handle: Option<H>,
}

// === impl ConnectionTasks ===

impl ConnectionTasks {
    /// The tasks of a listener that has no connection yet.
    #[must_use]
    pub fn new(capacity: Capacity) -> Self {
        Self(Arc::new(Mutex::new(Connections::new(capacity))))
    }

    /// Spawns the task of a connection of `peer`. If there is no room for it, another connection is
    /// evicted: its task is aborted. Returns whether one was. `connection` keeps the guard as long
    /// as the connection is open.
    pub fn spawn<F>(
        &self,
        tasks: &mut JoinSet<F::Output>,
        peer: IpAddr,
        connection: impl FnOnce(ConnectionGuard) -> F,
    ) -> bool
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let (id, victim) = self.lock().admit(peer);
        if let Some(victim) = &victim {
            victim.abort();
        }
        let task = tasks.spawn(connection(ConnectionGuard { tasks: self.clone(), id }));
        self.lock().set_handle(id, task);
        victim.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Connections<AbortHandle>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl ConnectionGuard ===

impl ConnectionGuard {
    /// Records whether the connection has a request: one without is evicted first.
    pub fn set_has_request(&self, has_request: bool) {
        self.tasks.lock().set_has_request(self.id, has_request);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.tasks.lock().remove(self.id);
    }
}

// === impl Connections ===

impl<H> Connections<H> {
    fn new(capacity: Capacity) -> Self {
        Self { capacity, open: BTreeMap::new(), peers: HashMap::new(), next: 0 }
    }

    /// Adds a connection of `peer`. Returns its number, and the handle of the connection evicted
    /// for it, which the caller must close.
    fn admit(&mut self, peer: IpAddr) -> (Id, Option<H>) {
        let peer = peer.to_canonical();
        let victim = self.victim(peer).and_then(|victim| self.remove(victim));
        let id = Id(self.next);
        self.next += 1;
        self.open.insert(id, Connection { peer, has_request: false, handle: None });
        *self.peers.entry(peer).or_default() += 1;
        (id, victim)
    }

    /// Sets the handle that closes the connection.
    fn set_handle(&mut self, id: Id, handle: H) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.handle = Some(handle);
        }
    }

    /// Records whether the connection has a request.
    fn set_has_request(&mut self, id: Id, has_request: bool) {
        if let Some(connection) = self.open.get_mut(&id) {
            connection.has_request = has_request;
        }
    }

    /// Removes a connection that is closed or about to be. Returns its handle.
    fn remove(&mut self, id: Id) -> Option<H> {
        let connection = self.open.remove(&id)?;
        if let Some(count) = self.peers.get_mut(&connection.peer) {
            *count -= 1;
            if *count == 0 {
                self.peers.remove(&connection.peer);
            }
        }
        connection.handle
    }

    /// The connection to evict when `peer` opens another one; `None` while there is room.
    fn victim(&self, peer: IpAddr) -> Option<Id> {
        let count = |peer: &IpAddr| self.peers.get(peer).copied().unwrap_or_default();
        let most = self.peers.values().copied().max().unwrap_or_default();
        let is_candidate = |candidate: &IpAddr| match count(&peer) >= self.capacity.per_peer {
            true => *candidate == peer,
            false => self.open.len() >= self.capacity.connections && count(candidate) == most,
        };
        self.open
            .iter()
            .filter(|(_, connection)| is_candidate(&connection.peer))
            .min_by_key(|(id, connection)| (connection.has_request, **id))
            .map(|(id, _)| *id)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn peer(number: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, number])
    }

    struct Listener(Connections<Id>);

    impl Listener {
        fn new(connections: usize, per_peer: usize) -> Self {
            Self(Connections::new(Capacity { connections, per_peer }))
        }

        fn admit(&mut self, number: u8) -> (Id, Option<Id>) {
            let (id, victim) = self.0.admit(peer(number));
            self.0.set_handle(id, id);
            (id, victim)
        }
    }

    #[test]
    fn the_oldest_idle_connection_of_a_peer_is_evicted_for_its_next_one() {
        let mut listener = Listener::new(9, 3);
        let (first, _) = listener.admit(1);
        let (second, _) = listener.admit(1);
        let (_, none) = listener.admit(1);
        assert_eq!(none, None);
        listener.0.set_has_request(first, true);
        let (_, victim) = listener.admit(1);
        assert_eq!(victim, Some(second), "the first one has a request");
        assert_eq!(listener.admit(2).1, None, "another peer is not affected");
    }

    #[test]
    fn a_connection_whose_request_is_answered_is_idle_again() {
        let mut listener = Listener::new(9, 2);
        let (first, _) = listener.admit(1);
        let (second, _) = listener.admit(1);
        listener.0.set_has_request(first, true);
        listener.0.set_has_request(second, true);
        listener.0.set_has_request(second, false);
        assert_eq!(listener.admit(1).1, Some(second));
    }

    #[tokio::test]
    async fn an_evicted_connection_ends_and_all_that_end_are_removed() {
        let open = ConnectionTasks::new(Capacity { connections: 2, per_peer: 2 });
        let mut tasks = JoinSet::new();
        let spawn = |tasks: &mut JoinSet<()>| {
            open.spawn(tasks, peer(1), |guard| async move {
                let _guard = guard;
                std::future::pending::<()>().await;
            })
        };
        assert!(!spawn(&mut tasks) && !spawn(&mut tasks));
        assert!(spawn(&mut tasks), "a third one has no room");
        let ended = tasks.join_next().await.expect("a task");
        assert!(ended.is_err_and(|error| error.is_cancelled()));
        tasks.shutdown().await;
        assert!(open.lock().open.is_empty());
    }

    #[test]
    fn a_connection_with_a_request_is_evicted_if_there_is_no_other() {
        let mut listener = Listener::new(9, 2);
        let (first, _) = listener.admit(1);
        let (second, _) = listener.admit(1);
        listener.0.set_has_request(first, true);
        listener.0.set_has_request(second, true);
        assert_eq!(listener.admit(1).1, Some(first));
    }

    #[test]
    fn an_ipv4_mapped_address_is_the_same_peer() {
        let mut listener = Listener::new(9, 1);
        let (first, _) = listener.admit(1);
        let mapped = "::ffff:10.0.0.1".parse().expect("an address");
        assert_eq!(listener.0.admit(mapped).1, Some(first));
    }

    #[test]
    fn in_a_full_table_the_peer_with_the_most_connections_loses_one() {
        let mut listener = Listener::new(4, 3);
        let (kubelet, _) = listener.admit(9);
        let (first, _) = listener.admit(1);
        listener.admit(1);
        listener.admit(1);
        assert_eq!(listener.admit(2).1, Some(first), "not the oldest of all, which is {kubelet:?}");
    }

    #[test]
    fn removed_connections_are_not_counted() {
        let mut listener = Listener::new(2, 1);
        let (first, _) = listener.admit(1);
        assert_eq!(listener.0.remove(first), Some(first));
        assert_eq!(listener.0.remove(first), None);
        assert!(listener.0.peers.is_empty());
        assert_eq!(listener.admit(1).1, None);
    }

    proptest! {
        /// A peer with one connection keeps it as long as another peer has more than one; and no
        /// limit is ever exceeded.
        #[test]
        fn a_peer_with_one_connection_does_not_lose_it_to_a_peer_with_many(
            steps in prop::collection::vec((0..4_u8, any::<bool>()), 0..200),
        ) {
            let mut listener = Listener::new(8, 4);
            let (alone, _) = listener.admit(9);
            for (number, sends) in steps {
                let (id, victim) = listener.admit(number);
                prop_assert_ne!(victim, Some(alone));
                if sends {
                    listener.0.set_has_request(id, true);
                }
                prop_assert!(listener.0.open.len() <= 8);
                prop_assert!(listener.0.peers.values().all(|count| *count <= 4));
                prop_assert_eq!(listener.0.peers.values().sum::<usize>(), listener.0.open.len());
            }
        }
    }
}
