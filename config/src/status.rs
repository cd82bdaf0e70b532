//! Tells the owners of resources what is wrong with them: in the log, and as Kubernetes Events.

use std::collections::BTreeSet;

use crate::problem::{Problem, Severity};

/// Tells problems when they come and when they are mended.
#[derive(Debug, Default)]
pub struct Reporter {
    told: BTreeSet<Problem>,
}

// === impl Reporter ===

impl Reporter {
    /// Tells what is new in `problems` and what is no longer in them; these are all that there are.
    pub fn tell(&mut self, problems: &[Problem]) {
        let now: BTreeSet<&Problem> = problems.iter().collect();
        for problem in problems.iter().filter(|problem| !self.told.contains(problem)) {
            log(problem);
        }
        for mended in self.told.iter().filter(|problem| !now.contains(problem)) {
            tracing::info!(reason = mended.reason, origin = %mended.origin, "mended: {}", mended.message);
        }
        self.told = problems.iter().cloned().collect();
    }
}

fn log(problem: &Problem) {
    let Problem { severity, reason, origin, message, help } = problem;
    match severity {
        Severity::Error => tracing::error!(reason, %origin, help, "{message}"),
        Severity::Warning => tracing::warn!(reason, %origin, help, "{message}"),
    }
}
