//! `portcullis image`: images of releases, and where their tags have moved.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_release::api::ImageStatus;
use portcullis_release::model::ServiceName;

use super::builder_api::BuilderApi;
use super::format::FormatArgs;
use super::problems::Failure;
use super::table;

/// Look at the images of releases
#[derive(Debug, Args)]
pub(super) struct Image {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
}

/// List the images of a service's newest releases, and what the registry has by these names now
#[derive(Debug, Args)]
struct List {
    /// Service
    service: ServiceName,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Image ===

impl Image {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Command::List(command) = self.command;
        command.run()?;
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/images?service={}", self.service);
        let read = || self.api.page::<ImageStatus>(&path);
        let names = |images: &Vec<ImageStatus>| {
            images.iter().map(|image| image.requested.clone()).collect()
        };
        self.format.show(read, names, |images| text(images))
    }
}

fn text(images: &[ImageStatus]) -> String {
    let header = ["IMAGE", "RELEASE", "DIGEST", "IN THE REGISTRY", "RUNNING"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(images.iter().map(|image| {
        let current = match (&image.problem, &image.current) {
            (Some(problem), _) => problem.clone(),
            (None, Some(current)) if image.has_moved() => format!("moved to {}", short(current)),
            _ => "the same".to_owned(),
        };
        let running: Vec<String> = image.running.iter().map(ToString::to_string).collect();
        vec![
            image.requested.clone(),
            image.release.to_string(),
            short(&image.image),
            current,
            running.join(", "),
        ]
    }));
    table::format(&rows)
}

/// The first digits of the digest of an image.
fn short(image: &str) -> String {
    let digest = image.rsplit(':').next().unwrap_or_default();
    digest.chars().take(12).collect()
}
