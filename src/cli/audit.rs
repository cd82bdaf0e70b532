//! `portcullis audit`: who changed what.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_release::api::KeyStatus;
use portcullis_release::store::AuditEntry;

use super::builder_api::{BuilderApi, age};
use super::format::FormatArgs;
use super::output::printable;
use super::problems::Failure;
use super::table;

/// Read the builder's audit log
#[derive(Debug, Args)]
pub(super) struct Audit {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    List(List),
    Keys(Keys),
}

/// List entries, the newest first
#[derive(Debug, Args)]
struct List {
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=50))]
    limit: u32,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// List the keys of callers, when they expire and when they were used last
#[derive(Debug, Args)]
struct Keys {
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Audit ===

impl Audit {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        match self.command {
            Command::List(command) => command.run()?,
            Command::Keys(command) => command.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let path = format!("/api/v1/audit?limit={}", self.limit);
        let read = || self.api.page::<AuditEntry>(&path);
        let names = |entries: &Vec<AuditEntry>| {
            entries.iter().map(|entry| printable(&entry.subject)).collect()
        };
        self.format.show(read, names, |entries| text(entries))
    }
}

fn text(entries: &[AuditEntry]) -> String {
    let header = ["AGE", "ACTOR", "ACTION", "SUBJECT", "BEFORE", "AFTER", "REASON"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        vec![
            age(entry.at),
            entry.actor.clone(),
            entry.action.clone(),
            entry.subject.clone(),
            entry.before.clone().unwrap_or_default(),
            entry.after.clone().unwrap_or_default(),
            entry.reason.clone(),
        ]
    }));
    table::format(&rows)
}

// === impl Keys ===

impl Keys {
    fn run(self) -> Result<(), Failure> {
        let read = || self.api.page::<KeyStatus>("/api/v1/keys");
        let names = |keys: &Vec<KeyStatus>| keys.iter().map(|key| key.key.clone()).collect();
        self.format.show(read, names, |keys| keys_text(keys))
    }
}

fn keys_text(keys: &[KeyStatus]) -> String {
    let mut rows = vec![["CALLER", "KEY", "EXPIRES", "LAST USED"].map(str::to_owned).to_vec()];
    rows.extend(keys.iter().map(|key| {
        vec![
            printable(&key.caller),
            key.key.clone(),
            key.expires.clone().unwrap_or_else(|| "never".to_owned()),
            key.used_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at))),
        ]
    }));
    table::format(&rows)
}
