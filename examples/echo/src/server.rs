//! The server: its port, readiness and shutdown.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::count::Counts;
use crate::record::Record;
use crate::{duration, service};

/// The options of a server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The address to listen on; port 0 selects a free one.
    pub address: SocketAddr,
    /// The name of the pod.
    pub name: String,
    /// How long it serves, unready, after it was asked to stop.
    pub shutdown_delay: Duration,
    /// How long requests in progress may take after that.
    pub shutdown_deadline: Duration,
    /// The folder that `POST /record/ID` writes to.
    pub records: Option<PathBuf>,
    /// Every request of this number fails, such as every fifth; none if it is 0. Probes do not.
    pub fail_every: u64,
    /// How long every response takes. Probes are answered at once.
    pub delay: Duration,
}

/// A running server. It stops accepting on drop.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    state: Arc<State>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    options: Options,
}

/// The state that all connections of a server share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) ready: AtomicBool,
    pub(crate) counts: Arc<watch::Sender<Counts>>,
    pub(crate) record: Record,
    pub(crate) delay: Duration,
    fail_every: u64,
    requests: AtomicU64,
}

// === impl Options ===

impl Options {
    /// Options for tests: a free port of the loopback, and no shutdown delay.
    #[must_use]
    pub fn loopback(name: &str) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: name.to_owned(),
            shutdown_delay: Duration::ZERO,
            shutdown_deadline: Duration::from_secs(10),
            records: None,
            fail_every: 0,
            delay: Duration::ZERO,
        }
    }

    /// Reads the options from the environment:
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `ECHO_ADDRESS` | address to listen on | `[::]:8080` |
    /// | `POD_NAME` | name of the pod | `HOSTNAME` |
    /// | `ECHO_SHUTDOWN_DELAY` | how long it serves, unready, after SIGTERM | `5s` |
    /// | `ECHO_RECORDS` | folder of the records, which `POST /record/ID` writes | none |
    /// | `ECHO_FAIL_EVERY` | every request of this number fails with 500, such as every `5`th | none |
    /// | `ECHO_DELAY` | how long every response takes | `0s` |
    ///
    /// # Errors
    /// Returns a message about an invalid variable.
    pub fn from_environment() -> Result<Self, String> {
        let address = variable("ECHO_ADDRESS").unwrap_or_else(|| "[::]:8080".to_owned());
        let duration = |name: &str, default: &str| {
            let text = variable(name).unwrap_or_else(|| default.to_owned());
            duration::parse(&text)
                .ok_or_else(|| format!("{name}: `{text}` is not a duration, such as `5s`"))
        };
        let fail_every = variable("ECHO_FAIL_EVERY").unwrap_or_else(|| "0".to_owned());
        Ok(Self {
            address: address.parse().map_err(|_| {
                format!(
                    "ECHO_ADDRESS: `{address}` is not an address with a port, such as `[::]:8080`"
                )
            })?,
            name: variable("POD_NAME")
                .or_else(|| variable("HOSTNAME"))
                .unwrap_or_else(|| "echo".to_owned()),
            shutdown_delay: duration("ECHO_SHUTDOWN_DELAY", "5s")?,
            shutdown_deadline: Duration::from_secs(20),
            records: variable("ECHO_RECORDS").map(PathBuf::from),
            fail_every: fail_every.parse().map_err(|_| {
                format!("ECHO_FAIL_EVERY: `{fail_every}` is not a number, such as `5`")
            })?,
            delay: duration("ECHO_DELAY", "0s")?,
        })
    }
}

// === impl State ===

impl State {
    /// Counts a request, and returns whether it is one that fails.
    pub(crate) fn fails(&self) -> bool {
        let number = self.requests.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        self.fail_every > 0 && number.is_multiple_of(self.fail_every)
    }
}

// === impl Echo ===

impl Echo {
    /// Starts a server on the current tokio runtime.
    ///
    /// # Errors
    /// Returns an error if the address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            name: options.name.clone(),
            ready: AtomicBool::new(true),
            counts: Arc::new(watch::Sender::new(Counts::default())),
            record: Record::new(options.records.as_deref()),
            delay: options.delay,
            fail_every: options.fail_every,
            requests: AtomicU64::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let task =
            tokio::spawn(accept(listener, Arc::clone(&state), stopped, options.shutdown_deadline));
        Ok(Self { address, state, stop, task, options })
    }

    /// Serves a connection that was accepted elsewhere, such as by a TLS server.
    pub async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: I) {
        let service = service::of(Arc::clone(&self.state));
        // The counts report the outcome of the exchanges.
        let _ = builder().serve_connection_with_upgrades(TokioIo::new(io), service).await;
    }

    /// Returns the address that it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the name of the pod.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// Watches the number of exchanges.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.state.counts.subscribe()
    }

    /// Switches the response to `GET /ready`. Other requests are still served.
    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Relaxed);
    }

    /// Stops as a well-behaved pod: becomes unready, serves for the delay, then accepts no new
    /// connections and completes requests in progress within the deadline.
    pub async fn stop(self) {
        self.set_ready(false);
        tokio::time::sleep(self.options.shutdown_delay).await;
        // Sending fails if the task has panicked.
        let _ = self.stop.send(());
        let _ = self.task.await;
    }
}

async fn accept(
    listener: TcpListener,
    state: Arc<State>,
    mut stopped: oneshot::Receiver<()>,
    deadline: Duration,
) {
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            _ = &mut stopped => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors: wait for other connections to close.
                Err(_) => { tokio::time::sleep(Duration::from_millis(20)).await; continue }
            },
        };
        let _ = stream.set_nodelay(true);
        let service = service::of(Arc::clone(&state));
        let builder = builder();
        let watcher = graceful.watcher();
        tokio::spawn(async move {
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            let _ = watcher.watch(connection.into_owned()).await;
        });
    }
    drop(listener);
    let _ = tokio::time::timeout(deadline, graceful.shutdown()).await;
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().enable_connect_protocol();
    builder
}
