//! `portcullis completion`: completion scripts for shells.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::output;
use super::problems::Failure;

/// Print a completion script for a shell
///
/// To load it in bash: `source <(portcullis completion bash)`.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// Shell to complete for
    #[arg(value_enum)]
    shell: Shell,
}

// === impl Completion ===

impl Completion {
    pub(super) fn run(self, command: &mut Command) -> Result<ExitCode, Failure> {
        let mut script = Vec::new();
        generate(self.shell, command, "portcullis", &mut script);
        output::write(&String::from_utf8_lossy(&script))?;
        Ok(ExitCode::SUCCESS)
    }
}
