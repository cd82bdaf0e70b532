//! Reports problems to the owners of resources: in the log, and as Kubernetes [`events`].

pub mod events;
mod log_budget;
pub mod notice_queue;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use self::log_budget::LogBudget;
use self::notice_queue::NoticeQueue;
use crate::model::Origin;
use crate::problem::{Problem, Severity};

/// A notice to the owner of a resource, reported once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether it is a warning; else something that failed before has succeeded.
    pub warns: bool,
    /// Why, as one CamelCase word.
    pub reason: &'static str,
    /// The action that was attempted, as one word.
    pub action: &'static str,
    /// The resource.
    pub origin: Origin,
    /// The message, with how to fix it.
    pub note: String,
}

/// Reports problems when they appear and when they are resolved.
#[derive(Debug, Default)]
pub struct Reporter {
    reported: BTreeSet<Problem>,
    events: Option<NoticeQueue>,
    log: LogBudget,
}

/// Differences that [`Reporter::report`] found since the last report.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Problems that are new.
    pub new: Vec<Problem>,
    /// Problems that are resolved.
    pub resolved: Vec<Problem>,
}

// === impl Reporter ===

impl Reporter {
    /// Also adds new problems to `events`.
    #[must_use]
    pub fn with_events(events: NoticeQueue) -> Self {
        Self { events: Some(events), ..Self::default() }
    }

    /// Reports at `now` what is new in `problems`, which are all current ones, and what is resolved.
    /// The log has a bounded number of lines about one Namespace.
    pub fn report(&mut self, problems: &[Problem], now: Instant) -> Changes {
        let current: BTreeSet<Problem> = problems.iter().cloned().collect();
        let new: Vec<Problem> = current.difference(&self.reported).cloned().collect();
        let resolved: Vec<Problem> = self.reported.difference(&current).cloned().collect();
        self.reported = current;
        for (namespace, lines) in self.log.expire(now) {
            tracing::warn!(%namespace, lines, "too many changes of problems: lines were left out; `portcullis routes` shows the current problems");
        }
        for problem in &new {
            if self.log.permit(problem.origin.owner(), now) {
                log(problem);
            }
            self.events.iter().for_each(|events| events.push(Notice::from(problem)));
        }
        for Problem { reason, origin, message, .. } in &resolved {
            if self.log.permit(origin.owner(), now) {
                tracing::info!(reason, %origin, "resolved: {message}");
            }
        }
        Changes { new, resolved }
    }
}

/// At most `most` of these problems, sorted: if there are more, as many of each Namespace, so that
/// those of one hide none of others.
pub(crate) fn fair_share(problems: BTreeSet<&Problem>, most: usize) -> Vec<Problem> {
    if problems.len() <= most {
        return problems.into_iter().cloned().collect();
    }
    let mut counts: BTreeMap<&Arc<str>, usize> = BTreeMap::new();
    let mut ranked: Vec<(usize, &Problem)> = Vec::with_capacity(problems.len());
    for problem in problems {
        let count = counts.entry(problem.origin.owner()).or_default();
        *count += 1;
        ranked.push((*count, problem));
    }
    ranked.sort_unstable();
    let kept: BTreeSet<&Problem> =
        ranked.into_iter().take(most).map(|(_, problem)| problem).collect();
    kept.into_iter().cloned().collect()
}

// === impl Notice ===

impl From<&Problem> for Notice {
    fn from(problem: &Problem) -> Self {
        let note = format!("{} ({})", problem.message, problem.help);
        Self {
            warns: true,
            reason: problem.reason,
            action: "Route",
            origin: problem.origin.clone(),
            note,
        }
    }
}

fn log(problem: &Problem) {
    let Problem { severity, reason, origin, message, help } = problem;
    match severity {
        Severity::Error => tracing::error!(reason, %origin, help, "{message}"),
        Severity::Warning => tracing::warn!(reason, %origin, help, "{message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(message: &str) -> Problem {
        let origin =
            Origin { kind: "Service", namespace: "shop".into(), name: "cart".into(), place: None };
        Problem {
            severity: Severity::Error,
            reason: "Broken",
            origin,
            message: message.to_owned(),
            help: "fix it".to_owned(),
        }
    }

    #[test]
    fn a_problem_and_its_resolution_are_reported_once() {
        let (mut reporter, now) = (Reporter::default(), Instant::now());
        assert_eq!(
            reporter.report(&[problem("a"), problem("b")], now).new,
            [problem("a"), problem("b")]
        );
        assert_eq!(reporter.report(&[problem("a"), problem("b")], now), Changes::default());
        assert_eq!(
            reporter.report(&[problem("b"), problem("c")], now),
            Changes { new: vec![problem("c")], resolved: vec![problem("a")] }
        );
    }

    #[test]
    fn new_problems_become_notices() {
        let events = NoticeQueue::default();
        let mut reporter = Reporter::with_events(events.clone());
        reporter.report(&[problem("a")], Instant::now());
        assert_eq!(events.try_pop(), Some(Notice::from(&problem("a"))));
        assert_eq!(events.try_pop(), None);
    }

    #[test]
    fn the_problems_of_one_namespace_hide_none_of_others() {
        let of = |namespace: &str, kind, message: String| {
            let origin =
                Origin { kind, namespace: namespace.into(), name: "shop".into(), place: None };
            Problem { origin, ..problem(&message) }
        };
        let mut all: Vec<Problem> =
            (0..1000).map(|number| of("evil", "Service", format!("{number:04}"))).collect();
        all.push(of("shop", "Service", "z".to_owned()));
        all.push(of("", "Namespace", "z".to_owned()));
        let kept = fair_share(all.iter().collect(), 10);
        assert_eq!(kept.len(), 10);
        assert!(all.iter().skip(1000).all(|problem| kept.contains(problem)));
        assert!(kept.is_sorted());
        assert_eq!(fair_share(all.iter().collect(), 2000).len(), all.len());
    }
}
