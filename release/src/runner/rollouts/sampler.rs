//! Evaluates the service's own query beside the turns of its rollout: no turn waits for Prometheus.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

use crate::model::Time;
use crate::query::{NoValue, Queries, Scope};
use crate::rollout::{Query, QuerySettings, Rollout, Stage};

/// How often it is evaluated, in milliseconds.
const EVERY: u64 = 10_000;
/// The age at which a number says nothing any more.
const MAX_AGE: u64 = 60_000;
/// How often in a row it must be above its limit for an alarm.
const ALARM_AFTER: u32 = 3;

/// The query that is under way.
#[derive(Default)]
pub(super) struct Sampler {
    tasks: JoinSet<Sample>,
    started: Option<Time>,
}

/// When a query was sent, and what it resulted in.
type Sample = (Time, Result<f64, NoValue>);

/// What the last evaluations resulted in, as it is recorded.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Samples {
    /// When the last one was sent.
    at: Option<Time>,
    /// Its number; `None` if it had none.
    value: Option<f64>,
    /// Why it had none.
    blind: Option<String>,
    /// How often in a row it was above its limit.
    above: u32,
}

// === impl Sampler ===

impl Sampler {
    /// Takes what has arrived, and sends the query again if it is time.
    pub(super) fn poll(
        &mut self,
        samples: &mut Samples,
        settings: &QuerySettings,
        queries: &Arc<dyn Queries>,
        scope: &Scope,
        now: Time,
    ) {
        while let Some(joined) = self.tasks.try_join_next() {
            // A task that panicked has no sample: the next one has.
            if let Ok((at, result)) = joined {
                samples.add(at, result, settings.max);
            }
        }
        let is_due = self.started.is_none_or(|at| now.0.saturating_sub(at.0) >= EVERY);
        if is_due && self.tasks.is_empty() {
            self.started = Some(now);
            let (queries, scope, expr) =
                (Arc::clone(queries), scope.clone(), settings.expr.clone());
            self.tasks.spawn(async move { (now, queries.value(&expr, &scope).await) });
        }
    }

    /// Drops the query that is under way: it was of another weight.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }
}

// === impl Samples ===

impl Samples {
    fn add(&mut self, at: Time, result: Result<f64, NoValue>, max: f64) {
        self.at = Some(at);
        (self.value, self.blind) = match result {
            Ok(value) => (Some(value), None),
            Err(why) => (None, Some(why.to_string())),
        };
        self.above = match self.value {
            Some(value) if value > max => self.above.saturating_add(1),
            Some(_) => 0,
            // It is not known to be better.
            None => self.above,
        };
    }

    /// Begins anew: the canary has another weight.
    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// What they say of a rollout.
    pub(super) fn query(&self, settings: &QuerySettings, rollout: &Rollout, now: Time) -> Query {
        let Stage::Watching { since, .. } = rollout.stage else { return Query::Awaited };
        let Some(at) = self.at.filter(|at| *at >= since) else { return Query::Awaited };
        if let Some(why) = &self.blind {
            return Query::Blind(why.clone());
        }
        let age = now.0.saturating_sub(at.0);
        if age > MAX_AGE {
            return Query::Blind(format!("Prometheus has not answered for {} s", age / 1000));
        }
        let Some(value) = self.value.filter(|value| *value > settings.max) else {
            return Query::Within;
        };
        let sentence = format!("the service's query is {value}, and {} is the most", settings.max);
        if self.above >= ALARM_AFTER { Query::Alarm(sentence) } else { Query::Above(sentence) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::Settings;

    #[test]
    fn it_alarms_after_three_numbers_in_a_row_and_old_ones_are_blind() {
        let settings = QuerySettings { expr: "x".to_owned(), max: 0.5 };
        let mut rollout = Rollout::new(Settings::default(), Time(0));
        rollout.stage = Stage::Watching { step: 0, since: Time(1_000) };
        let mut samples = Samples::default();
        let mut say = |at: u64, result| {
            samples.add(Time(at), result, settings.max);
            samples.query(&settings, &rollout, Time(at))
        };
        let above = || "the service's query is 0.7, and 0.5 is the most".to_owned();
        assert_eq!(say(900, Ok(0.1)), Query::Awaited, "it was sent before the weight was set");
        assert_eq!(say(1_000, Ok(0.5)), Query::Within);
        assert_eq!(say(2_000, Ok(0.7)), Query::Above(above()));
        assert_eq!(say(3_000, Ok(0.7)), Query::Above(above()));
        assert_eq!(say(4_000, Ok(0.1)), Query::Within);
        assert_eq!(say(5_000, Ok(0.7)), Query::Above(above()), "it begins anew");
        assert_eq!(say(6_000, Ok(0.7)), Query::Above(above()));
        assert!(matches!(say(7_000, Err(NoValue::Nothing)), Query::Blind(_)));
        assert_eq!(say(8_000, Ok(0.7)), Query::Alarm(above()), "what is unknown is no better");
        let late = samples.query(&settings, &rollout, Time(8_000 + MAX_AGE + 1_000));
        assert_eq!(late, Query::Blind("Prometheus has not answered for 61 s".to_owned()));
        rollout.stage = Stage::Scaling { step: 1, since: Time(9_000) };
        assert_eq!(samples.query(&settings, &rollout, Time(9_000)), Query::Awaited);
    }
}
