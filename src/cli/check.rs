//! `portcullis check`: what is wrong with a configuration and with manifests, before anything runs.

mod reach;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::{Settings, SourceSettings};
use portcullis_proxy::certificates;

use super::known::Known;
use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};

/// Tells all that is wrong with configuration files and folders of manifests, with file, line, and
/// how to mend it. Exit code 1: something is wrong with manifests; 2: with a configuration.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration files, with the folders that they name, and folders of manifests
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) =
            self.paths.into_iter().partition(|path| path.is_dir());
        let mut wrong = Vec::new();
        let mut sources = Vec::new();
        for file in &files {
            match Settings::read(file) {
                Ok(settings) => sources.push(settings),
                Err(mut problems) => wrong.append(&mut problems),
            }
        }
        let unusable = !wrong.is_empty();
        let base = sources.first().cloned();
        sources.retain(|settings| matches!(settings.source, SourceSettings::Directory(_)));
        for folder in folders {
            sources.push(of_folder(base.clone(), folder)?);
        }
        let mut found = Vec::new();
        for settings in sources {
            let Known { settings, live } = Known::read(settings)?;
            let (snapshot, now) = (live.snapshot.load(), SystemTime::now());
            found.extend(live.problems.load().iter().cloned());
            found.extend(certificates::problems(&snapshot.certificates, now));
            let (left_out, ordered) = certificates::planned(&settings, &snapshot, now);
            found.extend(left_out);
            found.extend(reach::unprovable(&settings, &ordered));
        }
        found.sort();
        found.dedup();
        self.output.tell(&wrong, &found)?;
        let broken = found.iter().any(|problem| problem.severity == Severity::Error);
        Ok(if unusable {
            ExitCode::from(super::UNUSABLE)
        } else if broken {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

/// The settings with which a folder is translated: those that were given beside it, else the
/// defaults for a zone of no importance.
fn of_folder(base: Option<Settings>, folder: PathBuf) -> Result<Settings, Failure> {
    let folder = fs::canonicalize(&folder).unwrap_or(folder);
    let defaults = || {
        Settings::parse(Path::new("defaults"), b"zone: apps.example.com\nsource: {directory: .}\n")
            .map_err(Failure::Problems)
    };
    let mut settings = base.map_or_else(defaults, Ok)?;
    settings.source = SourceSettings::Directory(folder);
    Ok(settings)
}

// === impl Output ===

impl Output {
    fn tell(self, configuration: &[Problem], manifests: &[Problem]) -> Result<(), Failure> {
        match self {
            Self::Json => output::write_json(&[configuration, manifests].concat()),
            Self::Text if configuration.is_empty() && manifests.is_empty() => {
                output::write("nothing is wrong\n")
            }
            Self::Text => {
                problems::print(configuration, Snippets::Shown);
                problems::print(manifests, Snippets::Hidden);
                Ok(())
            }
        }
    }
}
