//! `portcullis check`: validates configurations and manifests offline.

mod inputs;
mod reach;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use portcullis_config::preview;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::translate::Translation;
use portcullis_proxy::certificates;

use self::inputs::{Inputs, Manifests};
use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};

/// Check configurations and manifests, and report every problem with file, line and remedy.
///
/// The kind of a file is detected by its content: manifests have `apiVersion` and `kind`, a
/// configuration has `zone` and `source`. All manifest files are checked together, each folder
/// separately. Manifests are checked with the configuration on the command line, else with the one
/// in their folder, else with the defaults.
///
/// Exits with 1 if manifests have errors, and with 2 if a configuration has.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration files, manifest files, and folders of both
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Inputs { manifests, problems: invalid, warnings: mut found } =
            Inputs::read(self.paths)?;
        let now = SystemTime::now();
        for Manifests { settings, paths } in manifests {
            let Translation { snapshot, problems } = preview(&settings, paths, now);
            found.extend(problems);
            found.extend(certificates::problems(&snapshot.certificates, now));
            let (omitted, ordered) = certificates::planned(&settings, &snapshot, now);
            found.extend(omitted);
            found.extend(reach::unverifiable(&settings, &ordered));
        }
        found.sort();
        found.dedup();
        self.output.report(&invalid, &found)?;
        let broken = found.iter().any(|problem| problem.severity == Severity::Error);
        Ok(if !invalid.is_empty() {
            ExitCode::from(super::UNUSABLE)
        } else if broken {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}

// === impl Output ===

impl Output {
    fn report(self, configuration: &[Problem], manifests: &[Problem]) -> Result<(), Failure> {
        match self {
            Self::Json => output::write_json(&[configuration, manifests].concat()),
            Self::Text if configuration.is_empty() && manifests.is_empty() => {
                output::write("no problems found\n")
            }
            Self::Text => {
                problems::print(configuration, Snippets::Shown);
                problems::print(manifests, Snippets::Hidden);
                Ok(())
            }
        }
    }
}
