//! `portcullis demo`: a gateway and its surroundings on one machine, without further installation.
//!
//! A gateway reads the manifests of `examples/shop` from a temporary folder. The demo simulates the
//! rest of a cluster: pods ([`cluster`]), a certificate authority, an identity provider
//! ([`provider`]) and client traffic ([`traffic`]).

mod authority;
mod cluster;
mod gateway;
mod guide;
mod provider;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::cluster::Cluster;
use self::gateway::Gateway;
use self::provider::Provider;
use self::traffic::Traffic;
use super::output;
use super::problems::Failure;

/// The DNS domain of the demo: names below `localhost` resolve to this machine (RFC 6761 §6.3).
const ZONE: &str = "portcullis.localhost";

/// The Namespace of client keys.
const CREDENTIALS: &str = "portcullis";

/// The interval of readiness probes.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How long traffic is observed in each step.
const STEP_DURATION: Duration = Duration::from_secs(2);

/// Run a gateway with sample services and an identity provider on this machine
///
/// Serves two environments with certificates, and shows how traffic moves when a pod becomes
/// unready.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// Exit after the scripted steps, with code 1 if one failed, instead of running until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Folder that is kept, instead of a temporary one; manifests in its folder `manifests` are used
    /// as they are
    #[arg(long, value_name = "PATH")]
    folder: Option<PathBuf>,
}

/// Where the demo's files are.
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

/// The outcome of the scripted steps.
#[derive(Debug, Default)]
struct Verdict {
    failed: u64,
    unexpected: Vec<String>,
}

// === impl Demo ===

impl Demo {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        runtime.block_on(self.start())
    }

    async fn start(self) -> Result<ExitCode, Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
        let folder = Folder::open(self.folder.as_deref()).map_err(Failure::new)?;
        let cluster = Cluster::start(folder.path()).await?;
        let provider = Provider::start().await?;
        let gateway = Gateway::start(folder.path(), &provider.url()).await?;
        output::write(&guide::text(&gateway, &cluster, &provider))?;

        let code = tokio::select! {
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            finished = self.demonstrate(&gateway, &cluster) => finished,
            stopped = cluster.probe() => stopped,
        };
        output::write("\ndemo: stopping, and cleaning up\n")?;
        gateway.stop().await?;
        folder.close().map_err(Failure::new)?;
        code
    }

    async fn demonstrate(&self, gateway: &Gateway, cluster: &Cluster) -> Result<ExitCode, Failure> {
        let traffic = Traffic::start(gateway, &format!("web--staging.{ZONE}"))?;
        let verdict = steps(cluster, gateway, &traffic).await?;
        for unexpected in &verdict.unexpected {
            output::write(&format!("demo: unexpected result: {unexpected}\n"))?;
        }
        if self.once {
            let good = verdict.failed == 0 && verdict.unexpected.is_empty();
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        output::write(guide::INTERACTIVE)?;
        cluster.report_changes(&traffic, gateway).await
    }
}

/// The scripted steps: a pod becomes unready, traffic moves away, and returns.
async fn steps(
    cluster: &Cluster,
    gateway: &Gateway,
    traffic: &Traffic,
) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::default();
    output::write("\nRequests to web in staging. web-3 starts unready.\n")?;
    verdict.observe("both ready pods serve", traffic, &["web-1", "web-2"]).await?;

    let time = cluster.switch("web-2", false, gateway).await?;
    output::write(&format!(
        "  web-2 fails its readiness probe; the gateway applied this within {} ms\n",
        time.as_millis()
    ))?;
    verdict.observe("traffic has moved", traffic, &["web-1"]).await?;

    for pod in ["web-2", "web-3"] {
        let time = cluster.switch(pod, true, gateway).await?;
        output::write(&format!(
            "  {pod} is ready; the gateway applied this within {} ms\n",
            time.as_millis()
        ))?;
    }
    verdict.observe("all three pods serve", traffic, &["web-1", "web-2", "web-3"]).await?;
    output::write(&format!("  {} requests, {} failed\n", traffic.total(), verdict.failed))?;
    Ok(verdict)
}

// === impl Folder ===

impl Folder {
    fn open(kept: Option<&Path>) -> std::io::Result<Self> {
        match kept {
            Some(path) => {
                std::fs::create_dir_all(path)?;
                Ok(Self::Kept(path.canonicalize()?))
            }
            None => {
                tempfile::Builder::new().prefix("portcullis-demo-").tempdir().map(Self::Temporary)
            }
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }

    fn close(self) -> std::io::Result<()> {
        match self {
            Self::Temporary(folder) => folder.close(),
            Self::Kept(_) => Ok(()),
        }
    }
}

// === impl Verdict ===

impl Verdict {
    /// Observes traffic for a while, and checks that exactly the `expected` pods responded.
    async fn observe(
        &mut self,
        title: &str,
        traffic: &Traffic,
        expected: &[&str],
    ) -> Result<(), Failure> {
        traffic.settle().await?;
        tokio::time::sleep(STEP_DURATION).await;
        traffic.heard_from(expected, 5 * STEP_DURATION).await;
        let tally = traffic.tally();
        output::write(&format!("    {:<28} {tally}\n", format!("{title}:")))?;
        self.failed += tally.failed;
        if tally.failed > 0 {
            self.unexpected.push(format!("{} requests failed", tally.failed));
        }
        if !tally.pods.keys().eq(expected) {
            self.unexpected.push(format!("{title}: {tally}"));
        }
        Ok(())
    }
}
