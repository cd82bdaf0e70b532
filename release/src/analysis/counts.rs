//! What was counted in one look, on both sides.

use serde::{Deserialize, Serialize};

/// One value for the canary and one for the stable variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sides<T> {
    /// That of the canary.
    pub canary: T,
    /// That of the stable variant.
    pub stable: T,
}

/// Units that could meet an event, such as an error, and those that did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tally {
    /// All units: buckets that were seen and have not voted, or requests.
    pub at_risk: u64,
    /// Of these, those that met an event.
    pub events: u64,
}

/// The tallies of both sides.
pub type Counts = Sides<Tally>;

// === impl Sides ===

impl<T> Sides<T> {
    /// One value made from each side.
    pub fn map<U>(&self, mut make: impl FnMut(&T) -> U) -> Sides<U> {
        Sides { canary: make(&self.canary), stable: make(&self.stable) }
    }
}

// === impl Tally ===

impl Tally {
    /// Adds units that were counted elsewhere or later.
    pub fn add(&mut self, other: Self) {
        self.at_risk = self.at_risk.saturating_add(other.at_risk);
        self.events = self.events.saturating_add(other.events);
    }

    /// The share of units that met an event; 0 without units.
    #[must_use]
    pub fn ratio(self) -> f64 {
        if self.at_risk == 0 { 0.0 } else { self.events() / self.at_risk as f64 }
    }

    /// The number of events, which is never more than that of units.
    pub(super) fn events(self) -> f64 {
        self.events.min(self.at_risk) as f64
    }

    /// The number of units without an event.
    pub(super) fn without(self) -> f64 {
        self.at_risk.saturating_sub(self.events) as f64
    }
}

// === impl Counts ===

impl Counts {
    /// Adds the tallies of both sides.
    pub fn add(&mut self, other: Self) {
        self.canary.add(other.canary);
        self.stable.add(other.stable);
    }

    /// The units of both sides.
    #[must_use]
    pub fn at_risk(&self) -> u64 {
        self.canary.at_risk.saturating_add(self.stable.at_risk)
    }
}
