//! `portcullis gateway`: runs the gateway until a signal stops it.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::{atomic_file, bearer_review, store};
use portcullis_proxy::gateway;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::log::{self, LogFormat};
use super::problems::Failure;

/// Run the gateway
///
/// SIGTERM or SIGINT drains it; a second signal stops it immediately.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Format of the log on standard error; RUST_LOG sets its level
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "PORTCULLIS_LOG_FORMAT")]
    log_format: LogFormat,
    /// File to write when the gateway is ready: a JSON object with its listen addresses
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
}

// === impl Gateway ===

impl Gateway {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = Arc::new(Settings::read(&self.config).map_err(Failure::Problems)?);
        log::start(self.log_format)?;
        for warning in settings.warnings() {
            tracing::warn!(help = warning.help, "{}", warning.message);
        }
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("control")
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        let code = runtime.block_on(self.serve(settings))?;
        // Abandon what the control plane still waits for.
        runtime.shutdown_background();
        if code == ExitCode::SUCCESS {
            tracing::info!("drained");
        }
        Ok(code)
    }

    async fn serve(self, settings: Arc<Settings>) -> Result<ExitCode, Failure> {
        let live = Arc::new(Live::default());
        let mut signals = StopSignals::new()?;
        let stores = gateway::Stores {
            certificates: store::open(&settings).await.map_err(Failure::new)?,
            sessions: store::credentials::open(&settings).await.map_err(Failure::new)?,
            reviewer: bearer_review::open(&settings).await.map_err(Failure::new)?,
        };
        let mut gateway = gateway::Gateway::start(Arc::clone(&settings), Arc::clone(&live), stores)
            .await
            .map_err(Failure::new)?;
        let addresses = gateway.addresses().clone();
        tracing::info!(
            http = addresses.http.map(tracing::field::display),
            https = addresses.https.map(tracing::field::display),
            probes = addresses.probes.map(tracing::field::display),
            telemetry = addresses.telemetry.map(tracing::field::display),
            admin = addresses.admin.map(tracing::field::display),
            "listening"
        );
        let mut control =
            tokio::spawn(portcullis_config::run(settings, live, std::future::pending()));
        let announced = async {
            gateway.ready().await;
            tracing::info!("ready");
            self.ready_file.as_deref().map_or(Ok(()), |file| announce(file, &addresses))
        };
        tokio::select! {
            announced = announced => announced?,
            () = signals.received() => return drain(gateway, signals).await,
            stopped = &mut control => return Err(control_stopped(stopped)),
        }
        tokio::select! {
            () = signals.received() => drain(gateway, signals).await,
            stopped = &mut control => Err(control_stopped(stopped)),
            () = gateway.stopped() => Err(Failure::new("all workers have stopped")),
        }
    }
}

async fn drain(gateway: gateway::Gateway, mut signals: StopSignals) -> Result<ExitCode, Failure> {
    tokio::select! {
        () = gateway.drain() => Ok(ExitCode::SUCCESS),
        () = signals.received() => {
            tracing::warn!("received a second signal while draining: stopping immediately");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn control_stopped(
    stopped: Result<Result<(), impl std::error::Error>, tokio::task::JoinError>,
) -> Failure {
    match stopped {
        Ok(Ok(())) => Failure::new("the source of resources has stopped"),
        Ok(Err(error)) => Failure::new(error),
        Err(error) => Failure::new(format!("the control plane has stopped: {error}")),
    }
}

/// Writes the addresses to `file`, atomically.
fn announce(file: &Path, addresses: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(addresses).map_err(Failure::new)?;
    atomic_file::replace(file, &text).map_err(|error| {
        Failure::new(format!("failed to write the ready file {}: {error}", file.display()))
    })
}

/// SIGTERM and SIGINT.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

// === impl StopSignals ===

impl StopSignals {
    fn new() -> Result<Self, Failure> {
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
    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
