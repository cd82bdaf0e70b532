//! `portcullis audit`: who changed what.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use portcullis_release::api::Page;
use portcullis_release::store::AuditEntry;

use super::builder_api::{BuilderApi, age};
use super::output::{self, Output};
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
}

/// List entries, the newest first
#[derive(Debug, Args)]
struct List {
    /// How many
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=50))]
    limit: u32,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Audit ===

impl Audit {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let Command::List(command) = self.command;
        command.run()?;
        Ok(ExitCode::SUCCESS)
    }
}

// === impl List ===

impl List {
    fn run(self) -> Result<(), Failure> {
        let page: Page<AuditEntry> =
            self.api.get(&format!("/api/v1/audit?limit={}", self.limit))?;
        if self.output == Output::Json {
            return output::write_json(&page.items);
        }
        let header = ["AGE", "ACTOR", "ACTION", "SUBJECT", "BEFORE", "AFTER", "REASON"];
        let mut rows = vec![header.map(str::to_owned).to_vec()];
        rows.extend(page.items.into_iter().map(|entry| {
            vec![
                age(entry.at),
                entry.actor,
                entry.action,
                entry.subject,
                entry.before.unwrap_or_default(),
                entry.after.unwrap_or_default(),
                entry.reason,
            ]
        }));
        output::write(&table::format(&rows))
    }
}
