//! Whether the peer of a connection is still there: it is asked by a PING after a time without a
//! sign of life.

use std::time::{Duration, Instant};

/// Watches one connection.
#[derive(Debug)]
pub(crate) struct Liveness {
    /// How long the peer may be quiet before it is asked.
    quiet: Duration,
    /// How long it may take to answer.
    patience: Duration,
    signs: u64,
    state: State,
}

/// What is to be done about the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Alive,
    /// A PING is to be sent.
    Ask,
    Dead,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Heard { at: Instant },
    Asked { at: Instant },
}

// === impl Liveness ===

impl Liveness {
    pub(crate) fn new(quiet: Duration, patience: Duration, now: Instant) -> Self {
        Self { quiet, patience, signs: 0, state: State::Heard { at: now } }
    }

    /// How often [`judge`](Self::judge) must be called at least.
    pub(crate) fn interval(&self) -> Duration {
        self.quiet.min(self.patience) / 2
    }

    /// Judges by a count of the signs of life up to now, and whether there is a reason to expect
    /// any.
    pub(crate) fn judge(&mut self, now: Instant, signs: u64, is_expected: bool) -> Verdict {
        if signs != self.signs || !is_expected {
            self.signs = signs;
            self.state = State::Heard { at: now };
            return Verdict::Alive;
        }
        match self.state {
            State::Heard { at } if now.duration_since(at) >= self.quiet => {
                self.state = State::Asked { at: now };
                Verdict::Ask
            }
            State::Asked { at } if now.duration_since(at) >= self.patience => Verdict::Dead,
            State::Heard { .. } | State::Asked { .. } => Verdict::Alive,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_quiet_peer_is_asked_once_and_then_given_up() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.judge(start + 9 * SECOND, 0, true), Verdict::Alive);
        assert_eq!(liveness.judge(start + 10 * SECOND, 0, true), Verdict::Ask);
        assert_eq!(liveness.judge(start + 14 * SECOND, 0, true), Verdict::Alive);
        assert_eq!(liveness.judge(start + 15 * SECOND, 0, true), Verdict::Dead);
    }

    #[test]
    fn a_sign_of_life_starts_the_time_anew() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.judge(start + 10 * SECOND, 0, true), Verdict::Ask);
        assert_eq!(liveness.judge(start + 14 * SECOND, 1, true), Verdict::Alive);
        assert_eq!(liveness.judge(start + 23 * SECOND, 1, true), Verdict::Alive);
        assert_eq!(liveness.judge(start + 24 * SECOND, 1, true), Verdict::Ask);
    }

    #[test]
    fn a_peer_that_owes_nothing_may_be_quiet() {
        let start = Instant::now();
        let mut liveness = Liveness::new(10 * SECOND, 5 * SECOND, start);
        assert_eq!(liveness.judge(start + 1000 * SECOND, 0, false), Verdict::Alive);
        assert_eq!(liveness.judge(start + 1005 * SECOND, 0, true), Verdict::Alive);
    }
}
