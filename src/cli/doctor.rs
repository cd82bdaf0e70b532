//! `portcullis doctor`: what is wrong with an installation, and how to mend it.

mod builds;
mod checks;
mod facts;
mod registry;
mod rights;

use std::process::ExitCode;

use clap::Args;
use serde::Serialize;
use tokio::runtime::Builder;

use self::facts::Facts;
use super::format::Format;
use super::kubectl::{Kubectl, namespace};
use super::output::{self, printable};
use super::problems::Failure;

/// Check an installation, and say how to mend what is wrong
///
/// Reads the cluster by kubectl, with your rights, and connects to the gateway from this machine as
/// a client does: DNS record, ports, certificate. It also checks pods, the registry of their images,
/// the load balancer, the permissions of the gateway, clocks, identity providers, versions, and whether
/// release builders can build.
/// Nothing is changed.
///
/// Exits with 1 if there is an error; a check that cannot be made is none.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Namespace of the gateway
    #[arg(short, long, default_value = "portcullis", value_parser = namespace)]
    namespace: String,
    /// Context of the kubeconfig, instead of the current one
    #[arg(long)]
    context: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    check: &'static str,
    status: Status,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    help: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Ok,
    Warning,
    Error,
    /// It could not be checked.
    Skipped,
}

// === impl Doctor ===

impl Doctor {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(Failure::new)?;
        let kubectl = Kubectl::new(self.context.as_deref());
        let facts = runtime.block_on(Facts::collect(&kubectl, &self.namespace))?;
        let findings = checks::findings(&facts);
        let wrong = |findings: &Vec<Finding>| {
            let wrong = findings.iter().filter(|finding| finding.status == Status::Error);
            wrong.map(|finding| finding.check.to_owned()).collect::<Vec<_>>()
        };
        output::write(&self.output.render(&findings, wrong, |findings| text(findings))?)?;
        Ok(if wrong(&findings).is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

// === impl Finding ===

impl Finding {
    fn new(check: &'static str, status: Status, message: impl Into<String>) -> Self {
        Self { check, status, message: message.into(), help: None }
    }

    fn ok(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Status::Ok, message)
    }

    fn error(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..Self::new(check, Status::Error, message) }
    }

    fn warning(check: &'static str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { help: Some(help.into()), ..Self::new(check, Status::Warning, message) }
    }

    fn skipped(check: &'static str, message: impl Into<String>) -> Self {
        Self::new(check, Status::Skipped, message)
    }
}

/// One line for each finding, and one for how to mend it.
fn text(findings: &[Finding]) -> String {
    let mut text = String::new();
    for Finding { check, status, message, help } in findings {
        let status = match status {
            Status::Ok => "ok",
            Status::Warning => "warning",
            Status::Error => "error",
            Status::Skipped => "skipped",
        };
        text.push_str(&format!("{status:<8} {check:<12} {}\n", printable(message)));
        if let Some(help) = help {
            text.push_str(&format!("{:22}help: {}\n", "", printable(help)));
        }
    }
    text
}
