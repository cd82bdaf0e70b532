//! `portcullis check --admin`: the problems that a running gateway has found.

use std::process::ExitCode;

use portcullis_proxy::live_table::Table;

use crate::cli::gateway_access::Admin;
use crate::cli::output::{self, Output};
use crate::cli::problems::{self, Failure};

/// Prints the current problems of a gateway: those that its Events and metrics report.
pub(super) fn check(gateway: &Admin, output: Output) -> Result<ExitCode, Failure> {
    let found = gateway.get::<Table>("/routes")?.problems;
    match output {
        Output::Json => output::write_json(&found)?,
        Output::Text if found.is_empty() => output::write("no problems found\n")?,
        Output::Text => problems::print_live(&found),
    }
    Ok(match found.iter().any(|problem| problem.severity == "error") {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}
