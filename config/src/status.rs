//! Tells the owners of resources what is wrong with them: in the log, and as Kubernetes [`events`].

pub mod events;

use std::collections::BTreeSet;

use tokio::sync::mpsc;

use crate::model::Origin;
use crate::problem::{Problem, Severity};

/// What the owner of a resource is told once, on the resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Whether something is wrong; else something went well that had not before.
    pub warns: bool,
    /// Why, as one CamelCase word.
    pub reason: &'static str,
    /// What was tried, as one word.
    pub action: &'static str,
    /// The resource.
    pub origin: Origin,
    /// What there is to say, with how to mend it.
    pub note: String,
}

/// Tells problems when they come and when they are mended.
#[derive(Debug, Default)]
pub struct Reporter {
    told: BTreeSet<Problem>,
    events: Option<mpsc::Sender<Notice>>,
}

/// What [`Reporter::tell`] found, compared with the time before.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct News {
    /// Problems that were not there before.
    pub new: Vec<Problem>,
    /// Problems that are no longer there.
    pub mended: Vec<Problem>,
}

// === impl Reporter ===

impl Reporter {
    /// Tells new problems on `events` too; those that find it full are told in the log alone.
    #[must_use]
    pub fn with_events(events: mpsc::Sender<Notice>) -> Self {
        Self { told: BTreeSet::new(), events: Some(events) }
    }

    /// Tells what is new in `problems` and what is no longer in them; these are all that there are.
    pub fn tell(&mut self, problems: &[Problem]) -> News {
        let now: BTreeSet<Problem> = problems.iter().cloned().collect();
        let new: Vec<Problem> = now.difference(&self.told).cloned().collect();
        let mended: Vec<Problem> = self.told.difference(&now).cloned().collect();
        self.told = now;
        for problem in &new {
            log(problem);
            // A bounded queue: a flood of problems must not become a flood of requests to the API
            // server.
            self.events.iter().for_each(|events| drop(events.try_send(Notice::from(problem))));
        }
        for Problem { reason, origin, message, .. } in &mended {
            tracing::info!(reason, %origin, "mended: {message}");
        }
        News { new, mended }
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
            help: "mend it".to_owned(),
        }
    }

    #[test]
    fn a_problem_is_told_once_and_its_end_too() {
        let mut reporter = Reporter::default();
        assert_eq!(reporter.tell(&[problem("a"), problem("b")]).new, [problem("a"), problem("b")]);
        assert_eq!(reporter.tell(&[problem("a"), problem("b")]), News::default());
        assert_eq!(
            reporter.tell(&[problem("b"), problem("c")]),
            News { new: vec![problem("c")], mended: vec![problem("a")] }
        );
    }

    #[test]
    fn more_problems_than_events_can_wait_do_not_block() {
        let (sender, mut receiver) = mpsc::channel(1);
        Reporter::with_events(sender).tell(&[problem("a"), problem("b")]);
        assert_eq!(receiver.try_recv(), Ok(Notice::from(&problem("a"))));
        assert!(receiver.try_recv().is_err());
    }
}
