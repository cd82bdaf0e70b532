//! How often one address may have bearers reviewed, so that tokens of nobody neither flood the API
//! server nor keep others waiting.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Reviews that an address gets at once.
const BURST: u32 = 5;
/// After that, one in this time.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most addresses that are remembered.
const MAX_PEERS: usize = 4096;

/// Counts reviews by address: a token bucket for each, kept as the time at which it is full again
/// (the generic cell rate algorithm, ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct Questions {
    full_at: HashMap<IpAddr, Instant>,
}

// === impl Questions ===

impl Questions {
    /// Counts a review for `peer`; `false` where it had too many.
    pub(super) fn take(&mut self, peer: IpAddr, now: Instant) -> bool {
        let peer = peer.to_canonical();
        let full_at = self.full_at.get(&peer).map_or(now, |full_at| now.max(*full_at));
        if full_at.saturating_duration_since(now) > (BURST - 1) * INTERVAL {
            return false;
        }
        self.make_room(&peer, now);
        self.full_at.insert(peer, full_at + INTERVAL);
        true
    }

    /// Forgets the addresses that have all their reviews again, and where that is not enough the
    /// one that is nearest to it.
    fn make_room(&mut self, peer: &IpAddr, now: Instant) {
        if self.full_at.len() < MAX_PEERS || self.full_at.contains_key(peer) {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() >= MAX_PEERS {
            let nearest = self.full_at.iter().min_by_key(|(_, full_at)| **full_at);
            let nearest = nearest.map(|(peer, _)| *peer);
            nearest.map(|nearest| self.full_at.remove(&nearest));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn after_a_burst_an_address_waits_and_others_do_not() {
        let mut questions = Questions::default();
        let now = Instant::now();
        assert!((0..BURST).all(|_| questions.take(peer(1), now)));
        assert!(!questions.take(peer(1), now));
        assert!(questions.take(peer(2), now));
        assert!(questions.take(peer(1), now + INTERVAL));
        assert!(!questions.take(peer(1), now + INTERVAL));
        let later = now + 100 * INTERVAL;
        assert!((0..BURST).all(|_| questions.take(peer(1), later)));
        assert!(!questions.take(peer(1), later));
    }

    #[test]
    fn many_addresses_take_no_more_room() {
        let mut questions = Questions::default();
        let now = Instant::now();
        for number in 0..2 * MAX_PEERS as u32 {
            assert!(questions.take(peer(number), now));
        }
        assert_eq!(questions.full_at.len(), MAX_PEERS);
    }
}
