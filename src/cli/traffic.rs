//! `portcullis traffic`: how the requests of services are split among their variants.

mod place;
mod set;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::set::Set;
use super::problems::Failure;

/// Set the weights of variants
#[derive(Debug, Args)]
pub(super) struct Traffic {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::Set(command) => command.run(),
        }
    }
}
