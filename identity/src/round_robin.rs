//! Items queued per client; clients are served round robin.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::client_network::ClientNetwork;

/// Queues of items per client, served round robin. It has no bound of its own, but see
/// [`push_within`](Self::push_within).
pub struct RoundRobin<T, C = ClientNetwork> {
    /// Clients in the order of their next turns, each once, without those whose queue is empty.
    order: VecDeque<C>,
    queues: HashMap<C, VecDeque<T>>,
    len: usize,
}

// === impl RoundRobin ===

impl<T, C: Copy + Eq + Hash> RoundRobin<T, C> {
    /// Number of queued items.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no item is queued.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of queued items of `client`.
    pub fn len_of(&self, client: C) -> usize {
        self.queues.get(&client).map_or(0, VecDeque::len)
    }

    /// Appends an item to its client's queue.
    pub fn push(&mut self, client: C, item: T) {
        let queue = self.queues.entry(client).or_default();
        if queue.is_empty() {
            self.order.push_back(client);
        }
        queue.push_back(item);
        self.len += 1;
    }

    /// Appends an item if fewer than `limit` are queued, else in place of the last item of the
    /// longest queue. Returns the item that is not queued: the displaced one, or this one if it
    /// would not make the lengths more equal.
    pub fn push_within(&mut self, limit: usize, client: C, item: T) -> Option<T> {
        // Two clients with almost equal queues would displace each other in turn.
        let is_fairer = || self.longest() > self.len_of(client) + 1;
        let displaced = match self.len < limit {
            true => None,
            false if is_fairer() => self.pop_longest(),
            false => return Some(item),
        };
        self.push(client, item);
        displaced
    }

    /// Takes the next item of an eligible client; the clients before it keep their positions.
    pub fn pop(&mut self, is_eligible: impl Fn(C) -> bool) -> Option<(C, T)> {
        let index = self.order.iter().position(|client| is_eligible(*client))?;
        let client = self.order.remove(index)?;
        let queue = self.queues.get_mut(&client)?;
        let item = queue.pop_front()?;
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(&client);
        } else {
            self.order.push_back(client);
        }
        Some((client, item))
    }

    /// Whether an item of an eligible client is queued.
    pub fn has(&self, is_eligible: impl Fn(C) -> bool) -> bool {
        self.order.iter().any(|client| is_eligible(*client))
    }

    /// Length of the longest queue.
    pub fn longest(&self) -> usize {
        self.queues.values().map(VecDeque::len).max().unwrap_or(0)
    }

    /// Takes the last item of the longest queue.
    pub fn pop_longest(&mut self) -> Option<T> {
        let (client, queue) = self.queues.iter_mut().max_by_key(|(_, queue)| queue.len())?;
        let (client, item) = (*client, queue.pop_back()?);
        self.len -= 1;
        if queue.is_empty() {
            self.queues.remove(&client);
            self.order.retain(|other| *other != client);
        }
        Some(item)
    }

    /// Removes and returns the items for which `keep` is false.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for queue in self.queues.values_mut() {
            let (kept, gone) = queue.drain(..).partition::<VecDeque<_>, _>(&keep);
            *queue = kept;
            removed.extend(gone);
        }
        self.queues.retain(|_, queue| !queue.is_empty());
        self.order.retain(|client| self.queues.contains_key(client));
        self.len -= removed.len();
        removed
    }
}

impl<T, C> Default for RoundRobin<T, C> {
    fn default() -> Self {
        Self { order: VecDeque::new(), queues: HashMap::new(), len: 0 }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn client(last: u8) -> ClientNetwork {
        IpAddr::from([192, 0, 2, last]).into()
    }

    fn filled(items: &[(u8, u32)]) -> RoundRobin<u32> {
        let mut all = RoundRobin::default();
        items.iter().for_each(|(last, item)| all.push(client(*last), *item));
        all
    }

    fn drained(all: &mut RoundRobin<u32>) -> Vec<u32> {
        std::iter::from_fn(|| all.pop(|_| true)).map(|(_, item)| item).collect()
    }

    #[test]
    fn clients_are_served_round_robin() {
        let mut all = filled(&[(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)]);
        assert_eq!(drained(&mut all), [10, 20, 30, 11, 21, 12]);
        assert!(all.is_empty() && all.order.is_empty() && all.queues.is_empty());
    }

    #[test]
    fn an_ineligible_client_keeps_its_position() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21)]);
        assert_eq!(all.pop(|other| other != client(1)), Some((client(2), 20)));
        assert_eq!(all.pop(|_| false), None);
        assert_eq!(drained(&mut all), [10, 21]);
    }

    #[test]
    fn pop_longest_takes_the_last_item_of_the_longest_queue() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21), (2, 22)]);
        assert_eq!((all.longest(), all.len_of(client(2)), all.len_of(client(9))), (3, 3, 0));
        assert_eq!(all.pop_longest(), Some(22));
        assert_eq!(all.len(), 3);
        assert_eq!(drained(&mut all), [10, 20, 21]);
        assert_eq!(all.pop_longest(), None);
    }

    #[test]
    fn a_full_queue_takes_from_the_longest() {
        let mut all = filled(&[(1, 10), (1, 11), (1, 12)]);
        assert_eq!(all.push_within(3, client(1), 13), Some(13));
        assert_eq!(all.push_within(3, client(2), 20), Some(12));
        assert_eq!(all.push_within(3, client(2), 21), Some(21), "it would only swap the lengths");
        assert_eq!(all.push_within(4, client(2), 21), None);
        assert_eq!(drained(&mut all), [10, 20, 11, 21]);
    }

    #[test]
    fn retain_removes_empty_queues() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21), (3, 30)]);
        let mut removed = all.retain(|item| item % 10 != 0);
        removed.sort_unstable();
        assert_eq!(removed, [10, 20, 30]);
        assert_eq!((all.len(), all.order.len(), all.queues.len()), (1, 1, 1));
        assert_eq!(drained(&mut all), [21]);
    }
}
