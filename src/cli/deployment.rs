//! What the commands that start a deployment have in common.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::state::State;
use portcullis_release::store::Deployment;
use serde::Serialize;

use super::builder_api::BuilderApi;
use super::output::{self, Output};
use super::problems::Failure;

/// How a deployment is started and followed.
#[derive(Debug, Args)]
pub(super) struct DeploymentArgs {
    /// Reason, for the audit log
    #[arg(long)]
    pub(super) reason: Option<String>,
    /// Wait until the pods are ready; the exit code is 1 if they do not become ready
    #[arg(long)]
    wait: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl DeploymentArgs ===

impl DeploymentArgs {
    /// Sends the request, and follows the deployment if it is asked to.
    pub(super) fn start(&self, path: &str, request: &impl Serialize) -> Result<ExitCode, Failure> {
        let mut deployment: Deployment = self.api.post(path, request)?;
        if self.output == Output::Text {
            output::write(&format!("{}: {}\n", deployment.id, deployment.release))?;
        }
        if self.wait {
            deployment = self.api.wait(&deployment.id, |deployment| self.report(deployment))?;
        }
        if self.output == Output::Json {
            output::write_json(&deployment)?;
        }
        Ok(match deployment.state {
            State::Failed { .. } | State::Superseded => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        })
    }

    fn report(&self, deployment: &Deployment) -> Result<(), Failure> {
        if self.output == Output::Json {
            return Ok(());
        }
        let reason =
            deployment.state.reason().map(|reason| format!(": {reason}")).unwrap_or_default();
        output::write(&format!("{}{reason}\n", deployment.state.name()))
    }
}
