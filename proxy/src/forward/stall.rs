//! Detects exchanges without progress, and which side is stalled.

use std::time::Instant;

use super::{CALL_EXPIRED, Deadlines};

/// Tracks the progress of both bodies.
#[derive(Debug)]
pub(super) struct StallDetector {
    /// Forwarded octets of the request's body and of the response's.
    moved: (u64, u64),
    since: Instant,
    /// Since when the client has read nothing of a waiting response.
    unread_since: Option<Instant>,
}

// === impl StallDetector ===

impl StallDetector {
    pub(super) fn new(moved: (u64, u64), now: Instant) -> Self {
        Self { moved, since: now, unread_since: None }
    }

    /// Updates the progress, and whether some of the response waits for the client. Returns `true`
    /// if the [deadline](Self::deadline) may have changed.
    pub(super) fn update(
        &mut self,
        moved: (u64, u64),
        waits_for_client: bool,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        if moved == self.moved && waits_for_client == self.unread_since.is_some() {
            return false;
        }
        let now = now();
        let has_read = moved.1 != self.moved.1;
        self.unread_since = match self.unread_since {
            Some(since) if waits_for_client && !has_read => Some(since),
            _ => waits_for_client.then_some(now),
        };
        if moved != self.moved {
            self.moved = moved;
            self.since = now;
        }
        true
    }

    /// Returns the deadline for further progress, and the failure reason if it passes.
    pub(super) fn deadline(&self, deadlines: &Deadlines) -> (Instant, &'static str) {
        let idle = (self.since + deadlines.idle, "stood_still");
        let unread =
            self.unread_since.map(|since| (since + deadlines.client_read, "client_stalled"));
        let reason = if deadlines.is_callers { CALL_EXPIRED } else { "stood_still" };
        let whole = deadlines.whole.map(|whole| (whole, reason));
        [unread, whole]
            .into_iter()
            .flatten()
            .fold(idle, |first, next| if next.0 < first.0 { next } else { first })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DEADLINES: Deadlines = Deadlines {
        whole: None,
        is_callers: false,
        connect: Duration::from_secs(5),
        head: None,
        idle: Duration::from_secs(300),
        client_read: Duration::from_secs(60),
    };

    fn timeout(stall: &StallDetector, begun: Instant) -> (u64, &'static str) {
        let (until, reason) = stall.deadline(&DEADLINES);
        (until.duration_since(begun).as_secs(), reason)
    }

    #[test]
    fn a_client_that_reads_nothing_times_out_before_a_silent_backend() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stall = StallDetector::new((0, 0), begun);
        assert_eq!(timeout(&stall, begun), (300, "stood_still"));
        assert!(stall.update((0, 5), false, || at(10)));
        assert_eq!(timeout(&stall, begun), (310, "stood_still"));
        assert!(stall.update((0, 5), true, || at(20)));
        assert_eq!(timeout(&stall, begun), (80, "client_stalled"));
        assert!(!stall.update((0, 5), true, || unreachable!()), "nothing new");
        assert!(stall.update((0, 6), true, || at(30)), "it reads some");
        assert_eq!(timeout(&stall, begun), (90, "client_stalled"));
        assert!(stall.update((0, 6), false, || at(40)), "it has read everything");
        assert_eq!(timeout(&stall, begun), (330, "stood_still"));
    }

    #[test]
    fn a_client_that_sends_but_reads_nothing_times_out() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut stall = StallDetector::new((0, 0), begun);
        for second in 0..50 {
            stall.update((second, 0), true, || at(second));
        }
        assert_eq!(timeout(&stall, begun), (60, "client_stalled"));
    }

    #[test]
    fn the_whole_response_has_a_deadline() {
        let begun = Instant::now();
        let deadlines = Deadlines { whole: Some(begun + Duration::from_secs(5)), ..DEADLINES };
        let stall = StallDetector::new((0, 0), begun);
        let until = begun + Duration::from_secs(5);
        assert_eq!(stall.deadline(&deadlines), (until, "stood_still"));
        let deadlines = Deadlines { is_callers: true, ..deadlines };
        assert_eq!(stall.deadline(&deadlines), (until, "call_expired"));
    }
}
