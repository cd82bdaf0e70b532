//! What can be asked of `portcullis`: one module a subcommand.

mod demo;
mod gateway;
mod log;
mod output;
mod problems;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What the configuration or the command line makes impossible.
const UNUSABLE: u8 = 2;

/// An authenticating ingress gateway for Kubernetes.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Gateway(gateway::Gateway),
}

/// Runs what the command line asks for.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::Gateway(command) => command.run(),
    };
    outcome.unwrap_or_else(|failure| {
        problems::print_failure(&failure);
        failure.exit_code()
    })
}
