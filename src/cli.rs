//! The command line of `portcullis`: one module per subcommand.

mod certs;
mod check;
mod completion;
mod demo;
mod explain;
mod gateway;
mod gateway_access;
mod key;
mod log;
mod login;
mod output;
mod problems;
mod routes;
mod sessions;
mod table;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

/// The exit code for an unusable configuration; clap exits with it on usage errors, too.
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
    Check(check::Check),
    Certs(certs::Certs),
    Routes(routes::Routes),
    Explain(explain::Explain),
    Key(key::Key),
    Sessions(sessions::Sessions),
    Login(login::Login),
    Token(token::Token),
    Completion(completion::Completion),
}

/// Parses the command line and runs the subcommand.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Certs(command) => command.run(),
        Command::Routes(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Sessions(command) => command.run(),
        Command::Login(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Completion(command) => command.run(&mut Cli::command()),
    };
    outcome.unwrap_or_else(|failure| {
        problems::print_failure(&failure);
        failure.exit_code()
    })
}
