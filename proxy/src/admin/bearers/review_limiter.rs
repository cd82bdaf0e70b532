//! A rate limit of reviews by client address, so that unknown tokens neither flood the API server
//! nor delay other clients.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::Instant;

/// The reviews that an address gets at once.
const BURST: u32 = 5;
/// The time for each further review.
const INTERVAL: Duration = Duration::from_secs(1);
/// The most addresses in the table.
const MAX_PEERS: usize = 4096;

/// A token bucket for each address, stored as the time at which it is full (the generic cell rate
/// algorithm, ITU-T I.371).
#[derive(Debug, Default)]
pub(super) struct ReviewLimiter {
    full_at: HashMap<IpAddr, Instant>,
}

// === impl ReviewLimiter ===

impl ReviewLimiter {
    /// Takes one review for `peer`; returns whether it is within the limit.
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

    /// Evicts the addresses whose buckets are full, or else the one that is next.
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
        let mut limiter = ReviewLimiter::default();
        let now = Instant::now();
        assert!((0..BURST).all(|_| limiter.take(peer(1), now)));
        assert!(!limiter.take(peer(1), now));
        assert!(limiter.take(peer(2), now));
        assert!(limiter.take(peer(1), now + INTERVAL));
        assert!(!limiter.take(peer(1), now + INTERVAL));
        let later = now + 100 * INTERVAL;
        assert!((0..BURST).all(|_| limiter.take(peer(1), later)));
        assert!(!limiter.take(peer(1), later));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut limiter = ReviewLimiter::default();
        let now = Instant::now();
        for number in 0..2 * MAX_PEERS as u32 {
            assert!(limiter.take(peer(number), now));
        }
        assert_eq!(limiter.full_at.len(), MAX_PEERS);
    }
}
