//! `portcullis rollout`: releases that get traffic step by step.

mod view;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use portcullis_config::snapshot::split::percent;
use portcullis_release::api::{NewOrder, RolloutDetails, RolloutStatus};
use portcullis_release::model::{DeploymentId, EnvironmentName, ServiceName};
use portcullis_release::rollout::{Order, Stage};

use super::builder_api::{BuilderApi, age};
use super::format::{Format, FormatArgs};
use super::output;
use super::problems::Failure;
use super::{table, timeout};

/// How often a rollout is looked at.
const POLLED_EVERY: Duration = Duration::from_secs(1);
/// The exit code if a rollout is still open when the wait ends.
const STILL_OPEN: u8 = 3;

/// List, watch and steer rollouts
///
/// A release whose template declares a rollout gets traffic step by step, and is taken back by itself
/// if it is worse than the one that runs.
#[derive(Debug, Args)]
pub(super) struct Rollout {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Status(Status),
    /// Pause a rollout: it does not go forward, and still goes back on an alarm
    Pause(Change),
    /// Resume a rollout: after a pause, at a manual step, or with a weight that someone else has set
    Resume(Change),
    /// Skip the step that is watched, without evidence for it
    Skip(Change),
    /// Abort a rollout: the traffic goes back at once, and the release is pinned out
    Abort(Change),
    /// Promote a release now, without further evidence; an alarm does not take it back any more
    Promote(Change),
}

/// List the last rollouts, the newest first
#[derive(Debug, Args)]
struct List {
    /// Only those of one service
    service: Option<ServiceName>,
    /// Only those in one environment
    #[arg(long = "in", value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentName>,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Selects a rollout.
#[derive(Debug, Args)]
struct Selected {
    /// Service, or rollout, such as web.production.7
    #[arg(value_name = "SERVICE|ROLLOUT")]
    name: String,
    /// Environment of the service, whose last rollout is meant
    #[arg(long = "in", value_name = "ENVIRONMENT")]
    environment: Option<EnvironmentName>,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show a rollout: its steps, both sides' numbers, the evidence, and what an abort would do
#[derive(Debug, Args)]
struct Status {
    #[command(flatten)]
    selected: Selected,
    /// Print again after each change, until the rollout is closed
    #[arg(short, long)]
    watch: bool,
    /// Wait until it is closed; the exit code is 0 if the release was promoted, 1 if it was taken
    /// back, and 3 if it is still open after --timeout
    #[arg(long, conflicts_with = "watch")]
    wait: bool,
    /// Longest wait, such as 90m
    #[arg(long, value_name = "DURATION", requires = "wait", value_parser = timeout::parse)]
    timeout: Option<Duration>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Debug, Args)]
struct Change {
    #[command(flatten)]
    selected: Selected,
    /// Reason, for the audit log
    #[arg(long)]
    reason: String,
}

// === impl Rollout ===

impl Rollout {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run(),
            Command::Status(command) => command.run(),
            Command::Pause(change) => change.send(Order::Pause),
            Command::Resume(change) => change.send(Order::Resume),
            Command::Skip(change) => change.send(Order::Skip),
            Command::Abort(change) => change.send(Order::Abort),
            Command::Promote(change) => change.send(Order::Promote),
        }
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<ExitCode, Failure> {
        let path = list_path(self.service.as_ref(), self.environment.as_ref());
        let read = || self.api.page::<RolloutStatus>(&path);
        let names = |rollouts: &Vec<RolloutStatus>| {
            rollouts.iter().map(|rollout| rollout.id.to_string()).collect()
        };
        self.format.show(read, names, |rollouts| text(rollouts))?;
        Ok(ExitCode::SUCCESS)
    }
}

fn list_path(service: Option<&ServiceName>, environment: Option<&EnvironmentName>) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service.as_str());
    }
    if let Some(environment) = environment {
        query.append_pair("environment", environment.as_str());
    }
    format!("/api/v1/rollouts?{}", query.finish())
}

fn text(rollouts: &[RolloutStatus]) -> String {
    let header = ["ROLLOUT", "RELEASE", "STABLE", "STAGE", "WEIGHT", "AGE", "STATUS"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(rollouts.iter().map(|rollout| {
        vec![
            rollout.id.to_string(),
            rollout.release.to_string(),
            rollout.stable.as_ref().map_or_else(String::new, ToString::to_string),
            rollout.stage.name().to_owned(),
            format!("{} %", percent(rollout.weight.into())),
            age(rollout.created_at),
            rollout.question.as_ref().unwrap_or(&rollout.sentence).clone(),
        ]
    }));
    table::format(&rows)
}

// === impl Selected ===

impl Selected {
    /// The identifier: as it is written, or that of the last rollout of a service.
    fn find(&self) -> Result<DeploymentId, Failure> {
        if self.environment.is_none()
            && let Ok(id) = self.name.parse()
        {
            return Ok(id);
        }
        let help = "write SERVICE --in ENVIRONMENT, or a rollout such as web.production.7, as \
                    `portcullis rollout list` prints it";
        let service = self.name.parse::<ServiceName>().map_err(|_| {
            Failure::with_help(format!("{:?} is neither a service nor a rollout", self.name), help)
        })?;
        let Some(environment) = &self.environment else {
            return Err(Failure::with_help("the environment is missing", help));
        };
        let path = list_path(Some(&service), Some(environment));
        let found = self.api.page::<RolloutStatus>(&path)?.into_iter().next();
        found.map(|found| found.id).ok_or_else(|| {
            let message = format!("{service} has had no rollout in {environment}");
            Failure::with_help(message, "its releases are deployed at once: see docs/rollouts.md")
        })
    }

    fn read(&self, id: &DeploymentId) -> Result<RolloutDetails, Failure> {
        self.api.get(&format!("/api/v1/rollouts/{id}"))
    }
}

// === impl Status ===

impl Status {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no runtime between two reads of the command line"
    )]
    fn run(self) -> Result<ExitCode, Failure> {
        let id = self.selected.find()?;
        let start = Instant::now();
        let mut shown = None;
        loop {
            let details = self.selected.read(&id)?;
            let is_open = details.status.is_open;
            let is_late = self.timeout.is_some_and(|timeout| start.elapsed() >= timeout);
            let is_last = !is_open || is_late || !(self.watch || self.wait);
            let is_new = shown != Some((details.status.version, details.looks.len()));
            if is_last || (self.watch && is_new) {
                let names = |details: &RolloutDetails| vec![details.status.id.to_string()];
                output::write(&self.output.render(&details, names, view::text)?)?;
                shown = Some((details.status.version, details.looks.len()));
            }
            if is_last {
                return Ok(self.exit_code(&details.status.stage));
            }
            sleep(POLLED_EVERY);
        }
    }

    fn exit_code(&self, stage: &Stage) -> ExitCode {
        match stage {
            _ if !self.wait => ExitCode::SUCCESS,
            Stage::Promoted => ExitCode::SUCCESS,
            Stage::RolledBack { .. } => ExitCode::FAILURE,
            _ => ExitCode::from(STILL_OPEN),
        }
    }
}

// === impl Change ===

impl Change {
    fn send(self, order: Order) -> Result<ExitCode, Failure> {
        let id = self.selected.find()?;
        let request = NewOrder { order, reason: self.reason };
        let path = format!("/api/v1/rollouts/{id}/orders");
        let status: RolloutStatus = self.selected.api.post(&path, &request)?;
        output::write(&format!("{id}: {} recorded\n", order.name()))?;
        let undo = match order {
            Order::Pause => "`portcullis rollout resume` goes on".to_owned(),
            Order::Resume | Order::Skip | Order::Promote => {
                format!("`portcullis rollout abort` would do this: {}", status.if_aborted)
            }
            Order::Abort => format!(
                "`portcullis unpin {} --in {}` allows {} again",
                id.placement.service, id.placement.environment, status.release
            ),
        };
        output::report(&format!("{undo}\n"))?;
        Ok(ExitCode::SUCCESS)
    }
}
