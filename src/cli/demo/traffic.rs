//! Client traffic: sequential requests, each answered with the name of a pod.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use super::gateway::Gateway;
use crate::cli::problems::Failure;

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(10);
/// Timeout for a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Traffic that continues until this is dropped.
pub(super) struct Traffic {
    tally: Arc<watch::Sender<Tally>>,
    task: JoinHandle<()>,
}

/// The number of responses of each pod.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) pods: BTreeMap<String, u64>,
    pub(super) failed: u64,
    before: u64,
}

struct Caller {
    address: SocketAddr,
    name: ServerName<'static>,
    connector: TlsConnector,
    request: String,
}

// === impl Traffic ===

impl Traffic {
    /// Starts to call `host` through `gateway`, trusting the demo's authority only.
    pub(super) fn start(gateway: &Gateway, host: &str) -> Result<Self, Failure> {
        let ca = fs::read(gateway.ca()).map_err(Failure::new)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_slice(&ca).map_err(Failure::new)?)
            .map_err(Failure::new)?;
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(Failure::new)?;
        let config = builder.with_root_certificates(roots).with_no_client_auth();
        let caller = Caller {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, gateway.https())),
            name: ServerName::try_from(host.to_owned()).map_err(Failure::new)?,
            connector: TlsConnector::from(Arc::new(config)),
            request: format!("GET /whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
        };
        let tally = Arc::new(watch::Sender::new(Tally::default()));
        let task = tokio::spawn(call(caller, Arc::clone(&tally)));
        Ok(Self { tally, task })
    }

    /// Returns the responses since the last [`reset`](Self::reset).
    pub(super) fn tally(&self) -> Tally {
        self.tally.borrow().clone()
    }

    /// Resets the tally.
    pub(super) fn reset(&self) {
        self.tally.send_modify(|tally| {
            *tally = Tally { before: tally.before + tally.sum(), ..Tally::default() }
        });
    }

    /// Resets the tally after the current request completes: it may have been sent before a change.
    pub(super) async fn settle(&self) -> Result<(), Failure> {
        let completed = self.total();
        self.tally
            .subscribe()
            .wait_for(|tally| tally.before + tally.sum() > completed)
            .await
            .map_err(Failure::new)?;
        self.reset();
        Ok(())
    }

    /// Waits until each of these pods has responded since the last [`reset`](Self::reset), at most
    /// for `limit`: a pod that is new gets few requests at first.
    pub(super) async fn heard_from(&self, pods: &[&str], limit: Duration) {
        let mut tally = self.tally.subscribe();
        let all = tally.wait_for(|tally| pods.iter().all(|pod| tally.pods.contains_key(*pod)));
        // Whoever reads the tally then sees which have not.
        let _ = tokio::time::timeout(limit, all).await;
    }

    /// Returns the number of all requests so far.
    pub(super) fn total(&self) -> u64 {
        let tally = self.tally.borrow();
        tally.before + tally.sum()
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(caller: Caller, tally: Arc<watch::Sender<Tally>>) {
    loop {
        let answer = tokio::time::timeout(TIMEOUT, caller.once()).await;
        let pod = answer.ok().and_then(Result::ok).as_deref().and_then(pod_of);
        tally.send_modify(|tally| match pod {
            Some(pod) => *tally.pods.entry(pod).or_default() += 1,
            None => tally.failed += 1,
        });
        tokio::time::sleep(PAUSE).await;
    }
}

/// Returns the body of a response with status 200.
fn pod_of(answer: &str) -> Option<String> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200 ").then(|| body.trim().to_owned())
}

// === impl Caller ===

impl Caller {
    async fn once(&self) -> io::Result<String> {
        let stream = TcpStream::connect(self.address).await?;
        let mut stream = self.connector.connect(self.name.clone(), stream).await?;
        stream.write_all(self.request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }
}

// === impl Tally ===

impl Tally {
    fn sum(&self) -> u64 {
        self.pods.values().sum::<u64>() + self.failed
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (pod, count) in &self.pods {
            write!(f, "{separator}{pod} {count}")?;
            separator = ", ";
        }
        if self.failed > 0 {
            write!(f, "{separator}failed {}", self.failed)?;
        }
        Ok(())
    }
}
