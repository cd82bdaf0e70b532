//! What the commands that run until a signal stops them have in common.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use portcullis_config::atomic_file;
use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::log::{self, LogFormat};
use super::problems::Failure;

/// The options of a long-running command.
#[derive(Debug, Args)]
pub(super) struct Process {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    pub(super) config: PathBuf,
    /// Format of the log on standard error; RUST_LOG sets its level
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "PORTCULLIS_LOG_FORMAT")]
    log_format: LogFormat,
    /// File to write when the command is ready: a JSON object with its listen addresses
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

// === impl Process ===

impl Process {
    /// Starts the log.
    pub(super) fn start_log(&self) -> Result<(), Failure> {
        log::start(self.log_format)
    }

    /// Runs `serve` on a runtime whose threads have this name, and abandons what it leaves behind.
    pub(super) fn block_on(
        threads: &str,
        serve: impl Future<Output = Result<ExitCode, Failure>>,
    ) -> Result<ExitCode, Failure> {
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(threads)
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let code = runtime.block_on(serve)?;
        runtime.shutdown_background();
        Ok(code)
    }

    /// Writes the addresses to the ready file, if there is one, atomically.
    pub(super) fn announce(&self, addresses: &impl serde::Serialize) -> Result<(), Failure> {
        let Some(file) = &self.ready_file else { return Ok(()) };
        let text = serde_json::to_vec(addresses).map_err(Failure::new)?;
        atomic_file::replace(file, &text).map_err(|error| {
            Failure::new(format!("failed to write the ready file {}: {error}", file.display()))
        })
    }
}

/// SIGTERM and SIGINT.
pub(super) struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

// === impl StopSignals ===

impl StopSignals {
    pub(super) fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(format!("failed to install a signal handler: {error}"))
            })
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next signal.
    pub(super) async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
