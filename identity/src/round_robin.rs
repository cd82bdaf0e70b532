//! Items that wait, a line for each client; the lines take turns.

use std::collections::{HashMap, VecDeque};

use crate::client_network::ClientNetwork;

/// Items in the order in which they have their turn. It has no bound of its own.
pub struct RoundRobin<T> {
    /// Clients in the order of their next turns, each once; those with a line, and no others.
    order: VecDeque<ClientNetwork>,
    lines: HashMap<ClientNetwork, VecDeque<T>>,
    len: usize,
}

// === impl RoundRobin ===

impl<T> RoundRobin<T> {
    /// How many items wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many items of `client` wait.
    pub fn len_of(&self, client: ClientNetwork) -> usize {
        self.lines.get(&client).map_or(0, VecDeque::len)
    }

    /// Puts an item at the end of its client's line.
    pub fn push(&mut self, client: ClientNetwork, item: T) {
        let line = self.lines.entry(client).or_default();
        if line.is_empty() {
            self.order.push_back(client);
        }
        line.push_back(item);
        self.len += 1;
    }

    /// Takes the next item, of a client for which `may` holds; the clients before it keep their
    /// places.
    pub fn pop(&mut self, may: impl Fn(ClientNetwork) -> bool) -> Option<(ClientNetwork, T)> {
        let place = self.order.iter().position(|client| may(*client))?;
        let client = self.order.remove(place)?;
        let line = self.lines.get_mut(&client)?;
        let item = line.pop_front()?;
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&client);
        } else {
            self.order.push_back(client);
        }
        Some((client, item))
    }

    /// Whether an item waits of a client for which `may` holds.
    pub fn has(&self, may: impl Fn(ClientNetwork) -> bool) -> bool {
        self.order.iter().any(|client| may(*client))
    }

    /// The length of the longest line.
    pub fn longest(&self) -> usize {
        self.lines.values().map(VecDeque::len).max().unwrap_or(0)
    }

    /// Takes the last item of the longest line.
    pub fn pop_longest(&mut self) -> Option<T> {
        let (client, line) = self.lines.iter_mut().max_by_key(|(_, line)| line.len())?;
        let (client, item) = (*client, line.pop_back()?);
        self.len -= 1;
        if line.is_empty() {
            self.lines.remove(&client);
            self.order.retain(|other| *other != client);
        }
        Some(item)
    }

    /// Takes away the items for which `keep` does not hold.
    pub fn retain(&mut self, keep: impl Fn(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for line in self.lines.values_mut() {
            let (kept, gone) = line.drain(..).partition::<VecDeque<_>, _>(&keep);
            *line = kept;
            removed.extend(gone);
        }
        self.lines.retain(|_, line| !line.is_empty());
        self.order.retain(|client| self.lines.contains_key(client));
        self.len -= removed.len();
        removed
    }
}

impl<T> Default for RoundRobin<T> {
    fn default() -> Self {
        Self { order: VecDeque::new(), lines: HashMap::new(), len: 0 }
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
    fn clients_take_turns() {
        let mut all = filled(&[(1, 10), (1, 11), (1, 12), (2, 20), (3, 30), (2, 21)]);
        assert_eq!(drained(&mut all), [10, 20, 30, 11, 21, 12]);
        assert!(all.is_empty() && all.order.is_empty() && all.lines.is_empty());
    }

    #[test]
    fn a_client_that_may_not_keeps_its_place() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21)]);
        assert_eq!(all.pop(|other| other != client(1)), Some((client(2), 20)));
        assert_eq!(all.pop(|_| false), None);
        assert_eq!(drained(&mut all), [10, 21]);
    }

    #[test]
    fn the_last_of_the_longest_line_goes_first() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21), (2, 22)]);
        assert_eq!((all.longest(), all.len_of(client(2)), all.len_of(client(9))), (3, 3, 0));
        assert_eq!(all.pop_longest(), Some(22));
        assert_eq!(all.len(), 3);
        assert_eq!(drained(&mut all), [10, 20, 21]);
        assert_eq!(all.pop_longest(), None);
    }

    #[test]
    fn what_is_not_kept_leaves_nothing_behind() {
        let mut all = filled(&[(1, 10), (2, 20), (2, 21), (3, 30)]);
        let mut removed = all.retain(|item| item % 10 != 0);
        removed.sort_unstable();
        assert_eq!(removed, [10, 20, 30]);
        assert_eq!((all.len(), all.order.len(), all.lines.len()), (1, 1, 1));
        assert_eq!(drained(&mut all), [21]);
    }
}
