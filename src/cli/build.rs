//! `portcullis build`: builds of repositories.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use http::Method;
use portcullis_release::api::{BuildDetails, BuildLog, NewBuild, NewCancellation};
use portcullis_release::model::{BuildId, CommitId, RepositoryName};
use portcullis_release::store::{Build as Recorded, BuildState, BuildTarget, TargetState};

use super::builder_api::{BuilderApi, age};
use super::format::{Format, FormatArgs};
use super::output::{self, printable_lines};
use super::problems::Failure;
use super::table;

/// The first digits of a commit that are shown to people.
const SHORT: usize = 12;
/// How often a log that is followed is read.
const POLLED_EVERY: Duration = Duration::from_millis(500);

/// List, show and cancel builds
#[derive(Debug, Args)]
pub(super) struct Build {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Cancel(Cancel),
}

/// List the builds of a repository, the newest first
#[derive(Debug, Args)]
struct List {
    /// Repository
    repository: RepositoryName,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=50))]
    limit: u32,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show a build, and what became of each of its images
#[derive(Debug, Args)]
struct Show {
    /// Build, such as shop.17
    build: BuildId,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Cancel a build that waits or runs
///
/// All builds of its commit are cancelled. The next push is built.
#[derive(Debug, Args)]
struct Cancel {
    /// Build, such as shop.17
    build: BuildId,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    api: BuilderApi,
}

/// Build a commit of a repository, and print the name of the build
///
/// Its releases are recorded, and not deployed. A commit that is built already is built again only
/// where its inputs differ from those of the last release.
#[derive(Debug, Args)]
pub(super) struct Request {
    /// Repository
    repository: RepositoryName,
    /// Commit of its branch, with all its digits; by default the newest one
    #[arg(long)]
    commit: Option<CommitId>,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    api: BuilderApi,
}

/// Print the log of a build
///
/// With --follow, exits with 1 if the build does not succeed.
#[derive(Debug, Args)]
pub(super) struct Logs {
    /// Build, such as shop.17
    build: BuildId,
    /// Print what is added until the build has ended
    #[arg(short, long)]
    follow: bool,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Build ===

impl Build {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run()?,
            Command::Show(command) => command.run()?,
            Command::Cancel(command) => command.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/builds?repository={}&limit={}", self.repository, self.limit);
        let read = || self.api.page::<Recorded>(&path);
        let names =
            |builds: &Vec<Recorded>| builds.iter().map(|build| build.id.to_string()).collect();
        self.format.show(read, names, |builds| text(builds))
    }
}

// === impl Show ===

impl Show {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/builds/{}", self.build);
        let read = || self.api.get::<BuildDetails>(&path);
        let names = |details: &BuildDetails| vec![details.build.id.to_string()];
        self.format.show(read, names, |details| {
            let build = text(std::slice::from_ref(&details.build));
            let targets = targets_text(&details.targets);
            if targets.is_empty() { build } else { format!("{build}\n{targets}") }
        })
    }
}

// === impl Cancel ===

impl Cancel {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/builds/{}/cancellations", self.build);
        self.api.change(Method::POST, &path, &NewCancellation { reason: self.reason })?;
        output::write(&format!("{}: it will be cancelled\n", self.build))
    }
}

// === impl Request ===

impl Request {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { repository, commit, reason, output, api } = self;
        let build: Recorded =
            api.post("/api/v1/builds", &NewBuild { repository, commit, reason })?;
        let names = |build: &Recorded| vec![build.id.to_string()];
        output::write(&output.render(&build, names, |build| format!("{}\n", build.id))?)
    }
}

// === impl Logs ===

impl Logs {
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no runtime between two reads, and the API has no events to wait for"
    )]
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let mut from = 0;
        loop {
            let path = format!("/api/v1/builds/{}/log?from={from}", self.build);
            let part: BuildLog = self.api.get(&path)?;
            output::write(&printable_lines(&part.text.replace('\t', "    ")))?;
            let has_more = part.next > from;
            from = part.next;
            if part.is_complete || (!self.follow && !has_more) {
                break;
            }
            if !has_more {
                std::thread::sleep(POLLED_EVERY);
            }
        }
        if !self.follow {
            return Ok(ExitCode::SUCCESS);
        }
        let details: BuildDetails = self.api.get(&format!("/api/v1/builds/{}", self.build))?;
        let is_success = details.build.state == BuildState::Succeeded;
        Ok(if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn text(builds: &[Recorded]) -> String {
    let header = ["BUILD", "COMMIT", "STATE", "BY", "AGE", "REASON"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(builds.iter().map(|build| {
        let reason = match &build.state {
            BuildState::Superseded { superseded_by } => {
                format!("by {}", short(superseded_by.as_str()))
            }
            _ => build.reason.clone().unwrap_or_default(),
        };
        vec![
            build.id.to_string(),
            short(build.commit.as_str()),
            state(&build.state).to_owned(),
            build.created_by.clone(),
            age(build.created_at),
            output::printable(&reason),
        ]
    }));
    table::format(&rows)
}

fn targets_text(targets: &[BuildTarget]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    let header = ["SERVICE", "STATE", "RELEASE", "IMAGE", "NOTE"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(targets.iter().map(|target| {
        let since = target.unchanged_since.as_ref().map(|it| format!("unchanged since {it}"));
        let deployed = target.autopushed.as_ref().map(|it| format!("deployed: {it}"));
        let waits = target.autopush.as_ref().map(|it| format!("to be deployed to {it}"));
        let notes = [target.problem.clone(), since, deployed, waits];
        let state = match target.state {
            TargetState::Building => "building",
            TargetState::Pushed => "pushed",
            TargetState::Released => "released",
            TargetState::Unchanged => "unchanged",
            TargetState::Failed => "failed",
        };
        vec![
            target.service.to_string(),
            state.to_owned(),
            target.release.as_ref().map(ToString::to_string).unwrap_or_default(),
            target.image.clone().unwrap_or_default(),
            output::printable(&notes.into_iter().flatten().collect::<Vec<_>>().join("; ")),
        ]
    }));
    table::format(&rows)
}

fn state(state: &BuildState) -> &'static str {
    match state {
        BuildState::Waiting => "waiting",
        BuildState::Running => "running",
        BuildState::Succeeded => "succeeded",
        BuildState::Failed => "failed",
        BuildState::Superseded { .. } => "superseded",
        BuildState::Cancelled => "cancelled",
    }
}

fn short(digits: &str) -> String {
    digits.chars().take(SHORT).collect()
}
