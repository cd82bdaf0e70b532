//! `portcullis routes`: what is served where.

use std::process::ExitCode;

use clap::Args;
use portcullis_proxy::live_table::{Backend, Host, Route, Table};

use super::gateway_access::Place;
use super::output::{self, Output};
use super::problems::Failure;
use super::table;

/// Shows what is served where: the table of a running gateway, or what a configuration would make
/// of its source.
#[derive(Debug, Args)]
pub(super) struct Routes {
    #[command(flatten)]
    place: Place,
    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

// === impl Routes ===

impl Routes {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let table = match self.place.known()? {
            Some(known) => Table::new(&known.live.snapshot.load(), &known.live.problems.load()),
            None => self.place.ask("/routes")?,
        };
        match self.output {
            Output::Json => output::write_json(&table)?,
            Output::Text => output::write(&text(&table))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Each host once, though several listeners serve it, with a line for each backend.
fn text(table: &Table) -> String {
    let heading = ["HOST", "MATCH", "REQUIRE", "BACKEND", "WEIGHT", "PROTOCOL", "READY", "ORIGIN"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let mut seen = Vec::new();
    for listener in &table.listeners {
        for host in &listener.hosts {
            if seen.last() != Some(&host) && !seen.contains(&host) {
                rows.extend(of_host(host));
            }
        }
        seen.extend(&listener.hosts);
    }
    let mut text = table::format(&rows);
    if !table.problems.is_empty() {
        text.push_str(&format!(
            "\n{} problems: `portcullis check` tells them, and -o json\n",
            table.problems.len()
        ));
    }
    text
}

fn of_host(host: &Host) -> impl Iterator<Item = Vec<String>> {
    host.routes.iter().flat_map(move |route| {
        route.backends.iter().map(move |backend| of_backend(host, route, backend))
    })
}

fn of_backend(host: &Host, route: &Route, backend: &Backend) -> Vec<String> {
    let ready = match backend.draining.len() {
        0 => backend.ready.len().to_string(),
        draining => format!("{} (+{draining} draining)", backend.ready.len()),
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
