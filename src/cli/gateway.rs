//! `portcullis gateway`: runs the gateway until a signal stops it.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::{bearer_review, store};
use portcullis_proxy::gateway;

use super::problems::Failure;
use super::process::{Process, StopSignals};

/// Run the gateway
///
/// SIGTERM or SIGINT drains it; a second signal stops it immediately.
#[derive(Debug, Args)]
pub(super) struct Gateway {
    #[command(flatten)]
    process: Process,
}

// === impl Gateway ===

impl Gateway {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let settings = Arc::new(Settings::read(&self.process.config).map_err(Failure::Problems)?);
        self.process.start_log()?;
        for warning in settings.warnings() {
            tracing::warn!(help = warning.help, "{}", warning.message);
        }
        let code = Process::block_on("control", self.serve(settings))?;
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
            self.process.announce(&addresses)
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
