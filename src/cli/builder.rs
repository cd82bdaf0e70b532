//! `portcullis builder`: runs the release builder until a signal stops it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use portcullis_config::atomic_file;
use portcullis_release::builder::Builder as Release;
use portcullis_release::settings::Settings;
use serde_json::json;
use tokio::runtime::Builder as Runtime;
use tokio::signal::unix::{SignalKind, signal};

use super::log::{self, LogFormat};
use super::problems::Failure;

/// Run the release builder
///
/// It serves the API of releases and deploys to Kubernetes. SIGTERM or SIGINT stops it; the next one
/// with the same store resumes what is open.
#[derive(Debug, Args)]
pub(super) struct Builder {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Format of the log on standard error; RUST_LOG sets its level
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "PORTCULLIS_LOG_FORMAT")]
    log_format: LogFormat,
    /// File to write when the builder is ready: a JSON object with its listen address
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

// === impl Builder ===

impl Builder {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = Settings::read(&self.config).map_err(Failure::Problems)?;
        log::start(self.log_format)?;
        let runtime = Runtime::new_multi_thread()
            .worker_threads(2)
            .thread_name("builder")
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let code = runtime.block_on(self.serve(settings))?;
        // Abandon calls that are under way: they are resumed.
        runtime.shutdown_background();
        Ok(code)
    }

    async fn serve(self, settings: Settings) -> Result<ExitCode, Failure> {
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
        let builder = Release::start(&settings).await.map_err(Failure::new)?;
        let address = builder.address().map_err(Failure::new)?;
        tracing::info!(%address, "listening");
        if let Some(file) = &self.ready_file {
            let text = json!({ "api": address }).to_string();
            atomic_file::replace(file, text.as_bytes()).map_err(|error| {
                Failure::new(format!("failed to write the ready file {}: {error}", file.display()))
            })?;
        }
        tokio::select! {
            () = builder.run() => Err(Failure::new("the builder has stopped")),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
        }
    }
}
