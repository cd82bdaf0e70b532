//! `portcullis promote`: puts the release that runs in one environment into another.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::api::NewPromotion;
use portcullis_release::model::{EnvironmentName, ServiceName};

use super::deployment::DeploymentArgs;
use super::problems::Failure;

/// Promote the release that runs in one environment to another
#[derive(Debug, Args)]
pub(super) struct Promote {
    /// Service
    service: ServiceName,
    /// Environment where the release runs
    #[arg(long, value_name = "ENVIRONMENT")]
    from: EnvironmentName,
    /// Environment that it is deployed to
    #[arg(long, value_name = "ENVIRONMENT")]
    to: EnvironmentName,
    #[command(flatten)]
    deployment: DeploymentArgs,
}

// === impl Promote ===

impl Promote {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let request = NewPromotion {
            service: self.service,
            from: self.from,
            to: self.to,
            reason: self.deployment.reason.clone(),
        };
        self.deployment.start("/api/v1/promotions", &request)
    }
}
