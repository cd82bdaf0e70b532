//! Bounds of a quantile that hold at every look, for the picture.

use serde::{Deserialize, Serialize};

use super::latency::{Latencies, total};
use super::numeric::ln_beta;
use super::plan::Share;

/// How many requests the bounds are made for: they are tightest for some ten times as many.
const CONCENTRATION: f64 = 100.0;

/// Where a quantile of all latencies is, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Band {
    /// The lowest edge that it may be at; 0 if too little was seen for a lower bound.
    pub low: u64,
    /// The highest one; `None` if too little was seen for an upper bound.
    pub high: Option<u64>,
}

/// The band of a quantile, such as 0.99, outside of which it ever is with a probability of at most
/// α. `None` without requests.
///
/// An edge is within the band if the number of requests below it is likely enough where the
/// quantile is there: a mixture of binomials over a beta distribution (Robbins 1970; Howard &
/// Ramdas, "Sequential estimation of quantiles", arXiv 1906.09712). Requests are taken as
/// independent: it is a picture, not a verdict.
#[must_use]
pub fn band(latencies: &Latencies, quantile: Share, alpha: Share) -> Option<Band> {
    let all = total(latencies);
    let last = *latencies.last_key_value()?.0;
    if all == 0 {
        return None;
    }
    let mut below = 0_u64;
    let seen = latencies.iter().map(|(edge, count)| {
        below = below.saturating_add(*count);
        (*edge, below)
    });
    let mut edges = std::iter::once((0, 0)).chain(seen);
    let is_above = |below: u64| below as f64 > quantile.value() * all as f64;
    // The first edge that is not certainly too low, and the last that is not certainly too high.
    let low = edges
        .by_ref()
        .find(|(_, below)| is_above(*below) || evidence(*below, all, quantile) < alpha.limit());
    let (low, below) = low.unwrap_or((last, all));
    let certainly_above =
        |below: u64| is_above(below) && evidence(below, all, quantile) >= alpha.limit();
    if certainly_above(below) {
        return Some(Band { low, high: Some(low) });
    }
    let high = edges.find(|(_, below)| certainly_above(*below)).map(|(edge, _)| edge);
    Some(Band { low, high })
}

/// The logarithm of the evidence against a latency being the quantile, if `below` of `all` requests
/// are below it.
fn evidence(below: u64, all: u64, quantile: Share) -> f64 {
    let (below, above) = (below as f64, all.saturating_sub(below) as f64);
    let q = quantile.value();
    let (a, b) = (CONCENTRATION * q, CONCENTRATION * (1.0 - q));
    ln_beta(a + below, b + above) - ln_beta(a, b) - below * q.ln() - above * (-q).ln_1p()
}
