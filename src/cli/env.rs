//! `portcullis env`: environments, and what runs in them.

mod settings;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use http::Method;
use portcullis_release::api::{EnvironmentDetails, EnvironmentStatus, FreezeChange};
use portcullis_release::model::{EnvironmentName, ReleaseId};
use portcullis_release::store::Deployment;

use super::builder_api::{BuilderApi, age};
use super::format::FormatArgs;
use super::output::printable;
use super::problems::Failure;
use super::table;

/// List, show, configure, freeze and thaw environments
#[derive(Debug, Args)]
pub(super) struct Env {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Settings(settings::Settings),
    Set(settings::Set),
    Unset(settings::Unset),
    /// Freeze an environment: it refuses deployments and promotions, never rollbacks
    Freeze(Change),
    /// End the freeze of an environment
    Thaw(Change),
}

/// List environments, their services and what runs
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show an environment: what runs, and the last deployment of each service
#[derive(Debug, Args)]
struct Show {
    /// Environment
    environment: EnvironmentName,
    #[command(flatten)]
    format: FormatArgs,
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
            Command::Show(command) => command.run()?,
            Command::Settings(command) => command.run()?,
            Command::Set(command) => command.run()?,
            Command::Unset(command) => command.run()?,
            Command::Freeze(change) => change.send(true)?,
            Command::Thaw(change) => change.send(false)?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let read = || self.api.page::<EnvironmentStatus>("/api/v1/environments");
        let names = |environments: &Vec<EnvironmentStatus>| {
            environments.iter().map(|environment| environment.name.to_string()).collect()
        };
        self.format.show(read, names, |environments| text(environments))
    }
}

fn text(environments: &[EnvironmentStatus]) -> String {
    let header = ["ENVIRONMENT", "STATE", "SERVICE", "RUNNING", "PINNED"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for environment in environments {
        let state = if environment.frozen.is_some() { "frozen" } else { "open" };
        let name = environment.name.to_string();
        if environment.services.is_empty() {
            rows.push(vec![name.clone(), state.to_owned()]);
        }
        rows.extend(environment.services.iter().map(|service| {
            vec![
                name.clone(),
                state.to_owned(),
                service.placement.service.to_string(),
                release(service.running.as_ref()),
                release(service.pinned.as_ref()),
            ]
        }));
    }
    table::format(&rows)
}

fn release(id: Option<&ReleaseId>) -> String {
    id.map_or_else(String::new, ToString::to_string)
}

// === impl Show ===

impl Show {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/environments/{}", self.environment);
        let read = || self.api.get::<EnvironmentDetails>(&path);
        let names = |details: &EnvironmentDetails| vec![details.status.name.to_string()];
        self.format.show(read, names, details)
    }
}

fn details(details: &EnvironmentDetails) -> String {
    let frozen = details.status.frozen.as_ref().map_or_else(String::new, |freeze| {
        let reason = printable(&freeze.reason);
        format!("frozen by {} {} ago: {reason}\n", printable(&freeze.frozen_by), age(freeze.at))
    });
    let header =
        ["SERVICE", "RUNNING", "PINNED", "LAST DEPLOYMENT", "STATE", "BY", "AGE", "REASON"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for service in &details.status.services {
        let mut row = vec![
            service.placement.service.to_string(),
            release(service.running.as_ref()),
            release(service.pinned.as_ref()),
        ];
        let is_of_it = |last: &&Deployment| last.id.placement == service.placement;
        if let Some(last) = details.deployments.iter().find(is_of_it) {
            row.extend([
                format!("{} ({})", last.id, last.release),
                last.state.name().to_owned(),
                last.requested_by.clone(),
                age(last.updated_at),
                last.state
                    .reason()
                    .and_then(|reason| reason.lines().next())
                    .unwrap_or_default()
                    .to_owned(),
            ]);
        }
        rows.push(row);
    }
    let settings = details.settings.iter();
    let settings =
        settings.map(|(name, value)| format!("setting {name}: {}\n", settings::value(value)));
    frozen + &settings.collect::<String>() + &table::format(&rows)
}

// === impl Change ===

impl Change {
    fn send(self, frozen: bool) -> Result<(), Failure> {
        let path = format!("/api/v1/environments/{}", self.environment);
        let change = FreezeChange { frozen, reason: self.reason };
        self.api.change(Method::PUT, &path, &change)
    }
}
