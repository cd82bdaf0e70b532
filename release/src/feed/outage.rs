//! Whether the stable variant fails, too: then the canary is not to blame.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::analysis::{Look, Share, Tally};

/// The looks that count: the last minute.
const LOOKS: usize = 6;
/// The fewest errors in them.
const MIN_ERRORS: u64 = 20;
/// How many times its objective the stable variant must exceed.
const TIMES: f64 = 5.0;

/// The stable variant's errors in the last looks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Outage(VecDeque<Tally>);

// === impl Outage ===

impl Outage {
    /// Adds a look, whose first metric is errors.
    pub fn add(&mut self, look: &Look) {
        let mut stable = Tally::default();
        if let Some(errors) = look.metrics.first() {
            stable.add(errors.sticky.stable);
            stable.add(errors.dealt.stable);
        }
        self.0.push_back(stable);
        if self.0.len() > LOOKS {
            self.0.pop_front();
        }
    }

    /// How the stable variant fails, if it does: its errors of the last minute are 20 or more, and
    /// five times what the objective allows.
    #[must_use]
    pub fn describe(&self, objective: Share) -> Option<String> {
        let mut sum = Tally::default();
        self.0.iter().for_each(|tally| sum.add(*tally));
        let is_failing = sum.events >= MIN_ERRORS && sum.ratio() > TIMES * objective.value();
        let percent = sum.ratio() * 100.0;
        is_failing.then(|| format!("the stable variant fails {percent:.1} % of its requests"))
    }
}
