//! The e-processes: sums that are carried from look to look, and the e-values that they are worth.
//!
//! An e-value is evidence against a hypothesis. While the hypothesis holds, its mean is at most 1
//! at every look, so that it reaches 1/α at any time with a probability of at most α (Ville's
//! inequality): looking often costs nothing.

use serde::{Deserialize, Serialize};

use super::counts::Counts;
use super::numeric::{ln_mean, ln_sum};
use super::plan::{Ratio, Share};

/// How many times as many errors as the stable variant a canary that is worse may have.
const WORSE: [f64; 7] = [1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0];
/// The same of a canary that is no worse.
const NO_WORSE: [f64; 2] = [0.7, 1.0];
/// The error ratio of a canary that meets its objective, as a part of the objective.
const WITHIN: [f64; 3] = [0.1, 0.3, 0.6];

/// The sums of one metric, in one unit. They begin at 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sums {
    /// For each of [`WORSE`]: the logarithm of the evidence that the canary is that much worse than
    /// one that is no worse.
    worse: [f64; WORSE.len()],
    /// For each of [`NO_WORSE`]: of the evidence that it is no worse than that, rather than as much
    /// worse as is guarded against.
    no_worse: [f64; NO_WORSE.len()],
    /// For each of [`WITHIN`]: of the evidence that it is that far within its objective.
    within: [f64; WITHIN.len()],
}

// === impl Sums ===

impl Sums {
    /// Adds a look. Given how many events there were, how many of them the canary had is
    /// hypergeometric, and a binomial bounds its moment generating function (Hoeffding 1963,
    /// theorem 4). So the alarm holds for shares and error ratios that change from look to look.
    pub(super) fn add(&mut self, counts: Counts, guard: Ratio, objective: Option<Share>) {
        let at_risk = counts.at_risk();
        if at_risk == 0 {
            return;
        }
        let share = counts.canary.at_risk as f64 / at_risk as f64;
        let events = counts.canary.events();
        let all = events + counts.stable.events();
        // The logarithm of the mean of ratio^[an event is the canary's].
        let mean = |ratio: f64| (share * (ratio - 1.0)).ln_1p();
        for (sum, ratio) in self.worse.iter_mut().zip(WORSE) {
            *sum += events * ratio.ln() - all * mean(ratio);
        }
        let guard = guard.value();
        for (sum, ratio) in self.no_worse.iter_mut().zip(NO_WORSE) {
            *sum += events * (ratio / guard).ln() - all * (mean(ratio) - mean(guard));
        }
        let Some(objective) = objective.map(Share::value) else { return };
        let without = counts.canary.without();
        for (sum, part) in self.within.iter_mut().zip(WITHIN) {
            let rest = (-part * objective).ln_1p() - (-objective).ln_1p();
            *sum += events * part.ln() + without * rest;
        }
    }

    /// The logarithm of the evidence that the canary is worse.
    pub(super) fn alarm(&self) -> f64 {
        ln_mean(&self.worse)
    }

    /// The logarithm of the evidence that the canary is not bad, where bad is: worse by the ratio
    /// that is guarded against, and beyond its objective. Both are refuted with half the evidence
    /// each; what cannot be used is worth nothing.
    pub(super) fn clear(&self, by_comparison: bool, objective: Option<Share>) -> f64 {
        let comparison = if by_comparison { ln_mean(&self.no_worse) } else { f64::NEG_INFINITY };
        match objective {
            None => comparison,
            Some(_) => ln_sum(&[comparison, ln_mean(&self.within)]) - std::f64::consts::LN_2,
        }
    }
}
