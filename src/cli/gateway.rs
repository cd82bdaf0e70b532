//! `portcullis gateway`: serves until it is told to stop.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use portcullis_config::bearer_review;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::{atomic_file, store};
use portcullis_proxy::gateway;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use super::log::{self, LogFormat};
use super::problems::Failure;

/// Runs the gateway, until SIGTERM or SIGINT drains it; a second one ends it at once.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How the log on standard error looks; RUST_LOG says how much of it there is
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, env = "PORTCULLIS_LOG_FORMAT")]
    log_format: LogFormat,
    /// A file to write once the gateway is ready: a JSON object with the addresses that it listens
    /// on
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
        // What the control plane still waits for is of no interest any more.
        runtime.shutdown_background();
        Ok(code)
    }

    async fn serve(self, settings: Arc<Settings>) -> Result<ExitCode, Failure> {
        let live = Arc::new(Live::default());
        let mut stop = Stop::new()?;
        let stores = gateway::Stores {
            certificates: store::open(&settings).await.map_err(Failure::new)?,
            sessions: store::session::open(&settings).await.map_err(Failure::new)?,
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
            () = stop.told() => return drain(gateway, stop).await,
            ended = &mut control => return Err(source_ended(ended)),
        }
        tokio::select! {
            () = stop.told() => drain(gateway, stop).await,
            ended = &mut control => Err(source_ended(ended)),
            () = gateway.ended() => Err(Failure::new("all workers have ended")),
        }
    }
}

async fn drain(gateway: gateway::Gateway, mut stop: Stop) -> Result<ExitCode, Failure> {
    tokio::select! {
        () = gateway.drain() => Ok(ExitCode::SUCCESS),
        () = stop.told() => {
            tracing::warn!("told to stop a second time: ending at once");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn source_ended(
    ended: Result<Result<(), impl std::error::Error>, tokio::task::JoinError>,
) -> Failure {
    match ended {
        Ok(Ok(())) => Failure::new("the source of resources has ended"),
        Ok(Err(error)) => Failure::new(error),
        Err(error) => Failure::new(format!("the control plane has ended: {error}")),
    }
}

/// Writes the addresses, whole or not at all.
fn announce(file: &Path, addresses: &impl serde::Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(addresses).map_err(Failure::new)?;
    atomic_file::replace(file, &text).map_err(|error| {
        Failure::new(format!("the ready file {} cannot be written: {error}", file.display()))
    })
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

// === impl Stop ===

impl Stop {
    fn new() -> Result<Self, Failure> {
        let on = |kind| {
            signal(kind).map_err(|error| Failure::new(format!("signals cannot be caught: {error}")))
        };
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    /// Waits for the next one.
    async fn told(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
