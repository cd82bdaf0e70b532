//! The metrics of rollouts, in Prometheus' text format.
//!
//! Series with the names of a service and an environment exist for open rollouts alone, so that
//! there are never more of them than those.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use prometheus::core::Collector;
use prometheus::{GaugeVec, IntCounterVec, Opts, Registry, TextEncoder};

use crate::analysis::Verdict;
use crate::model::Placement;
use crate::rollout::{Cause, Rollout, Stage};

/// The labels of a rollout.
const PLACEMENT: [&str; 2] = ["environment", "service"];
/// 100 %, in hundredths of a percent.
const ALL: f64 = 10_000.0;

/// The metrics of rollouts since the start of the builder.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    open: BTreeMap<Placement, Open>,
    /// By verdict.
    looks: BTreeMap<&'static str, u64>,
    /// By outcome.
    closed: BTreeMap<&'static str, u64>,
}

/// An open rollout.
#[derive(Debug)]
struct Open {
    stage: &'static str,
    weight: u16,
    has_question: bool,
    has_problem: bool,
}

// === impl Metrics ===

impl Metrics {
    /// Exposes an open rollout as it is, and removes one that is closed.
    pub(crate) fn observe(&self, placement: &Placement, state: &Rollout, has_problem: bool) {
        let mut counts = self.counts();
        if state.is_open() {
            let open = Open {
                stage: state.stage.name(),
                weight: state.weight(),
                has_question: state.question.is_some(),
                has_problem,
            };
            counts.open.insert(placement.clone(), open);
        } else {
            counts.open.remove(placement);
        }
    }

    /// Counts a look that was recorded.
    pub(crate) fn count_look(&self, verdict: Verdict) {
        let verdict = match verdict {
            Verdict::Alarm => "alarm",
            Verdict::Clear => "clear",
            Verdict::Hold(_) => "hold",
        };
        *self.counts().looks.entry(verdict).or_default() += 1;
    }

    /// Counts a rollout that was closed at this stage.
    pub(crate) fn count_closed(&self, stage: &Stage) {
        let outcome = match stage {
            Stage::Promoted => "promoted",
            Stage::RolledBack { cause: Cause::Alarm(_) } => "alarm",
            Stage::RolledBack { cause: Cause::Gate(_) } => "gate",
            Stage::RolledBack { cause: Cause::NotReady(_) } => "notReady",
            Stage::RolledBack { cause: Cause::Person(_) } => "person",
            Stage::RolledBack { cause: Cause::PinnedOut } => "pinnedOut",
            Stage::RolledBack { cause: Cause::Superseded(_) } => "superseded",
            _ => return,
        };
        *self.counts().closed.entry(outcome).or_default() += 1;
    }

    /// All samples.
    ///
    /// # Errors
    /// They cannot be written.
    pub fn text(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry()?.gather())
    }

    fn registry(&self) -> prometheus::Result<Registry> {
        let registry = Registry::new();
        let counts = self.counts();
        let gauge = |name: &str, help: &str, labels: &[&str]| {
            registered(&registry, GaugeVec::new(Opts::new(name, help), labels)?)
        };
        let stage = gauge(
            "portcullis_rollout_stage",
            "Constant 1 for each open rollout, labeled by its stage.",
            &["environment", "service", "stage"],
        )?;
        let weight = gauge(
            "portcullis_rollout_weight_ratio",
            "Share of the traffic that the canary of an open rollout gets, from 0 to 1.",
            &PLACEMENT,
        )?;
        let question = gauge(
            "portcullis_rollout_question",
            "Whether an open rollout waits for a person to decide: 1 or 0.",
            &PLACEMENT,
        )?;
        let problem = gauge(
            "portcullis_rollout_problem",
            "Whether something keeps an open rollout from reading or acting: 1 or 0.",
            &PLACEMENT,
        )?;
        for (Placement { service, environment }, open) in &counts.open {
            let labels = [environment.as_str(), service.as_str()];
            stage.with_label_values(&[labels.as_slice(), &[open.stage]].concat()).set(1.0);
            weight.with_label_values(&labels).set(f64::from(open.weight) / ALL);
            question.with_label_values(&labels).set(f64::from(u8::from(open.has_question)));
            problem.with_label_values(&labels).set(f64::from(u8::from(open.has_problem)));
        }
        let looks = Opts::new(
            "portcullis_rollout_looks_total",
            "Looks at canaries, by verdict: `alarm`, `clear` or `hold`.",
        );
        let closed = Opts::new(
            "portcullis_rollouts_closed_total",
            "Rollouts that were closed, by outcome: `promoted`, or the cause for which the release was \
             taken back.",
        );
        for (opts, label, counts) in
            [(looks, "verdict", &counts.looks), (closed, "outcome", &counts.closed)]
        {
            let counter = registered(&registry, IntCounterVec::new(opts, &[label])?)?;
            counts.iter().for_each(|(value, count)| {
                counter.with_label_values(&[*value]).inc_by(*count);
            });
        }
        Ok(registry)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn registered<C: Collector + Clone + 'static>(
    registry: &Registry,
    collector: C,
) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::analysis::Hold;
    use crate::model::Time;
    use crate::rollout::{Settings, Split};

    #[test]
    fn an_open_rollout_has_series_and_a_closed_one_is_counted() {
        let metrics = Metrics::default();
        let placement =
            Placement { service: "web".parse().unwrap(), environment: "dev".parse().unwrap() };
        let mut state = Rollout::new(Settings::default(), Time(0));
        metrics.observe(&placement, &state, false);
        state.stage = Stage::Watching { step: 0, since: Time(1) };
        state.split = Some(Split { weight: 1_000, generation: 1 });
        state.question = Some("decide".to_owned());
        metrics.observe(&placement, &state, true);
        metrics.count_look(Verdict::Hold(Hold::Undecided));
        let text = metrics.text().unwrap();
        let labels = "environment=\"dev\",service=\"web\"";
        for line in [
            &*format!("portcullis_rollout_stage{{{labels},stage=\"watching\"}} 1"),
            &format!("portcullis_rollout_weight_ratio{{{labels}}} 0.1"),
            &format!("portcullis_rollout_question{{{labels}}} 1"),
            &format!("portcullis_rollout_problem{{{labels}}} 1"),
            "portcullis_rollout_looks_total{verdict=\"hold\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        assert!(!text.contains("scaling"), "the stage before is gone: {text}");
        state.stage = Stage::RolledBack { cause: Cause::Alarm("worse".to_owned()) };
        metrics.observe(&placement, &state, false);
        metrics.count_closed(&state.stage);
        let text = metrics.text().unwrap();
        assert!(!text.contains("service="), "{text}");
        assert!(text.contains("portcullis_rollouts_closed_total{outcome=\"alarm\"} 1"), "{text}");
    }

    /// Compares the table in `docs/rollouts.md` with the metrics.
    #[test]
    fn the_reference_has_every_metric() {
        let docs = include_str!("../../docs/rollouts.md");
        let metrics = Metrics::default();
        metrics.count_look(Verdict::Clear);
        metrics.count_closed(&Stage::Promoted);
        let placement =
            Placement { service: "web".parse().unwrap(), environment: "dev".parse().unwrap() };
        metrics.observe(&placement, &Rollout::new(Settings::default(), Time(0)), false);
        let families = metrics.registry().unwrap().gather();
        assert_eq!(families.len(), 6);
        for family in families {
            let kind = format!("{:?}", family.get_field_type()).to_lowercase();
            let labels = family.get_metric()[0].get_label().iter().map(|label| label.name());
            let labels: Vec<String> = labels.map(|name| format!("`{name}`")).collect();
            let row = format!(
                "| `{}` | {kind} | {} | {} |",
                family.name(),
                labels.join(", "),
                family.help()
            );
            assert!(docs.contains(&row), "docs/rollouts.md has not: {row}");
        }
    }
}
