//! The evidence of one rollout, look by look.

use serde::{Deserialize, Serialize};

use super::band::quantiles;
use super::buckets::Buckets;
use super::counts::{Counts, Sides};
use super::evidence::Sums;
use super::latency::{Latencies, add};
use super::numeric::ln_sum;
use super::plan::{Metric, Plan, Share};
use super::report::{MetricReport, Population, PopulationReport, Report, Standing};
use super::votes::{Active, Votes};

/// The fewest active buckets of a side with which people can be compared.
pub const MIN_BUCKETS: u64 = 30;
/// 100 %, in hundredths of a percent.
const ALL: u64 = 10_000;

/// The least part of these people, in hundredths of a percent, that is enough to compare them;
/// `None` if there are too few people for two sides, whatever their parts are.
#[must_use]
pub fn least_weight(people: u64) -> Option<u16> {
    let least = (MIN_BUCKETS * ALL).div_ceil(people.max(1));
    u16::try_from(least).ok().filter(|least| u64::from(*least) <= ALL / 2)
}

/// A population with less than this part of all requests is not waited for: it can raise an alarm,
/// and need not clear.
const WAITED_FOR: f64 = 0.05;
/// The number of populations, which share the part of α that a metric has.
const POPULATIONS: f64 = 2.0;

/// What was counted in one look: a time in which no weight changed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Look {
    /// Its length.
    pub seconds: u64,
    /// The buckets that had requests, by the side that had them.
    pub seen: Sides<Buckets>,
    /// What was counted of each metric, in the order of the plan.
    pub metrics: Vec<MetricLook>,
    /// The latencies of all requests, for the picture.
    pub latencies: Sides<Latencies>,
}

/// One metric in a look.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MetricLook {
    /// The requests of people who stick to their variant.
    pub sticky: Counts,
    /// The buckets of these people that met an event. Where they are not known, the metric raises
    /// no alarm for people who stick, and clears by requests alone.
    pub buckets: Option<Sides<Buckets>>,
    /// The requests that were dealt one by one.
    pub dealt: Counts,
}

/// The evidence of all looks of a rollout.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Trial {
    plan: Plan,
    seconds: u64,
    active: Active,
    metrics: Vec<MetricTrial>,
    #[serde(default)]
    latencies: Sides<Latencies>,
}

/// The evidence of one metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetricTrial {
    votes: Votes,
    /// That of buckets; `None` where they were not known in some look.
    buckets: Option<Sums>,
    sticky: Requests,
    dealt: Requests,
}

/// The evidence of requests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Requests {
    sums: Sums,
    total: Counts,
}

// === impl Trial ===

impl Trial {
    /// A trial without evidence.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let metric = || MetricTrial { buckets: Some(Sums::default()), ..MetricTrial::default() };
        let metrics = plan.metrics.iter().map(|_| metric()).collect();
        let (active, latencies) = (Active::default(), Sides::default());
        Self { plan, seconds: 0, active, metrics, latencies }
    }

    /// Adds the counts of a look, and judges. The looks must follow each other in time.
    pub fn look(&mut self, look: &Look) -> Report {
        self.seconds = self.seconds.saturating_add(look.seconds);
        self.active.add(&look.seen);
        add(&mut self.latencies.canary, &look.latencies.canary);
        add(&mut self.latencies.stable, &look.latencies.stable);
        let quantiles = quantiles(&self.latencies, self.plan.alpha);
        let people = self.active.len();
        let metrics = self.plan.metrics.iter().zip(&mut self.metrics).zip(&look.metrics);
        let reports = metrics.map(|((metric, trial), counts)| {
            let by_buckets = trial.add(&self.plan, metric, counts, &look.seen);
            trial.report(metric, counts, by_buckets, &self.active)
        });
        let reports: Vec<MetricReport> = reports.collect();
        let parts = self.plan.metrics.iter().map(|metric| self.plan.part(metric) / POPULATIONS);
        let weighted = reports.iter().zip(parts).flat_map(|(report, part)| {
            report.populations.iter().filter_map(move |one| Some(one.alarm? + part.ln()))
        });
        let weighted: Vec<f64> = weighted.collect();
        let alarm = (!weighted.is_empty()).then(|| ln_sum(&weighted));
        let report = Report::new(&self.plan, self.seconds, people, alarm, reports);
        Report { quantiles, ..report }
    }
}

// === impl MetricTrial ===

impl MetricTrial {
    /// Adds a look; returns what was counted by buckets.
    fn add(
        &mut self,
        plan: &Plan,
        metric: &Metric,
        look: &MetricLook,
        seen: &Sides<Buckets>,
    ) -> Option<Counts> {
        self.sticky.add(look.sticky, plan, metric);
        self.dealt.add(look.dealt, plan, metric);
        let Some(events) = &look.buckets else {
            // Votes that nobody counted cannot be counted later.
            if look.sticky.at_risk() > 0 {
                self.buckets = None;
            }
            return None;
        };
        let counts = self.votes.cast(seen, events);
        self.buckets.as_mut()?.add(counts, plan.ratio.guard(), metric.objective.map(Share::guard));
        Some(counts)
    }

    fn report(
        &self,
        metric: &Metric,
        look: &MetricLook,
        by_buckets: Option<Counts>,
        active: &Active,
    ) -> MetricReport {
        let enough = {
            let Sides { canary, stable } = active.len();
            canary.min(stable) >= MIN_BUCKETS
        };
        let by_requests = self.sticky.sums.clear(enough, metric.objective);
        let buckets = self.buckets.as_ref();
        let sticky =
            PopulationReport {
                population: Population::Sticky,
                buckets: by_buckets,
                requests: look.sticky,
                total: self.sticky.total,
                alarm: buckets.filter(|_| enough).map(Sums::alarm),
                clear: finite(buckets.map_or(by_requests, |sums| {
                    sums.clear(enough, metric.objective).min(by_requests)
                })),
                standing: Standing::Open,
            };
        let dealt = PopulationReport {
            population: Population::Dealt,
            buckets: None,
            requests: look.dealt,
            total: self.dealt.total,
            alarm: Some(self.dealt.sums.alarm()),
            clear: finite(self.dealt.sums.clear(true, metric.objective)),
            standing: Standing::Open,
        };
        let all = self.sticky.total.at_risk().saturating_add(self.dealt.total.at_risk());
        let standing = |one: &PopulationReport, is_few: bool| match one.total.at_risk() {
            0 => Standing::Unseen,
            some if (some as f64) < WAITED_FOR * all as f64 => Standing::Small,
            _ if is_few => Standing::Few,
            _ => Standing::Open,
        };
        let (of_sticky, of_dealt) = (standing(&sticky, !enough), standing(&dealt, false));
        MetricReport {
            name: metric.name.clone(),
            voted: self.votes.cast_by(active),
            populations: [
                PopulationReport { standing: of_sticky, ..sticky },
                PopulationReport { standing: of_dealt, ..dealt },
            ],
        }
    }
}

fn finite(evidence: f64) -> Option<f64> {
    evidence.is_finite().then_some(evidence)
}

// === impl Requests ===

impl Requests {
    fn add(&mut self, counts: Counts, plan: &Plan, metric: &Metric) {
        self.sums.add(counts, plan.ratio.guard(), metric.objective.map(Share::guard));
        self.total.add(counts);
    }
}
