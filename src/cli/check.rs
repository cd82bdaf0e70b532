//! `portcullis check`: what is wrong with a configuration and with manifests, before anything runs.

mod given;
mod reach;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use portcullis_config::preview;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::translate::Translation;
use portcullis_proxy::certificates;

use self::given::{Given, Manifests};
use super::output::{self, Output};
use super::problems::{self, Failure, Snippets};

/// Check configurations and manifests, and report every problem with file, line and remedy.
///
/// A file is taken for what it is: manifests have `apiVersion` and `kind`, a configuration has
/// `zone` and `source`. Files of manifests are checked together, each folder by itself. Manifests
/// are checked by the configuration that is given, else by the one in their folder, else by the
/// defaults.
///
/// Exit code 1: something is wrong with manifests; 2: with a configuration.
#[derive(Debug, Args)]
pub(super) struct Check {
    /// Configuration files, files of manifests, and folders of both
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Check ===

impl Check {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Given { manifests, problems: wrong, warnings: mut found } = Given::read(self.paths)?;
        let now = SystemTime::now();
        for Manifests { settings, paths } in manifests {
            let Translation { snapshot, problems } = preview(&settings, paths, now);
            found.extend(problems);
            found.extend(certificates::problems(&snapshot.certificates, now));
            let (left_out, ordered) = certificates::planned(&settings, &snapshot, now);
            found.extend(left_out);
            found.extend(reach::unprovable(&settings, &ordered));
        }
        found.sort();
        found.dedup();
        self.output.tell(&wrong, &found)?;
        let broken = found.iter().any(|problem| problem.severity == Severity::Error);
        Ok(if !wrong.is_empty() {
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
