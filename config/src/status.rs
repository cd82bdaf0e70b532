//! Reports problems to the owners of resources: in the log, and as Kubernetes [`events`].

pub mod events;

use std::collections::BTreeSet;

use tokio::sync::mpsc;

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
    events: Option<mpsc::Sender<Notice>>,
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
    /// Also sends new problems to `events`; when it is full, they are only logged.
    #[must_use]
    pub fn with_events(events: mpsc::Sender<Notice>) -> Self {
        Self { reported: BTreeSet::new(), events: Some(events) }
    }

    /// Reports what is new in `problems`, which are all current ones, and what is resolved.
    pub fn report(&mut self, problems: &[Problem]) -> Changes {
        let current: BTreeSet<Problem> = problems.iter().cloned().collect();
        let new: Vec<Problem> = current.difference(&self.reported).cloned().collect();
        let resolved: Vec<Problem> = self.reported.difference(&current).cloned().collect();
        self.reported = current;
        for problem in &new {
            log(problem);
            // A bounded queue: a flood of problems must not become a flood of requests to the API
            // server.
            self.events.iter().for_each(|events| drop(events.try_send(Notice::from(problem))));
        }
        for Problem { reason, origin, message, .. } in &resolved {
            tracing::info!(reason, %origin, "resolved: {message}");
        }
        Changes { new, resolved }
    }
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
        let mut reporter = Reporter::default();
        assert_eq!(
            reporter.report(&[problem("a"), problem("b")]).new,
            [problem("a"), problem("b")]
        );
        assert_eq!(reporter.report(&[problem("a"), problem("b")]), Changes::default());
        assert_eq!(
            reporter.report(&[problem("b"), problem("c")]),
            Changes { new: vec![problem("c")], resolved: vec![problem("a")] }
        );
    }

    #[test]
    fn a_full_queue_of_events_does_not_block() {
        let (sender, mut receiver) = mpsc::channel(1);
        Reporter::with_events(sender).report(&[problem("a"), problem("b")]);
        assert_eq!(receiver.try_recv(), Ok(Notice::from(&problem("a"))));
        assert!(receiver.try_recv().is_err());
    }
}
