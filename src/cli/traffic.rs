//! `portcullis traffic`: how the requests of services are split among their variants.

mod list;
mod place;
mod pods;
mod replicas;
mod set;
mod wait;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use self::list::List;
use self::set::Set;
use super::problems::Failure;

/// List the variants of services with their traffic, and set their weights
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Traffic {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Command {
    Set(Set),
}

// === impl Traffic ===

impl Traffic {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            None => self.list.run(),
            Some(Command::Set(command)) => command.run(),
        }
    }
}
