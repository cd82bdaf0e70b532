//! `portcullis release`: releases of services.

use std::io::Read;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_release::api::{NewReleaseRequest, Page, ReleaseDetails};
use portcullis_release::manifest::MAX_BYTES;
use portcullis_release::model::{ReleaseId, ServiceName};
use portcullis_release::store::ReleaseSummary;

use super::builder_api::{BuilderApi, age};
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// Create, list and show releases
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
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
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
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    api: BuilderApi,
}

/// Show a release with its manifests
#[derive(Debug, Args)]
struct Show {
    /// Release, such as web.17
    release: ReleaseId,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Release ===

impl Release {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Create(command) => command.run()?,
            Command::List(command) => command.run()?,
            Command::Show(command) => {
                let path = format!("/api/v1/releases/{}", command.release);
                output::write_json(&command.api.get::<ReleaseDetails>(&path)?)?;
            }
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
            reason: self.reason,
        };
        let release: ReleaseSummary = self.api.post("/api/v1/releases", &request)?;
        match self.output {
            Output::Json => output::write_json(&release),
            Output::Text => output::write(&format!("{}\n", release.id)),
        }
    }
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
        let page: Page<ReleaseSummary> = self.api.get(&path)?;
        if self.output == Output::Json {
            return output::write_json(&page.items);
        }
        let mut rows =
            vec![["RELEASE", "IMAGE", "COMMIT", "BY", "AGE"].map(str::to_owned).to_vec()];
        rows.extend(page.items.into_iter().map(|release| {
            vec![
                release.id.to_string(),
                release.image,
                release.commit.unwrap_or_default(),
                release.created_by,
                age(release.created_at),
            ]
        }));
        output::write(&table::format(&rows))
    }
}
