//! `portcullis builder`: runs the release builder until a signal stops it.

use std::process::ExitCode;

use clap::Args;
use portcullis_release::builder::Builder as Release;
use portcullis_release::settings::Settings;
use serde_json::json;

use super::problems::Failure;
use super::process::{Process, StopSignals};

/// Run the release builder
///
/// It serves the API of releases and deploys to Kubernetes. SIGTERM or SIGINT stops it; the next one
/// with the same store resumes what is open.
#[derive(Debug, Args)]
pub(super) struct Builder {
    #[command(flatten)]
    process: Process,
}

// === impl Builder ===

impl Builder {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = Settings::read(&self.process.config).map_err(Failure::Problems)?;
        self.process.start_log()?;
        // Calls that are under way when it stops are abandoned, and resumed later.
        Process::block_on("builder", self.serve(settings))
    }

    async fn serve(self, settings: Settings) -> Result<ExitCode, Failure> {
        let mut signals = StopSignals::new()?;
        let builder = tokio::select! {
            builder = Release::start(&settings) => builder.map_err(Failure::new)?,
            // It waits while another one uses the store.
            () = signals.received() => return Ok(ExitCode::SUCCESS),
        };
        let address = builder.address().map_err(Failure::new)?;
        tracing::info!(%address, "listening");
        self.process.announce(&json!({ "api": address }))?;
        tokio::select! {
            stopped = builder.run() => {
                stopped.map_err(Failure::new)?;
                Err(Failure::new("the builder has stopped"))
            }
            () = signals.received() => Ok(ExitCode::SUCCESS),
        }
    }
}
