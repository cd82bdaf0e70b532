//! `portcullis check`: reports problems of files, or of what a running gateway has read.

mod inputs;
mod live;
mod reach;
mod unread;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use portcullis_config::preview;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::translate::Translation;
use portcullis_proxy::certificates;

use self::inputs::{Inputs, Manifests};
use self::unread::Unread;
use super::gateway_access::Admin;
use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};

/// Check configurations and manifests, and report every problem with file, line and remedy.
///
/// The kind of a file is detected by its content: manifests have `apiVersion` and `kind`, a
/// configuration has `zone` and `source`. All manifest files are checked together, each folder
/// separately. Manifests are checked with the configuration on the command line, else with the one
/// in their folder, else with the defaults.
///
/// The resources of a cluster are not read: `check --admin` reports the problems that a running
/// gateway has found in them.
///
/// Exits with 1 if manifests or resources have errors, and with 2 if a configuration has.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration files, manifest files, and folders of both
    #[arg(required_unless_present = "admin")]
    paths: Vec<PathBuf>,
    /// Folder with the files that the configuration names, as its gateway finds them below `/`:
    /// every path in it is resolved below this folder
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Report the problems of the running gateway with this admin address [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS", num_args = 0..=1, conflicts_with_all = ["paths", "root"])]
    admin: Option<Option<SocketAddr>>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.admin {
            Some(address) => live::check(&Admin::new(address)?, self.output),
            None => self.check_files(),
        }
    }

    fn check_files(self) -> Result<ExitCode, Failure> {
        let Inputs { manifests, problems: invalid, warnings: mut found, unread } =
            Inputs::read(self.paths, self.root.as_deref())?;
        let now = SystemTime::now();
        for Manifests { settings, paths } in manifests {
            let Translation { snapshot, problems } = preview(&settings, paths, now);
            found.extend(problems.into_iter().filter(|found| !unread::causes(&settings, found)));
            found.extend(certificates::problems(&snapshot.certificates, now));
            let (omitted, ordered) = certificates::planned(&settings, &snapshot, now);
            found.extend(omitted);
            found.extend(reach::unverifiable(&settings, &ordered));
        }
        found.sort();
        found.dedup();
        self.output.report(&invalid, &found, &unread)?;
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
    /// Prints all problems, and what was not read.
    fn report(
        self,
        configuration: &[Problem],
        manifests: &[Problem],
        unread: &[Unread],
    ) -> Result<(), Failure> {
        match self {
            Self::Json => output::write_json(&[configuration, manifests].concat())?,
            Self::Text if !configuration.is_empty() || !manifests.is_empty() => {
                problems::print(configuration, Snippets::Shown);
                problems::print(manifests, Snippets::Hidden);
            }
            Self::Text if unread.is_empty() => output::write("no problems found\n")?,
            Self::Text => output::write("no problems found in what was read\n")?,
        }
        unread.iter().try_for_each(|unread| output::report(&unread.to_string()))
    }
}
