//! Chooses endpoints in turn (round robin).

use super::{Avoidance, Candidate, Selection, uniform};

/// An endpoint, and its position among those to choose from.
type Positioned<'a, T> = (usize, &'a T);

// === impl Selection ===

impl<'a, T> Selection<'a, T> {
    /// Chooses the next endpoint in turn that this request has not tried, from the one at `turn` on;
    /// returns its position too. One that starts slowly is passed over as often as its share says.
    ///
    /// `random` is uniform over `u64`.
    pub(crate) fn choose_in_turn(
        &self,
        candidate: impl Fn(&T) -> Candidate,
        turn: usize,
        random: u64,
    ) -> Option<Positioned<'a, T>> {
        let near = || {
            let (near, _) = self.near_and_far()?;
            let (avoidance, chosen) = self.next_of(near, &candidate, turn, random)?;
            (avoidance == Avoidance::Good).then_some(chosen)
        };
        near().or_else(|| Some(self.next_of(self.endpoints, &candidate, turn, random)?.1))
    }

    fn next_of(
        &self,
        endpoints: &'a [T],
        candidate: &impl Fn(&T) -> Candidate,
        turn: usize,
        random: u64,
    ) -> Option<(Avoidance, Positioned<'a, T>)> {
        let begin = turn.checked_rem(endpoints.len())?;
        let (before, from) = endpoints.split_at_checked(begin)?;
        let mut least: Option<(Avoidance, Positioned<'a, T>)> = None;
        for (position, endpoint) in (begin..).zip(from).chain(before.iter().enumerate()) {
            let candidate = candidate(endpoint);
            let Some(mut avoidance) = self.avoidance(&candidate) else { continue };
            let share = candidate.warm_up.share(self.now, self.slow_start);
            if avoidance == Avoidance::Good && share < uniform(random) {
                avoidance = Avoidance::SlowStarting;
            }
            if avoidance == Avoidance::Good {
                return Some((avoidance, (position, endpoint)));
            }
            if least.is_none_or(|(least, _)| avoidance < least) {
                least = Some((avoidance, (position, endpoint)));
            }
        }
        least
    }
}
