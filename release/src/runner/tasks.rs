//! The tasks of a runner: at most one for each service in an environment.
//!
//! Each environment gets a [fair share](crate::fair_share) of them, so that none can keep the others
//! from working.

use std::collections::HashMap;

use tokio::task::{Id, JoinSet};

use crate::fair_share::has_place;
use crate::model::Placement;

/// The running tasks. Dropping it ends them.
pub(super) struct Tasks {
    /// The most at the same time; more wait.
    most: usize,
    set: JoinSet<()>,
    busy: HashMap<Id, Placement>,
}

// === impl Tasks ===

impl Tasks {
    /// At most this many.
    pub(super) fn new(most: usize) -> Self {
        Self { most, set: JoinSet::new(), busy: HashMap::new() }
    }

    /// Whether a task for a placement runs.
    pub(super) fn is_busy(&self, placement: &Placement) -> bool {
        self.busy.values().any(|busy| busy == placement)
    }

    /// Starts a task for a placement, unless there are too many or one for it runs.
    pub(super) fn start(
        &mut self,
        placement: &Placement,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        if self.has_place(placement) && !self.is_busy(placement) {
            let id = self.set.spawn(task).id();
            self.busy.insert(id, placement.clone());
        }
    }

    fn has_place(&self, placement: &Placement) -> bool {
        let is_its = |busy: &&Placement| busy.environment == placement.environment;
        has_place(self.most, self.set.len(), self.busy.values().filter(is_its).count())
    }

    /// Waits until a task ends; returns `None` at once if none runs.
    pub(super) async fn ended(&mut self) -> Option<()> {
        let id = match self.set.join_next_with_id().await? {
            Ok((id, ())) => id,
            Err(error) => error.id(),
        };
        self.busy.remove(&id);
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    #[tokio::test]
    async fn an_environment_with_many_open_deployments_leaves_tasks_to_others() {
        let mut tasks = Tasks::new(64);
        let mut started = |environment: &str| {
            let before = tasks.set.len();
            for number in 0..64 {
                let service = format!("web-{number}").parse().unwrap();
                let environment = environment.parse().unwrap();
                tasks.start(&Placement { service, environment }, pending());
            }
            tasks.set.len() - before
        };
        assert_eq!(["dev", "staging", "production"].map(&mut started), [32, 16, 8]);
    }
}
