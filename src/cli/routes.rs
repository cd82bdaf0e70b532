//! `portcullis routes`: the routing table.

use std::process::ExitCode;

use clap::Args;
use portcullis_proxy::live_table::{Backend, Host, Route, Table, TableProblem};

use super::gateway_access::SourceArgs;
use super::output::{self, Output, printable};
use super::problems::Failure;
use super::table;

/// List routes and their backends, of a running gateway or of a configuration
#[derive(Debug, Args)]
pub(super) struct Routes {
    #[command(flatten)]
    source: SourceArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Routes ===

impl Routes {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let table = match self.source.offline()? {
            Some(offline) => {
                Table::new(&offline.live.snapshot.load(), &offline.live.problems.load())
            }
            None => self.source.get("/routes")?,
        };
        match self.output {
            Output::Json => output::write_json(&table)?,
            Output::Text => output::write(&text(&table))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Formats the table: a line per backend, each host once even if several listeners serve it.
fn text(table: &Table) -> String {
    let heading = ["HOST", "MATCH", "REQUIRE", "BACKEND", "WEIGHT", "PROTOCOL", "READY", "ORIGIN"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let mut seen = Vec::new();
    for listener in &table.listeners {
        for host in &listener.hosts {
            if seen.last() != Some(&host) && !seen.contains(&host) {
                rows.extend(host_rows(host));
            }
        }
        seen.extend(&listener.hosts);
    }
    let mut text = table::format(&rows);
    text.push_str(&problem_list(&table.problems));
    text
}

/// Formats problems as a list with a heading; empty without any.
fn problem_list(problems: &[TableProblem]) -> String {
    let mut text = match problems.len() {
        0 => String::new(),
        1 => "\n1 problem:\n".to_owned(),
        number => format!("\n{number} problems:\n"),
    };
    for TableProblem { severity, origin, message, help, .. } in problems {
        let origin = if origin.is_empty() { String::new() } else { format!("{origin}: ") };
        let [what, help] = [&format!("{origin}{message}"), help].map(|text| printable(text));
        text.push_str(&format!("  {severity}: {what}\n    help: {help}\n"));
    }
    text
}

fn host_rows(host: &Host) -> impl Iterator<Item = Vec<String>> {
    host.routes.iter().flat_map(move |route| {
        route.backends.iter().map(move |backend| backend_row(host, route, backend))
    })
}

fn backend_row(host: &Host, route: &Route, backend: &Backend) -> Vec<String> {
    let also = [(backend.draining.len(), "draining"), (backend.rejected, "rejected")];
    let also = also.iter().filter(|(number, _)| *number > 0);
    let also: Vec<_> = also.map(|(number, state)| format!("+{number} {state}")).collect();
    let ready = match also.as_slice() {
        [] => backend.ready.len().to_string(),
        also => format!("{} ({})", backend.ready.len(), also.join(", ")),
    };
    vec![
        host.host.clone(),
        route.matches.clone(),
        route.require.clone(),
        backend.service.clone(),
        backend.weight.to_string(),
        backend.protocol.clone(),
        ready,
        route.origin.clone(),
    ]
}
