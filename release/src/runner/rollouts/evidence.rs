//! What a rollout has seen so far, as it is recorded.

use serde::{Deserialize, Serialize};

use crate::analysis::{self, Trial};
use crate::feed::{Measure, Outage, Reading, Readout, Service, Watch, stable_latencies};
use crate::model::Time;
use crate::rollout::{Gateway, Judged, Settings};
use crate::store::Look;

use super::sampler::Samples;

/// The quantile of the stable variant's latencies beyond which a request is slow.
const SLOW: f64 = 0.99;
/// The length of a look, in seconds.
const LOOK: u64 = 10;

/// What a rollout has seen so far.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Evidence {
    /// Since when the canary's pods are ready.
    pub(super) canary: Option<ReadySince>,
    /// Since when the stable pods are.
    pub(super) stable: Option<ReadySince>,
    /// The replicas of the stable variant when the rollout began.
    pub(super) replicas: Option<u32>,
    /// What was counted; `None` before all replicas could be read.
    pub(super) sensor: Option<Sensor>,
    /// What the service's own query resulted in.
    #[serde(default)]
    pub(super) samples: Samples,
}

/// Since when pods of a specification are ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ReadySince {
    /// Which specification.
    pub(super) version: String,
    /// Since when.
    pub(super) at: Time,
}

/// What was counted of both variants.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Sensor {
    watch: Watch,
    trial: Trial,
    outage: Outage,
    /// The result of the last look.
    pub(super) judged: Option<Judged>,
    /// From which latency on a request is slow, in milliseconds; `None` if the stable variant had too
    /// few requests.
    pub(super) slow: Option<u64>,
    /// Whether the gateway was configured to report who met slow responses.
    pub(super) is_slow_set: bool,
}

// === impl Evidence ===

impl Evidence {
    /// Whether it says more than before, beyond what the next reading finds out anyway.
    pub(super) fn is_other(&self, before: &Self) -> bool {
        let looked = |evidence: &Self| {
            let sensor = evidence.sensor.as_ref();
            sensor.map(|sensor| (sensor.is_slow_set, sensor.watch.clone()))
        };
        let known =
            |evidence: &Self| (evidence.canary.clone(), evidence.stable.clone(), evidence.replicas);
        let is_same = known(self) == known(before) && looked(self) == looked(before);
        !is_same || self.samples != before.samples
    }
}

/// Remembers since when pods are ready. Those of another specification are other pods.
pub(super) fn ready_since(
    known: &mut Option<ReadySince>,
    version: Option<String>,
    now: Time,
) -> Option<Time> {
    let is_known = known.as_ref().map(|known| &known.version) == version.as_ref();
    if !is_known {
        *known = version.map(|version| ReadySince { version, at: now });
    }
    known.as_ref().map(|known| known.at)
}

// === impl Sensor ===

impl Sensor {
    /// A sensor that has counted nothing. What is slow follows from what was read.
    pub(super) fn new(readings: &[Reading], service: &Service, settings: &Settings) -> Self {
        let slow = analysis::threshold(&stable_latencies(readings, service), SLOW);
        // Durations of annotations are in milliseconds, and the gateway rounds them up to an edge.
        let slow = slow.map(|edge| edge.div_ceil(1000));
        let mut measures = vec![Measure::Errors];
        let edges = slow.map(|slow| slow.saturating_mul(1000)).into_iter();
        let edges = edges.chain(settings.objectives.thresholds()).map(analysis::edge);
        measures.extend(edges.map(Measure::SlowerThan));
        Self {
            watch: Watch::new(service.clone(), measures),
            trial: Trial::new(settings.plan(slow.is_some())),
            outage: Outage::default(),
            judged: None,
            slow,
            is_slow_set: false,
        }
    }

    /// The start of the first window that it needs, in seconds since 1970.
    pub(super) fn from(&self) -> u64 {
        self.watch.from()
    }

    /// Takes what was read, and judges each new look. Windows that began before `warm`, in
    /// milliseconds, are left out.
    pub(super) fn read(
        &mut self,
        readings: &[Reading],
        weight: u16,
        warm: Time,
        now: Time,
    ) -> (Gateway, Vec<Look>) {
        let from = warm.0.div_ceil(1000);
        let (gateway, Readout { looks, left_out }) = self.watch.read(readings, from, now.0 / 1000);
        if let Some(left_out) = left_out {
            tracing::debug!(?left_out, "windows are no evidence");
        }
        let looks = looks.into_iter().map(|(start, look)| {
            let report = self.trial.look(&look);
            self.outage.add(&look);
            let end = Time(start.saturating_add(LOOK).saturating_mul(1000));
            let (verdict, sentence) = (report.verdict, report.sentence.clone());
            self.judged = Some(Judged { at: end, verdict, sentence });
            Look { at: Time(start.saturating_mul(1000)), weight, report }
        });
        (gateway, looks.collect())
    }

    /// How the stable variant fails, if it does.
    pub(super) fn outage(&self, settings: &Settings) -> Option<String> {
        self.outage.describe(settings.objectives.error_ratio)
    }
}
