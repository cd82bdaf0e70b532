//! `portcullis deploy`: puts a release into an environment.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::api::{NewDeployment, NewDryRun};
use portcullis_release::model::{EnvironmentName, ReleaseId};

use super::deployment::DeploymentArgs;
use super::problems::Failure;

/// Deploy a release to an environment
#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// Release, such as web.17
    release: ReleaseId,
    /// Environment
    #[arg(long, value_name = "ENVIRONMENT")]
    to: EnvironmentName,
    /// Show what would change, let the cluster check it, and change nothing
    #[arg(long, conflicts_with_all = ["wait", "reason"])]
    dry_run: bool,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

// === impl Deploy ===

impl Deploy {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        if self.dry_run {
            let request = NewDryRun { release: self.release, environment: self.to };
            return self.deployment.dry_run(&request);
        }
        let request = NewDeployment {
            release: self.release,
            environment: self.to,
            reason: self.deployment.reason.clone(),
        };
        self.deployment.start("/api/v1/deployments", &request)
    }
}
