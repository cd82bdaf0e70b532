//! `portcullis pin` and `portcullis unpin`: whether known releases may be deployed again.

use std::process::ExitCode;

use clap::Args;
use http::Method;
use portcullis_release::api::NewPin;
use portcullis_release::model::{EnvironmentName, ServiceName};

use super::builder_api::BuilderApi;
use super::problems::Failure;

/// Pin a service: refuse all releases recorded up to now, until a newer one is deployed
#[derive(Debug, Args)]
pub(super) struct Pin {
    #[command(flatten)]
    change: Change,
}

/// Unpin a service: allow all of its releases again
#[derive(Debug, Args)]
pub(super) struct Unpin {
    #[command(flatten)]
    change: Change,
}

#[derive(Debug, Args)]
struct Change {
    /// Service
    service: ServiceName,
    /// Environment
    #[arg(long = "in", value_name = "ENVIRONMENT")]
    environment: EnvironmentName,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    api: BuilderApi,
}

// === impl Pin ===

impl Pin {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        self.change.send(true)
    }
}

// === impl Unpin ===

impl Unpin {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        self.change.send(false)
    }
}

// === impl Change ===

impl Change {
    fn send(self, pinned: bool) -> Result<ExitCode, Failure> {
        let request = NewPin {
            service: self.service,
            environment: self.environment,
            pinned,
            reason: self.reason,
        };
        self.api.change(Method::POST, "/api/v1/pins", &request)?;
        Ok(ExitCode::SUCCESS)
    }
}
