//! Latency as an event that a request has or has not: it was slower than a threshold.

use std::collections::BTreeMap;

use super::counts::Tally;

/// Numbers of requests by latency, as the traffic feed has them: the edge of each step in
/// microseconds, and how many were below it, and not below the edge before.
pub type Latencies = BTreeMap<u64, u64>;

/// The fewest requests beyond a quantile that make it one.
const MIN_BEYOND: f64 = 10.0;

/// The edge that the part `quantile` of all requests is below, in microseconds: the threshold that
/// the canary is measured by, from the stable variant's latencies before the rollout. `None` if
/// fewer than ten requests are beyond the quantile: then it is not known.
#[must_use]
pub fn threshold(latencies: &Latencies, quantile: f64) -> Option<u64> {
    let all = total(latencies);
    if (all as f64) * (1.0 - quantile) < MIN_BEYOND {
        return None;
    }
    let mut below = 0_u64;
    latencies.iter().find_map(|(edge, count)| {
        below = count.saturating_add(below);
        (below as f64 >= quantile * all as f64).then_some(*edge)
    })
}

/// The lowest edge of the histogram that is not below a latency in microseconds.
#[must_use]
pub fn edge(latency: u64) -> u64 {
    /// Steps from one power of two to the next.
    const STEPS: u64 = 16;
    /// Longer ones count there, too.
    const LAST: u64 = 1 << 30;
    let latency = latency.clamp(1, LAST);
    let step = (latency.next_power_of_two() / 2 / STEPS).max(1);
    latency.next_multiple_of(step)
}

/// The requests whose latency is known to be above or below the threshold, which is an edge, and
/// those that were slower. A client that left after the threshold waited longer than that; one that
/// left before says nothing.
#[must_use]
pub fn slower(latencies: &Latencies, clients_left: &Latencies, threshold: u64) -> Tally {
    let beyond = |latencies: &Latencies| {
        let slower = latencies.iter().filter(|(edge, _)| **edge > threshold);
        sum(slower.map(|(_, count)| count))
    };
    let left = beyond(clients_left);
    let at_risk = total(latencies).saturating_add(left);
    Tally { at_risk, events: beyond(latencies).saturating_add(left) }
}

/// Adds the latencies of other requests.
pub(super) fn add(latencies: &mut Latencies, others: &Latencies) {
    for (edge, count) in others {
        let sum = latencies.entry(*edge).or_default();
        *sum = sum.saturating_add(*count);
    }
}

/// The number of requests.
pub(super) fn total(latencies: &Latencies) -> u64 {
    sum(latencies.values())
}

fn sum<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}
