//! `portcullis repo`: repositories, and what their commits would build.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use portcullis_release::api::Page;
use portcullis_release::builds::git::Repository;
use portcullis_release::builds::status::{
    CommitProblem, CommitStatus, RecipeStatus, RepositoryDetails, RepositorySummary,
    RequestedFetch, TargetStatus,
};
use portcullis_release::builds::survey::survey;
use portcullis_release::model::RepositoryName;
use portcullis_release::store::Build;
use serde_json::json;

use super::builder_api::{BuilderApi, age};
use super::format::{Format, FormatArgs};
use super::output::{self, printable_lines};
use super::problems::{self, Failure, Snippets};
use super::process::Process;
use super::table;

/// The first digits of a commit or a key that are shown to people.
const SHORT: usize = 12;
/// How long a fetch is waited for: it may take 10 minutes, after others.
const FETCHED_WITHIN: Duration = Duration::from_secs(15 * 60);
/// How long the build of a commit that was fetched is waited for.
const RECORDED_WITHIN: Duration = Duration::from_secs(30);
/// How much of a command is shown to people, in characters.
const MAX_COMMAND: usize = 40;

/// List, show and fetch repositories, and check what their commits would build
#[derive(Debug, Args)]
pub(super) struct Repo {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Show(Show),
    Sync(Sync),
    Check(Check),
}

/// List the repositories that the builder follows
#[derive(Debug, Args)]
struct List {
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show a repository, what its newest commit would build, and every problem
#[derive(Debug, Args)]
struct Show {
    /// Repository
    repository: RepositoryName,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Fetch a repository now
///
/// The builder fetches it in the background; `repo show` shows the result.
///
/// With `--wait`, exits with 1 if it cannot be fetched.
#[derive(Debug, Args)]
struct Sync {
    /// Repository
    repository: RepositoryName,
    /// Wait until it is fetched and its newest commit has a build, and print that build
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    api: BuilderApi,
}

/// List the images that a commit would build, and report every problem with file, line and remedy
///
/// Reads the commit of a repository on this machine, not the files in the folder: what is not
/// committed has no effect. Nothing is built, and nothing of the repository is executed: targets that
/// a query of Bazel would find are not listed, since a query executes code of the repository.
///
/// Exits with 1 if there are errors.
#[derive(Debug, Args)]
struct Check {
    /// Repository, or a folder in it
    #[arg(default_value = ".")]
    path: PathBuf,
    /// Commit, branch or tag
    #[arg(long, default_value = "HEAD")]
    commit: String,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

// === impl Repo ===

impl Repo {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run()?,
            Command::Show(command) => command.run()?,
            Command::Sync(command) => command.run()?,
            Command::Check(command) => return command.run(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let read = || self.api.page::<RepositorySummary>("/api/v1/repositories");
        let names = |repositories: &Vec<RepositorySummary>| {
            repositories.iter().map(|repository| repository.name.to_string()).collect()
        };
        self.format.show(read, names, |repositories| repositories_text(repositories))
    }
}

// === impl Show ===

impl Show {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/repositories/{}", self.repository);
        let read = || self.api.get::<RepositoryDetails>(&path);
        let names = |details: &RepositoryDetails| vec![details.summary.name.to_string()];
        self.format.show(read, names, details_text)
    }
}

// === impl Sync ===

impl Sync {
    fn run(self) -> Result<(), Failure> {
        let Self { repository, wait, api } = self;
        let path = format!("/api/v1/repositories/{repository}");
        let fetches = format!("{path}/fetches");
        let fetch: RequestedFetch = api.post(&fetches, &json!({}))?;
        if !wait {
            return output::write(&format!("{repository}: it will be fetched\n"));
        }
        let (deadline, mut number) = (Instant::now() + FETCHED_WITHIN, fetch.number);
        let fetched = api.poll(&path, |RepositoryDetails { summary, .. }| {
            if Instant::now() > deadline {
                let minutes = FETCHED_WITHIN.as_secs() / 60;
                let text = format!("{repository}: it was not fetched within {minutes} minutes");
                return Err(Failure::new(text));
            }
            // It counts from its start, and a fetch is one of the next two.
            if summary.fetches.saturating_add(2) < number {
                let again: RequestedFetch = api.post(&fetches, &json!({}))?;
                number = again.number;
            }
            Ok(Some(summary).filter(|summary| summary.fetches >= number))
        })?;
        if let Some(problem) = fetched.problem {
            return Err(Failure::new(printable_lines(&format!("{repository}: {problem}"))));
        }
        let Some(commit) = fetched.commit else {
            return Err(Failure::new(format!("{repository}: it has no commit")));
        };
        let deadline = Instant::now() + RECORDED_WITHIN;
        let path = format!("/api/v1/builds?repository={repository}&limit=50");
        let build = api.poll(&path, |page: Page<Build>| {
            let found =
                page.items.into_iter().find(|build| build.commit == commit && !build.is_requested);
            if found.is_none() && Instant::now() > deadline {
                let short = short(commit.as_str());
                let text = format!(
                    "{repository}: {short} has no build: another push has come, or \
                                    this builder builds nothing"
                );
                return Err(Failure::new(text));
            }
            Ok(found)
        })?;
        output::write(&format!("{}\n", build.id))
    }
}

// === impl Check ===

impl Check {
    fn run(self) -> Result<ExitCode, Failure> {
        Process::block_on("repo", async move {
            let repository = Repository::discover(&self.path).await.map_err(Failure::new)?;
            let commit = repository.resolve(&self.commit).await.map_err(Failure::new)?;
            let found = survey(&repository, &commit).await.map_err(Failure::new)?;
            let status = CommitStatus::from(&found);
            let names = |status: &CommitStatus| {
                status.targets.iter().map(|target| target.service.to_string()).collect()
            };
            let text = |status: &CommitStatus| targets_text(&status.targets);
            output::write(&self.output.render(&status, names, text)?)?;
            if matches!(self.output, Format::Text | Format::Name) {
                // The files of the commit may differ from those on the disk.
                problems::print(&found.problems, Snippets::Hidden);
            }
            Ok(if status.errors() > 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        })
    }
}

fn repositories_text(repositories: &[RepositorySummary]) -> String {
    let header = ["REPOSITORY", "BRANCH", "COMMIT", "SINCE", "FETCHED", "TARGETS", "PROBLEM"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(repositories.iter().map(|repository| {
        let problem = match (&repository.problem, repository.errors) {
            (Some(problem), _) => problem.clone(),
            (None, 0) => String::new(),
            (None, errors) => format!("{errors} in the commit"),
        };
        vec![
            repository.name.to_string(),
            repository.branch.to_string(),
            repository.commit.as_ref().map(|commit| short(commit.as_str())).unwrap_or_default(),
            repository.since.map(age).unwrap_or_default(),
            repository.fetched_at.map(age).unwrap_or_default(),
            repository.targets.to_string(),
            problem,
        ]
    }));
    table::format(&rows)
}

fn details_text(details: &RepositoryDetails) -> String {
    let summary = repositories_text(std::slice::from_ref(&details.summary));
    let Some(content) = &details.content else { return summary };
    let problems: String = content.problems.iter().map(problem_text).collect();
    [summary, targets_text(&content.targets), problems]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join("\n")
}

fn targets_text(targets: &[TargetStatus]) -> String {
    if targets.is_empty() {
        return String::new();
    }
    let header = ["SERVICE", "BUILDER", "SOURCE", "CONTEXT", "MANIFESTS", "KEY"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(targets.iter().map(|target| {
        let (builder, source) = match &target.recipe {
            RecipeStatus::Dockerfile { dockerfile } => ("dockerfile", dockerfile.clone()),
            RecipeStatus::Command { command, .. } => ("command", shortened(&command.join(" "))),
            RecipeStatus::Bazel { label } => ("bazel", label.clone()),
        };
        vec![
            target.service.to_string(),
            builder.to_owned(),
            source,
            target.context.clone(),
            target.manifests.join(", "),
            short(&target.key),
        ]
    }));
    table::format(&rows)
}

/// The beginning of a command.
fn shortened(command: &str) -> String {
    let mut characters = command.chars();
    let mut text: String = characters.by_ref().take(MAX_COMMAND).collect();
    if characters.next().is_some() {
        text.push('…');
    }
    text
}

fn problem_text(problem: &CommitProblem) -> String {
    let kind = if problem.is_error { "error" } else { "warning" };
    let CommitProblem { place, message, help, .. } = problem;
    printable_lines(&format!("{kind}: {place}: {message}\n  {help}\n"))
}

fn short(digits: &str) -> String {
    digits.chars().take(SHORT).collect()
}
