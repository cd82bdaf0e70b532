//! People as units of evidence: each bucket has one vote.

use serde::{Deserialize, Serialize};

use super::buckets::Buckets;
use super::counts::{Counts, Sides, Tally};

/// The buckets that have met an event of one metric: that was their vote.
///
/// A bucket that moves to the canary stays at risk there, unless it has voted. So one client whose
/// calls fail by its own fault is one vote, whichever side it is on: a log-rank test (ter Schure,
/// Pérez-Ortiz, Ly, Grünwald: "The safe logrank test", arXiv 2011.06931).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Votes(Buckets);

/// The buckets that have been seen, each on the side where it was seen last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Active(Sides<Buckets>);

// === impl Votes ===

impl Votes {
    /// Counts who was at risk in a look, and takes the votes of those who met an event. A bucket
    /// that was seen on both sides in one look is left out of it.
    pub(super) fn cast(&mut self, seen: &Sides<Buckets>, events: &Sides<Buckets>) -> Counts {
        let on_both = seen.canary.common(&seen.stable);
        let cast = |votes: &Buckets, seen: &Buckets, events: &Buckets| {
            // A client that left is not among those seen, and may have waited for too long.
            let mut at_risk = seen.clone();
            at_risk.add(events);
            at_risk.remove(votes);
            at_risk.remove(&on_both);
            let events = events.common(&at_risk);
            (Tally { at_risk: at_risk.len(), events: events.len() }, events)
        };
        let (canary, of_canary) = cast(&self.0, &seen.canary, &events.canary);
        let (stable, of_stable) = cast(&self.0, &seen.stable, &events.stable);
        self.0.add(&of_canary);
        self.0.add(&of_stable);
        Counts { canary, stable }
    }

    /// Of the buckets that are active, those that have voted.
    pub(super) fn cast_by(&self, active: &Active) -> Sides<u64> {
        active.0.map(|side| side.common(&self.0).len())
    }
}

// === impl Active ===

impl Active {
    pub(super) fn add(&mut self, seen: &Sides<Buckets>) {
        let Sides { canary, stable } = &mut self.0;
        canary.remove(&seen.stable);
        canary.add(&seen.canary);
        stable.add(&seen.stable);
        stable.remove(&seen.canary);
    }

    /// How many there are on each side.
    pub(super) fn len(&self) -> Sides<u64> {
        self.0.map(Buckets::len)
    }
}
