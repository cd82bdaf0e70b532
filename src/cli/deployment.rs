//! What the commands that start a deployment have in common.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::api::{DryRun, NewDryRun};
use portcullis_release::state::State;
use portcullis_release::store::Deployment;
use serde::Serialize;

use super::builder_api::BuilderApi;
use super::differences;
use super::format::Format;
use super::output::{self, printable_lines};
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
    output: Format,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl DeploymentArgs ===

impl DeploymentArgs {
    /// Sends the request, and follows the deployment if it is asked to.
    pub(super) fn start(&self, path: &str, request: &impl Serialize) -> Result<ExitCode, Failure> {
        let mut deployment: Deployment = self.api.post(path, request)?;
        if self.output == Format::Text {
            output::write(&format!("{}: {}\n", deployment.id, deployment.release))?;
        }
        if self.wait {
            deployment = self.api.wait(&deployment.id, |deployment| self.report(deployment))?;
        }
        if self.output != Format::Text {
            let names = |deployment: &Deployment| vec![deployment.id.to_string()];
            output::write(&self.output.render(&deployment, names, |_| String::new())?)?;
        }
        Ok(match deployment.state {
            State::Failed { .. } | State::Superseded => ExitCode::FAILURE,
            _ => ExitCode::SUCCESS,
        })
    }

    /// Prints what the deployment would change; the exit code is 1 if the cluster rejects it.
    pub(super) fn dry_run(&self, request: &NewDryRun) -> Result<ExitCode, Failure> {
        let found: DryRun = self.api.post("/api/v1/dry-runs", request)?;
        let names = |found: &DryRun| differences::names(&found.diff);
        output::write(&self.output.render(&found, names, |found| differences::text(&found.diff))?)?;
        match found.problem {
            None => Ok(ExitCode::SUCCESS),
            Some(problem) => Err(Failure::new(printable_lines(&problem))),
        }
    }

    fn report(&self, deployment: &Deployment) -> Result<(), Failure> {
        if self.output != Format::Text {
            return Ok(());
        }
        let reason = deployment.state.reason().map(|reason| format!(": {reason}"));
        // It may quote the log of a pod, which must not control a terminal.
        let reason = printable_lines(&reason.unwrap_or_default());
        if deployment.state == State::RollingOut {
            let id = &deployment.id;
            output::report(&format!("`portcullis rollout status {id} --watch` shows more\n"))?;
        }
        output::write(&format!("{}{reason}\n", deployment.state.name()))
    }
}
