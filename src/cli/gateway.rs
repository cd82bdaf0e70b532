//! `portcullis gateway`: runs the gateway until a signal stops it.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use portcullis_config::live::Live;
use portcullis_config::settings::Settings;
use portcullis_config::{bearer_review, store};
use portcullis_proxy::gateway;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::sync::oneshot::error::RecvError;

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
        let mut control_loop = start_control_loop(settings, live)?;
        let announced = async {
            gateway.ready().await;
            tracing::info!("ready");
            self.process.announce(&addresses)
        };
        tokio::select! {
            announced = announced => announced?,
            () = signals.received() => return drain(gateway, signals).await,
            stopped = &mut control_loop => return Err(control_loop_stopped(stopped)),
        }
        tokio::select! {
            () = signals.received() => drain(gateway, signals).await,
            stopped = &mut control_loop => Err(control_loop_stopped(stopped)),
            () = gateway.stopped() => Err(Failure::new("all workers have stopped")),
        }
    }
}

/// How the control loop ended; an error of the channel if it panicked.
type ControlLoop = oneshot::Receiver<Result<(), Failure>>;

/// Starts the control loop on a thread of its own. To translate 10,000 Services takes a while, and probes, scrapes and logins
/// do not wait for it.
fn start_control_loop(settings: Arc<Settings>, live: Arc<Live>) -> Result<ControlLoop, Failure> {
    let (stopped, control_loop) = oneshot::channel();
    std::thread::Builder::new()
        .name("control-loop".to_owned())
        .spawn(move || {
            // The sources are read on the other thread meanwhile.
            let runtime = Builder::new_multi_thread()
                .worker_threads(1)
                .thread_name("sources")
                .enable_all()
                .build()
                .map_err(Failure::new);
            let run = portcullis_config::run(settings, live, std::future::pending());
            let result = runtime.and_then(|runtime| runtime.block_on(run).map_err(Failure::new));
            // Nobody waits for it any more when the process ends.
            drop(stopped.send(result));
        })
        .map_err(|error| Failure::new(format!("failed to start a thread: {error}")))?;
    Ok(control_loop)
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

fn control_loop_stopped(stopped: Result<Result<(), Failure>, RecvError>) -> Failure {
    match stopped {
        Ok(Ok(())) => Failure::new("the source of resources has stopped"),
        Ok(Err(failure)) => failure,
        Err(_) => Failure::new("the control loop has panicked"),
    }
}
