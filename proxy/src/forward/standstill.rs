//! How long the bodies of an exchange have stood still, and who holds them up.

use std::time::Instant;

use super::Deadlines;

/// What has moved, and since when nothing has.
#[derive(Debug)]
pub(super) struct Standstill {
    /// Octets of the request's body and of the response's.
    moved: (u64, u64),
    since: Instant,
    /// Since when the client has taken nothing of a response that waits for it.
    untaken: Option<Instant>,
}

// === impl Standstill ===

impl Standstill {
    pub(super) fn new(moved: (u64, u64), now: Instant) -> Self {
        Self { moved, since: now, untaken: None }
    }

    /// Notes what has moved by now, and whether some of the response waits for the client. `true`
    /// where the [deadline](Self::deadline) may be another one since.
    pub(super) fn note(
        &mut self,
        moved: (u64, u64),
        waits_for_client: bool,
        now: impl FnOnce() -> Instant,
    ) -> bool {
        if moved == self.moved && waits_for_client == self.untaken.is_some() {
            return false;
        }
        let now = now();
        let is_taken = moved.1 != self.moved.1;
        self.untaken = match self.untaken {
            Some(since) if waits_for_client && !is_taken => Some(since),
            _ => waits_for_client.then_some(now),
        };
        if moved != self.moved {
            self.moved = moved;
            self.since = now;
        }
        true
    }

    /// Until when something must move, and what it is called where nothing has.
    pub(super) fn deadline(&self, deadlines: &Deadlines) -> (Instant, &'static str) {
        let idle = (self.since + deadlines.idle, "stood_still");
        let untaken = self.untaken.map(|since| (since + deadlines.client_read, "client_stalled"));
        let whole = deadlines.whole.map(|whole| (whole, "stood_still"));
        [untaken, whole]
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
        head: None,
        idle: Duration::from_secs(300),
        client_read: Duration::from_secs(60),
    };

    fn after(standstill: &Standstill, begun: Instant) -> (u64, &'static str) {
        let (until, reason) = standstill.deadline(&DEADLINES);
        (until.duration_since(begun).as_secs(), reason)
    }

    #[test]
    fn a_backend_that_is_silent_has_longer_than_a_client_that_takes_nothing() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut standstill = Standstill::new((0, 0), begun);
        assert_eq!(after(&standstill, begun), (300, "stood_still"));
        assert!(standstill.note((0, 5), false, || at(10)));
        assert_eq!(after(&standstill, begun), (310, "stood_still"));
        assert!(standstill.note((0, 5), true, || at(20)));
        assert_eq!(after(&standstill, begun), (80, "client_stalled"));
        assert!(!standstill.note((0, 5), true, || unreachable!()), "nothing new");
        assert!(standstill.note((0, 6), true, || at(30)), "it takes some");
        assert_eq!(after(&standstill, begun), (90, "client_stalled"));
        assert!(standstill.note((0, 6), false, || at(40)), "it has taken all");
        assert_eq!(after(&standstill, begun), (330, "stood_still"));
    }

    #[test]
    fn what_a_client_sends_does_not_make_up_for_what_it_does_not_take() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut standstill = Standstill::new((0, 0), begun);
        for second in 0..50 {
            standstill.note((second, 0), true, || at(second));
        }
        assert_eq!(after(&standstill, begun), (60, "client_stalled"));
    }

    #[test]
    fn the_whole_response_has_a_deadline_too() {
        let begun = Instant::now();
        let deadlines = Deadlines { whole: Some(begun + Duration::from_secs(5)), ..DEADLINES };
        let standstill = Standstill::new((0, 0), begun);
        assert_eq!(standstill.deadline(&deadlines).0, begun + Duration::from_secs(5));
    }
}
