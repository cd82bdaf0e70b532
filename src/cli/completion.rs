//! `portcullis completion`: what a shell needs to complete command lines.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::{Shell, generate};

use super::output;
use super::problems::Failure;

/// Prints a script with which a shell completes the command line, such as `source <(portcullis
/// completion bash)`.
#[derive(Debug, Args)]
pub(super) struct Completion {
    /// The shell
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
