//! `portcullis release`: releases of services.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_release::api::{NewReleaseRequest, ReleaseDetails, ReleaseDiff};
use portcullis_release::manifest::{Declaration, MAX_BYTES};
use portcullis_release::model::{ReleaseId, ServiceName};
use portcullis_release::store::ReleaseSummary;

use super::build;
use super::builder_api::{BuilderApi, age};
use super::differences;
use super::format::{Format, FormatArgs};
use super::output;
use super::problems::Failure;
use super::table;

/// Create, build, list, show and compare releases
///
/// A release is an image by its digest, and the manifests that run it.
#[derive(Debug, Args)]
pub(super) struct Release {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Create),
    List(List),
    Show(Show),
    Diff(Diff),
    Build(build::Request),
    Logs(build::Logs),
}

/// Record a release and print its name
///
/// The image must be in one of the builder's registries.
#[derive(Debug, Args)]
struct Create {
    /// Manifests in YAML or JSON, with `{{image}}` where the image belongs; `-` reads standard input
    #[arg(long, value_name = "FILE")]
    manifest: PathBuf,
    /// Image, such as registry.example.com/web:1.4
    #[arg(long)]
    image: String,
    /// Service; by default the name of the only Service in the manifests
    #[arg(long)]
    service: Option<ServiceName>,
    /// Source commit
    #[arg(long)]
    commit: Option<String>,
    /// Why the release cannot be undone, such as a migration; a rollback across it needs --force
    #[arg(long, value_name = "WHY")]
    irreversible: Option<String>,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    api: BuilderApi,
}

/// List releases, the newest first
#[derive(Debug, Args)]
struct List {
    /// Only those of one service
    service: Option<ServiceName>,
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=50))]
    limit: u32,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show a release with its manifests
#[derive(Debug, Args)]
struct Show {
    /// Release, such as web.17
    release: ReleaseId,
    /// Output format
    #[arg(short, long, value_enum, default_value = "json")]
    output: Format,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show what differs between two releases of a service
#[derive(Debug, Args)]
struct Diff {
    /// Earlier release, such as web.16
    from: ReleaseId,
    /// Later release, such as web.17
    to: ReleaseId,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Release ===

impl Release {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Create(command) => command.run()?,
            Command::List(command) => command.run()?,
            Command::Show(command) => command.run()?,
            Command::Diff(command) => command.run()?,
            Command::Build(command) => command.run()?,
            Command::Logs(command) => return command.run(),
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl Create ===

impl Create {
    fn run(self) -> Result<(), Failure> {
        let request = NewReleaseRequest {
            service: self.service,
            image: self.image,
            template: read(&self.manifest)?.into(),
            commit: self.commit,
            irreversible: self.irreversible,
            reason: self.reason,
        };
        let release: ReleaseSummary = self.api.post("/api/v1/releases", &request)?;
        let names = |release: &ReleaseSummary| vec![release.id.to_string()];
        output::write(&self.output.render(&release, names, |release| format!("{}\n", release.id))?)
    }
}

// === impl Show ===

impl Show {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/releases/{}", self.release);
        let details: ReleaseDetails = self.api.get(&path)?;
        let names = |details: &ReleaseDetails| vec![details.summary.id.to_string()];
        let text = |details: &ReleaseDetails| {
            text(std::slice::from_ref(&details.summary)) + &settings(&details.settings)
        };
        output::write(&self.output.render(&details, names, text)?)
    }
}

// === impl Diff ===

impl Diff {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/diffs?from={}&to={}", self.from, self.to);
        let found: ReleaseDiff = self.api.get(&path)?;
        output::write(&self.output.render(&found, differences::names, differences::text)?)
    }
}

/// The settings that a release declares, if any.
fn settings(declared: &BTreeMap<String, Declaration>) -> String {
    if declared.is_empty() {
        return String::new();
    }
    let mut rows = vec![["SETTING", "TYPE", "DEFAULT"].map(str::to_owned).to_vec()];
    rows.extend(declared.iter().map(|(name, declaration)| {
        let default = declaration.default.as_ref().map(ToString::to_string).unwrap_or_default();
        vec![name.clone(), declaration.kind.name().to_owned(), output::printable(&default)]
    }));
    format!("\n{}", table::format(&rows))
}

/// Reads manifests, which have at most [`MAX_BYTES`].
fn read(path: &std::path::Path) -> Result<String, Failure> {
    let failed = |error| Failure::new(format!("{}: {error}", path.display()));
    let input: Box<dyn Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(std::fs::File::open(path).map_err(failed)?),
    };
    let max = u64::try_from(MAX_BYTES).unwrap_or(u64::MAX);
    let mut text = String::new();
    input.take(max + 1).read_to_string(&mut text).map_err(failed)?;
    if text.len() > MAX_BYTES {
        return Err(Failure::new(format!("{} has more than {MAX_BYTES} bytes", path.display())));
    }
    Ok(text)
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let service = self.service.map(|service| format!("&service={service}")).unwrap_or_default();
        let path = format!("/api/v1/releases?limit={}{service}", self.limit);
        let read = || self.api.page::<ReleaseSummary>(&path);
        let names = |releases: &Vec<ReleaseSummary>| {
            releases.iter().map(|release| release.id.to_string()).collect()
        };
        self.format.show(read, names, |releases| text(releases))
    }
}

fn text(releases: &[ReleaseSummary]) -> String {
    let mut rows = vec![["RELEASE", "IMAGE", "COMMIT", "BY", "AGE"].map(str::to_owned).to_vec()];
    rows.extend(releases.iter().map(|release| {
        vec![
            release.id.to_string(),
            release.image.clone(),
            release.commit.clone().unwrap_or_default(),
            release.created_by.clone(),
            age(release.created_at),
        ]
    }));
    table::format(&rows)
}
