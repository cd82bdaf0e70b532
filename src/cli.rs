//! The command line of `portcullis`: one module per subcommand.

mod audit;
mod build;
mod build_in_pod;
mod builder;
mod builder_api;
mod certs;
mod check;
mod completion;
mod demo;
mod deploy;
mod deployment;
mod differences;
mod doctor;
mod env;
mod explain;
mod format;
mod gateway;
mod gateway_access;
mod image;
mod install;
mod key;
mod kubectl;
mod log;
mod login;
mod output;
mod pin;
mod problems;
mod process;
mod promote;
mod release;
mod repo;
mod rollback;
mod rollout;
mod routes;
mod sessions;
mod table;
mod timeout;
mod token;
mod traffic;

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
    Install(install::Install),
    Doctor(doctor::Doctor),
    Gateway(gateway::Gateway),
    Check(check::Check),
    Certs(certs::Certs),
    Routes(routes::Routes),
    Explain(explain::Explain),
    Key(key::Key),
    Sessions(sessions::Sessions),
    Login(login::Login),
    Token(token::Token),
    Traffic(traffic::Traffic),
    Builder(builder::Builder),
    Release(release::Release),
    Deploy(deploy::Deploy),
    Promote(promote::Promote),
    Rollback(rollback::Rollback),
    Rollout(rollout::Rollout),
    Pin(pin::Pin),
    Unpin(pin::Unpin),
    Env(env::Env),
    Image(image::Image),
    Repo(repo::Repo),
    Build(build::Build),
    #[command(hide = true)]
    BuildInPod(build_in_pod::BuildInPod),
    Audit(audit::Audit),
    Completion(completion::Completion),
}

/// Parses the command line and runs the subcommand.
pub(crate) fn run() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::Install(command) => command.run(),
        Command::Doctor(command) => command.run(),
        Command::Gateway(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Certs(command) => command.run(),
        Command::Routes(command) => command.run(),
        Command::Explain(command) => command.run(),
        Command::Key(command) => command.run(),
        Command::Sessions(command) => command.run(),
        Command::Login(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Traffic(command) => command.run(),
        Command::Builder(command) => command.run(),
        Command::Release(command) => command.run(),
        Command::Deploy(command) => command.run(),
        Command::Promote(command) => command.run(),
        Command::Rollback(command) => command.run(),
        Command::Rollout(command) => command.run(),
        Command::Pin(command) => command.run(),
        Command::Unpin(command) => command.run(),
        Command::Env(command) => command.run(),
        Command::Image(command) => command.run(),
        Command::Repo(command) => command.run(),
        Command::Build(command) => command.run(),
        Command::BuildInPod(command) => command.run(),
        Command::Audit(command) => command.run(),
        Command::Completion(command) => command.run(&mut Cli::command()),
    };
    outcome.unwrap_or_else(|failure| {
        problems::print_failure(&failure);
        failure.exit_code()
    })
}
