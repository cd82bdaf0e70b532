//! `portcullis demo`: the whole main job on one machine, with nothing else installed.
//!
//! A gateway reads the manifests of `examples/shop` from a temporary folder. What a cluster would
//! do around it is done here: pods ([`cluster`]), an authority for certificates, a provider of
//! identities ([`provider`]), and somebody who calls ([`traffic`]).

mod authority;
mod cluster;
mod gateway;
mod guide;
mod provider;
mod traffic;

use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::cluster::Cluster;
use self::gateway::Gateway;
use self::provider::Provider;
use self::traffic::Traffic;
use super::output;
use super::problems::Failure;

/// The DNS domain of the demo: names below `localhost` lead to this machine by themselves (RFC 6761
/// §6.3).
const ZONE: &str = "portcullis.localhost";

/// The Namespace of client keys.
const CREDENTIALS: &str = "portcullis";

/// How often pods are asked whether they are ready.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);

/// How long each scene is watched.
const SCENE: Duration = Duration::from_secs(2);

/// Shows the main job on this machine: a gateway, sample services in two environments,
/// certificates, and what happens when a pod is not ready.
#[derive(Debug, Args)]
pub(super) struct Demo {
    /// End when the play is over, with exit code 1 where it did not go as it should, instead of
    /// running until Ctrl-C
    #[arg(long)]
    once: bool,
}

/// What of the play went as it should.
#[derive(Debug, Default)]
struct Verdict {
    failed: u64,
    surprises: Vec<String>,
}

// === impl Demo ===

impl Demo {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(Failure::new)?;
        runtime.block_on(self.play())
    }

    async fn play(self) -> Result<ExitCode, Failure> {
        let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::new)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(Failure::new)?;
        let folder =
            tempfile::Builder::new().prefix("portcullis-demo-").tempdir().map_err(Failure::new)?;
        let cluster = Cluster::start(folder.path()).await?;
        let provider = Provider::start().await?;
        let gateway = Gateway::start(folder.path(), &provider.url()).await?;
        output::write(&guide::text(&gateway, &cluster, &provider))?;

        let code = tokio::select! {
            _ = interrupt.recv() => Ok(ExitCode::SUCCESS),
            _ = terminate.recv() => Ok(ExitCode::SUCCESS),
            played = self.show(&gateway, &cluster) => played,
            never = cluster.probe() => never,
        };
        output::write("\ndemo: stopping, and cleaning up\n")?;
        gateway.stop().await?;
        folder.close().map_err(Failure::new)?;
        code
    }

    async fn show(&self, gateway: &Gateway, cluster: &Cluster) -> Result<ExitCode, Failure> {
        let traffic = Traffic::start(gateway, &format!("web--staging.{ZONE}"))?;
        let verdict = scenes(cluster, gateway, &traffic).await?;
        for surprise in &verdict.surprises {
            output::write(&format!("demo: this should not have happened: {surprise}\n"))?;
        }
        if self.once {
            let good = verdict.failed == 0 && verdict.surprises.is_empty();
            return Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        output::write(guide::INTERMISSION)?;
        cluster.tell_changes(&traffic, gateway).await
    }
}

/// The play: a pod turns unready by its own readiness, traffic moves, and comes back.
async fn scenes(
    cluster: &Cluster,
    gateway: &Gateway,
    traffic: &Traffic,
) -> Result<Verdict, Failure> {
    let mut verdict = Verdict::default();
    output::write("\nWatch requests to web in staging. web-3 is not ready from the start.\n")?;
    verdict.scene("both ready pods are asked", traffic, &["web-1", "web-2"]).await?;

    let time = cluster.switch("web-2", false, gateway).await?;
    output::write(&format!(
        "  web-2 has told its readiness probe no; the gateway followed within {} ms\n",
        time.as_millis()
    ))?;
    verdict.scene("traffic has moved", traffic, &["web-1"]).await?;

    for pod in ["web-2", "web-3"] {
        let time = cluster.switch(pod, true, gateway).await?;
        output::write(&format!(
            "  {pod} is ready; the gateway followed within {} ms\n",
            time.as_millis()
        ))?;
    }
    verdict.scene("all three are asked", traffic, &["web-1", "web-2", "web-3"]).await?;
    output::write(&format!("  {} requests, {} failed\n", traffic.total(), verdict.failed))?;
    Ok(verdict)
}

// === impl Verdict ===

impl Verdict {
    async fn scene(
        &mut self,
        title: &str,
        traffic: &Traffic,
        expected: &[&str],
    ) -> Result<(), Failure> {
        traffic.settle().await?;
        tokio::time::sleep(SCENE).await;
        let tally = traffic.tally();
        output::write(&format!("    {:<28} {tally}\n", format!("{title}:")))?;
        self.failed += tally.failed;
        if tally.failed > 0 {
            self.surprises.push(format!("{} requests failed", tally.failed));
        }
        if !tally.pods.keys().eq(expected) {
            self.surprises.push(format!("{title}, but {tally}"));
        }
        Ok(())
    }
}
