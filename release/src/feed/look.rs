//! One look, from the windows of all replicas.

use serde::{Deserialize, Serialize};

use super::watch::Reading;
use super::wire::{Requests, Window};
use crate::analysis::{Latencies, Look, MetricLook, Sides, Tally, slower};

/// The length of a window in seconds.
pub(super) const WINDOW: u64 = 10;

/// The service whose canary is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Its Namespace.
    pub namespace: String,
    /// Its name, which is that of the stable variant.
    pub name: String,
    /// The name of the canary's Service.
    pub canary: String,
}

/// What is counted of a request, for one metric of the plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Measure {
    /// That it met an error.
    Errors,
    /// That it was slower than an edge of the histogram, in microseconds. Which buckets were is
    /// known if it is the threshold of the split, too.
    SlowerThan(u64),
}

/// How long the requests of the stable variant took before a rollout, on all replicas.
#[must_use]
pub fn stable_latencies(readings: &[Reading], service: &Service) -> Latencies {
    let services = readings.iter().filter_map(|reading| reading.feed.as_ref().ok());
    let services = services
        .flat_map(|feed| &feed.services)
        .filter(|one| (&one.namespace, &one.service) == (&service.namespace, &service.name));
    let mut sum = Latencies::new();
    let stable = services.flat_map(|one| &one.variants).filter(|one| one.name == service.name);
    for (edge, count) in stable.flat_map(|one| &one.latency) {
        let slot = sum.entry(*edge).or_default();
        *slot = slot.saturating_add(*count);
    }
    sum
}

/// The look that windows of one time and one generation add up to.
pub(super) fn look<'a>(
    windows: impl Iterator<Item = &'a Window>,
    service: &Service,
    measures: &[Measure],
) -> Look {
    let mut sum = Sides::<(Requests, Requests)>::default();
    let mut thresholds = Vec::new();
    let variants = windows.flat_map(|window| {
        thresholds.push(window.latency_threshold);
        &window.variants
    });
    for variant in variants {
        let side = match &variant.name {
            name if *name == service.canary => &mut sum.canary,
            name if *name == service.name => &mut sum.stable,
            _ => continue,
        };
        side.0.add(&variant.sticky);
        side.1.add(&variant.dealt);
    }
    let metrics = measures.iter().map(|measure| MetricLook {
        sticky: sum.map(|(sticky, _)| measure.count(sticky)),
        buckets: match measure {
            Measure::Errors => Some(sum.map(|(sticky, _)| sticky.erred.clone())),
            Measure::SlowerThan(edge) => {
                let is_known = thresholds.iter().all(|threshold| *threshold == Some(*edge));
                is_known.then(|| sum.map(|(sticky, _)| sticky.slow.clone()))
            }
        },
        dealt: sum.map(|(_, dealt)| measure.count(dealt)),
    });
    let metrics = metrics.collect();
    let latencies = sum.map(|(sticky, dealt)| {
        let mut sum = sticky.latency.clone();
        for (edge, count) in &dealt.latency {
            let slot = sum.entry(*edge).or_default();
            *slot = slot.saturating_add(*count);
        }
        sum
    });
    let seen = sum.map(|(sticky, _)| sticky.seen.clone());
    Look { seconds: WINDOW, seen, metrics, latencies }
}

// === impl Measure ===

impl Measure {
    fn count(self, counted: &Requests) -> Tally {
        match self {
            Self::Errors => Tally { at_risk: counted.requests, events: counted.errors },
            Self::SlowerThan(edge) => slower(&counted.latency, &counted.clients_left, edge),
        }
    }
}
