//! `portcullis env`: environments, and what runs in them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use portcullis_release::api::{EnvironmentStatus, FreezeChange, Page};
use portcullis_release::model::EnvironmentName;

use super::builder_api::BuilderApi;
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// List, freeze and thaw environments
#[derive(Debug, Args)]
pub(super) struct Env {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    /// Freeze an environment: it refuses deployments and promotions, never rollbacks
    Freeze(Change),
    /// End the freeze of an environment
    Thaw(Change),
}

/// List environments, their services and what runs
#[derive(Debug, Args)]
struct List {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    api: BuilderApi,
}

#[derive(Debug, Args)]
struct Change {
    /// Environment
    environment: EnvironmentName,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Env ===

impl Env {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run()?,
            Command::Freeze(change) => change.send(true)?,
            Command::Thaw(change) => change.send(false)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let page: Page<EnvironmentStatus> = self.api.get("/api/v1/environments")?;
        if self.output == Output::Json {
            return output::write_json(&page.items);
        }
        let header = ["ENVIRONMENT", "STATE", "SERVICE", "RUNNING", "PINNED"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        for environment in page.items {
            let state = if environment.frozen.is_some() { "frozen" } else { "open" };
            let name = environment.name.to_string();
            if environment.services.is_empty() {
                rows.push(vec![name.clone(), state.to_owned()]);
            }
            rows.extend(environment.services.into_iter().map(|service| {
                let text = |release: Option<_>| {
                    release.map_or_else(String::new, |id: portcullis_release::model::ReleaseId| {
                        id.to_string()
                    })
                };
                vec![
                    name.clone(),
                    state.to_owned(),
                    service.placement.service.to_string(),
                    text(service.running),
                    text(service.pinned),
                ]
            }));
        }
        output::write(&table::format(&rows))
    }
}

// === impl Change ===

impl Change {
    fn send(self, frozen: bool) -> Result<(), Failure> {
        let path = format!("/api/v1/environments/{}", self.environment);
        let change = FreezeChange { frozen, reason: self.reason };
        self.api.change(Method::PUT, &path, &change)
    }
}
