//! `portcullis rollback`: returns a service to a release that ran before.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::api::NewRollback;
use portcullis_release::model::{EnvironmentName, ReleaseId, ServiceName};

use super::deployment::DeploymentArgs;
use super::problems::Failure;

/// Roll a service back to a release that ran in the environment before
///
/// Works in a frozen environment, too. What was rolled back is pinned out: it is not deployed again
/// until a newer release is, or until `portcullis unpin`.
#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// Service
    service: ServiceName,
    /// Environment
    #[arg(long = "in", value_name = "ENVIRONMENT")]
    environment: EnvironmentName,
    /// Release, such as web.16; by default the one before
    #[arg(long)]
    to: Option<ReleaseId>,
    /// Roll back even across releases that are marked as ones that cannot be undone
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

// === impl Rollback ===

impl Rollback {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let request = NewRollback {
            service: self.service,
            environment: self.environment,
            release: self.to,
            force: self.force,
            reason: self.deployment.reason.clone(),
        };
        self.deployment.start("/api/v1/rollbacks", &request)
    }
}
