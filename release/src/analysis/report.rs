//! What a look resulted in: e-values, counts, a verdict, and a sentence for people.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::band::Quantile;
use super::counts::{Counts, Sides};
use super::plan::Plan;
use super::trial::{MIN_BUCKETS, least_weight};

/// The result of a look, as it is recorded. Evidence is the natural logarithm of an e-value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// What follows from the evidence.
    pub verdict: Verdict,
    /// The verdict in one sentence.
    pub sentence: String,
    /// The seconds of all looks so far.
    pub seconds: u64,
    /// The evidence that the canary is worse, over all metrics; `None` where nothing can be
    /// compared.
    pub alarm: Option<f64>,
    /// What `alarm` must reach: ln(1/α).
    pub alarm_limit: f64,
    /// The least evidence that the canary is not bad, of all that must clear.
    pub clear: Option<f64>,
    /// What `clear` must reach: ln(1/β).
    pub clear_limit: f64,
    /// Active buckets: those that were seen so far, by the side on which they were seen last.
    pub people: Sides<u64>,
    /// The metrics, in the order of the plan.
    pub metrics: Vec<MetricReport>,
    /// Where quantiles of all latencies so far are. They decide nothing.
    #[serde(default)]
    pub quantiles: Vec<Quantile>,
}

/// One metric in a report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MetricReport {
    /// Its name.
    pub name: String,
    /// Active buckets that have voted, so that they say nothing more.
    pub voted: Sides<u64>,
    /// People who stick to their variant, and requests that are dealt one by one.
    pub populations: [PopulationReport; 2],
}

/// One metric among the people who stick, or the requests that are dealt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PopulationReport {
    /// Which of them.
    pub population: Population,
    /// Buckets in this look, those that voted before left out.
    pub buckets: Option<Counts>,
    /// Requests in this look.
    pub requests: Counts,
    /// Requests in all looks.
    pub total: Counts,
    /// The evidence that the canary is worse.
    pub alarm: Option<f64>,
    /// The evidence that it is not bad: the lesser of that by buckets and that by requests.
    pub clear: Option<f64>,
    /// Whether it is waited for.
    pub standing: Standing,
}

/// A kind of assignment, and thereby of independent units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Population {
    /// People who stick to their variant: users, browsers, addresses, header values.
    Sticky,
    /// Requests that are dealt one by one.
    Dealt,
}

/// Whether a population must clear, and whether it can.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Standing {
    /// It has no requests at all, and need not clear.
    Unseen,
    /// It has too small a part of the requests, and need not clear.
    Small,
    /// Too few people to compare: only an absolute objective can clear it.
    Few,
    /// It must clear.
    Open,
}

/// What follows from the evidence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    /// The canary is worse: take it back.
    Alarm,
    /// The canary is not bad: go on.
    Clear,
    /// Neither is shown.
    Hold(Hold),
}

/// Why neither is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Hold {
    /// The canary had no request.
    NoRequests,
    /// A side has fewer people than are needed to compare.
    FewPeople,
    /// There is not enough evidence yet.
    Undecided,
}

// === impl Report ===

impl Report {
    pub(super) fn new(
        plan: &Plan,
        seconds: u64,
        people: Sides<u64>,
        alarm: Option<f64>,
        metrics: Vec<MetricReport>,
    ) -> Self {
        let mut report = Self {
            verdict: Verdict::Hold(Hold::NoRequests),
            sentence: String::new(),
            seconds,
            alarm,
            alarm_limit: plan.alpha.limit(),
            clear: None,
            clear_limit: plan.beta.limit(),
            people,
            metrics,
            quantiles: Vec::new(),
        };
        report.clear = report.least();
        report.verdict = report.judge();
        report.sentence = report.describe(plan);
        report
    }

    /// The populations that must clear.
    fn required(&self) -> impl Iterator<Item = &PopulationReport> {
        let populations = self.metrics.iter().flat_map(|metric| &metric.populations);
        populations.filter(|one| matches!(one.standing, Standing::Few | Standing::Open))
    }

    /// The least evidence of all that must clear; `None` if one has none.
    fn least(&self) -> Option<f64> {
        let all: Option<Vec<f64>> = self.required().map(|one| one.clear).collect();
        all?.into_iter().reduce(f64::min)
    }

    fn judge(&self) -> Verdict {
        let canary: u64 = self.required().map(|one| one.total.canary.at_risk).sum();
        if self.alarm.is_some_and(|alarm| alarm >= self.alarm_limit) {
            Verdict::Alarm
        } else if canary == 0 {
            Verdict::Hold(Hold::NoRequests)
        } else if self.clear.is_some_and(|clear| clear >= self.clear_limit) {
            Verdict::Clear
        } else if self.required().any(|one| one.standing == Standing::Few) {
            Verdict::Hold(Hold::FewPeople)
        } else {
            Verdict::Hold(Hold::Undecided)
        }
    }

    fn describe(&self, plan: &Plan) -> String {
        match self.verdict {
            Verdict::Alarm => self.describe_alarm(plan),
            Verdict::Clear => format!(
                "clear: {}; a canary {} times worse is refuted (β = {} %)",
                self.describe_seen(plan),
                plan.ratio.guard().value(),
                percent(plan.beta.value())
            ),
            Verdict::Hold(Hold::NoRequests) => "holding: the canary had no request yet".to_owned(),
            Verdict::Hold(Hold::FewPeople) => {
                let Sides { canary, stable } = self.people;
                let is_canary = canary <= stable;
                let (few, side) =
                    if is_canary { (canary, "the canary") } else { (stable, "stable") };
                let way_out = match least_weight(canary.saturating_add(stable)) {
                    Some(least) if is_canary => {
                        format!("a weight of {} % has as many", percent(share_of(least)))
                    }
                    Some(least) => {
                        format!("a weight of {} % has as many", percent(1.0 - share_of(least)))
                    }
                    None => "there are too few whatever the weight".to_owned(),
                };
                format!(
                    "holding: {few} people were seen on {side}, and {MIN_BUCKETS} are needed to \
                     compare: {way_out}"
                )
            }
            Verdict::Hold(Hold::Undecided) => {
                let rest = match self.remaining() {
                    Some(seconds) => format!("at this traffic {} more", duration(seconds)),
                    None => "no end is in sight yet".to_owned(),
                };
                format!("holding: {}; {rest}", self.describe_seen(plan))
            }
        }
    }

    /// The seconds until it clears, if evidence goes on growing as it has.
    fn remaining(&self) -> Option<u64> {
        let clear = self.clear.filter(|clear| *clear > 0.0)?;
        let seconds = self.seconds as f64 * (self.clear_limit - clear) / clear;
        Some(seconds.clamp(0.0, u64::MAX as f64) as u64)
    }

    /// `212 people seen, 3 met an error`, of the canary.
    fn describe_seen(&self, plan: &Plan) -> String {
        let worst = self.metrics.iter().zip(&plan.metrics).filter_map(|(report, metric)| {
            let one = report.populations.iter().max_by_key(|one| one.total.canary.at_risk)?;
            Some((one, report.voted.canary, metric.phrase.as_str()))
        });
        let worst =
            worst.reduce(|one, other| if other.0.clear < one.0.clear { other } else { one });
        let Some((one, voted, phrase)) = worst else { return "nothing is measured".to_owned() };
        if one.population == Population::Sticky && one.buckets.is_some() {
            format!("{} people seen, {voted} {phrase}", self.people.canary)
        } else {
            let canary = one.total.canary;
            format!("{} requests seen, {} {phrase}", canary.at_risk, canary.events)
        }
    }

    fn describe_alarm(&self, plan: &Plan) -> String {
        let all = self.metrics.iter().zip(&plan.metrics).flat_map(|(report, metric)| {
            report.populations.iter().map(move |one| (one, report.voted, metric.phrase.as_str()))
        });
        let worst = all.max_by(|one, other| {
            let evidence = |alarm: Option<f64>| alarm.unwrap_or(f64::NEG_INFINITY);
            evidence(one.0.alarm).total_cmp(&evidence(other.0.alarm))
        });
        let Some((one, voted, phrase)) = worst else { return "alarm".to_owned() };
        let total = one.total;
        let sides = match one.population {
            Population::Sticky => format!(
                "{} of {} people {phrase}, and {} of {} on stable",
                voted.canary, self.people.canary, voted.stable, self.people.stable
            ),
            Population::Dealt => format!(
                "{} of {} requests {phrase}, and {} of {} on stable",
                total.canary.events,
                total.canary.at_risk,
                total.stable.events,
                total.stable.at_risk
            ),
        };
        let alpha = percent(plan.alpha.value());
        format!(
            "alarm: {sides}; a canary that is no worse shows this in at most {alpha} % of rollouts"
        )
    }
}

/// The share of a weight in hundredths of a percent.
fn share_of(weight: u16) -> f64 {
    f64::from(weight) / 10_000.0
}

/// A share in percent, as short as it can be written.
fn percent(share: f64) -> String {
    let rounded = format!("{:.4}", share * 100.0);
    rounded.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// `about 40 minutes`.
fn duration(seconds: u64) -> String {
    match (seconds.div_ceil(60), seconds.div_ceil(3600), seconds.div_ceil(86_400)) {
        (..=1, ..) => "about a minute".to_owned(),
        (minutes @ ..=120, ..) => format!("about {minutes} minutes"),
        (_, hours @ ..=48, _) => format!("about {hours} hours"),
        (.., days @ ..=30) => format!("about {days} days"),
        _ => "more than a month".to_owned(),
    }
}

// === impl Population ===

impl fmt::Display for Population {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sticky => "people",
            Self::Dealt => "requests",
        })
    }
}
