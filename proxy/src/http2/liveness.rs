//! Detects dead peers: after a time without activity a PING is sent, and its answer awaited.

use std::time::{Duration, Instant};

/// The liveness state of one connection.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// How long the peer may be inactive before a PING is sent.
    ping_after: Duration,
    /// How long the peer may take to answer.
    ping_timeout: Duration,
    activity: u64,
    state: State,
}

/// What the caller must do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    /// Send a PING.
    Ping,
    Dead,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Active { at: Instant },
    Pinged { at: Instant },
}

// === impl Liveness ===

impl Liveness {
    pub(crate) fn new(ping_after: Duration, ping_timeout: Duration, now: Instant) -> Self {
        Self { ping_after, ping_timeout, activity: 0, state: State::Active { at: now } }
    }

    /// The longest interval between calls of [`check`](Self::check).
    pub(crate) fn interval(&self) -> Duration {
        self.ping_after.min(self.ping_timeout) / 2
    }

    /// Checks the peer. `activity` counts its activity so far; without a reason to expect any
    /// (`is_expected`), it counts as alive.
    pub(crate) fn check(&mut self, now: Instant, activity: u64, is_expected: bool) -> Verdict {
        if activity != self.activity || !is_expected {
            self.activity = activity;
            self.state = State::Active { at: now };
            return Verdict::Alive;
        }
        match self.state {
            State::Active { at } if now.duration_since(at) >= self.ping_after => {
                self.state = State::Pinged { at: now };
                Verdict::Ping
            }
            State::Pinged { at } if now.duration_since(at) >= self.ping_timeout => Verdict::Dead,
            State::Active { .. } | State::Pinged { .. } => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn an_inactive_peer_is_pinged_once_and_then_dead() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.check(start + 9 * SECOND, 0, true), Verdict::Alive);
        assert_eq!(liveness.check(start + 10 * SECOND, 0, true), Verdict::Ping);
        assert_eq!(liveness.check(start + 14 * SECOND, 0, true), Verdict::Alive);
        assert_eq!(liveness.check(start + 15 * SECOND, 0, true), Verdict::Dead);
    }

    #[test]
    fn activity_restarts_the_timer() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.check(start + 10 * SECOND, 0, true), Verdict::Ping);
        assert_eq!(liveness.check(start + 14 * SECOND, 1, true), Verdict::Alive);
        assert_eq!(liveness.check(start + 23 * SECOND, 1, true), Verdict::Alive);
        assert_eq!(liveness.check(start + 24 * SECOND, 1, true), Verdict::Ping);
    }

    #[test]
    fn a_peer_without_expected_activity_is_alive() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.check(start + 1000 * SECOND, 0, false), Verdict::Alive);
        assert_eq!(liveness.check(start + 1005 * SECOND, 0, true), Verdict::Alive);
    }
}
