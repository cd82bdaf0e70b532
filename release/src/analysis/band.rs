//! Bounds of a quantile that hold at every look, for the picture.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::counts::Sides;
use super::latency::{Latencies, total};
use super::numeric::ln_beta;
use super::plan::Share;

/// How many requests the bounds are made for: they are tightest for some ten times as many.
const CONCENTRATION: f64 = 100.0;

/// The quantiles of a report, by their names.
const QUANTILES: [(&str, Share); 3] =
    [("p50", Share::HALF), ("p90", Share::NINE_TENTHS), ("p99", Share::NINETY_NINE_PERCENT)];

/// Where a quantile of the latencies of both sides is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Quantile {
    /// Its name, such as `p50`.
    pub name: String,
    /// That of the canary; `None` without requests.
    pub canary: Option<Band>,
    /// That of the stable variant.
    pub stable: Option<Band>,
}

/// The quantiles of both sides, each outside of its band with a probability of at most α.
pub(super) fn quantiles(latencies: &Sides<Latencies>, alpha: Share) -> Vec<Quantile> {
    let quantile = |(name, quantile): (&str, Share)| {
        let Sides { canary, stable } = latencies.map(|one| band(one, quantile, alpha));
        Quantile { name: name.to_owned(), canary, stable }
    };
    QUANTILES.into_iter().map(quantile).collect()
}

/// Where a quantile of all latencies is, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Band {
    /// The lowest edge that it may be at; 0 if too little was seen for a lower bound.
    pub low: u64,
    /// The highest one; `None` if too little was seen for an upper bound.
    pub high: Option<u64>,
}

// === impl Band ===

impl fmt::Display for Band {
    /// Such as `11–14 ms`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let milliseconds = |edge: u64| {
            let milliseconds = edge as f64 / 1000.0;
            let digits = if milliseconds < 10.0 { 1 } else { 0 };
            format!("{milliseconds:.digits$}")
        };
        let low = milliseconds(self.low);
        match self.high.map(milliseconds) {
            Some(high) if high == low => write!(f, "{low} ms"),
            Some(high) => write!(f, "{low}–{high} ms"),
            None => write!(f, "{low} ms or more"),
        }
    }
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
    if all == 0 {
        return None;
    }
    let mut below = 0_u64;
    let seen = latencies.iter().map(|(edge, count)| {
        below = below.saturating_add(*count);
        (*edge, below)
    });
    let edges: Vec<(u64, u64)> = std::iter::once((0, 0)).chain(seen).collect();
    let is_above = |below: u64| below as f64 > quantile.value() * all as f64;
    let is_certain = |below: u64| evidence(below, all, quantile) >= alpha.limit();
    // The first edge that is not certainly too low, and the first that is certainly high enough.
    let low = edges.partition_point(|(_, below)| !is_above(*below) && is_certain(*below));
    let high = edges.partition_point(|(_, below)| !is_above(*below) || !is_certain(*below));
    let last = edges.len().saturating_sub(1);
    let edge = |index: usize| edges.get(index).map(|(edge, _)| *edge);
    let low = low.min(last);
    Some(Band { low: edge(low)?, high: edge(high.max(low)) })
}

/// The logarithm of the evidence against a latency being the quantile, if `below` of `all` requests
/// are below it.
fn evidence(below: u64, all: u64, quantile: Share) -> f64 {
    let (below, above) = (below as f64, all.saturating_sub(below) as f64);
    let q = quantile.value();
    let (a, b) = (CONCENTRATION * q, CONCENTRATION * (1.0 - q));
    ln_beta(a + below, b + above) - ln_beta(a, b) - below * q.ln() - above * (-q).ln_1p()
}
