//! One server: its port, its readiness, its end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::count::Counts;
use crate::{duration, service};

/// How a server is set up.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it listens; port 0 takes a free one.
    pub address: SocketAddr,
    /// What it calls itself: the pod's name.
    pub name: String,
    /// How long it goes on serving after it was told to stop, not ready any more.
    pub shutdown_delay: Duration,
    /// How long requests under way may take after that.
    pub shutdown_deadline: Duration,
}

/// A running server. Dropped, it stops accepting at once.
#[derive(Debug)]
pub struct Echo {
    address: SocketAddr,
    state: Arc<State>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
    options: Options,
}

/// What all connections of a server share.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) name: String,
    pub(crate) ready: AtomicBool,
    pub(crate) counts: Arc<watch::Sender<Counts>>,
}

// === impl Options ===

impl Options {
    /// A free port of the loopback, for tests: stops without delay.
    #[must_use]
    pub fn loopback(name: &str) -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            name: name.to_owned(),
            shutdown_delay: Duration::ZERO,
            shutdown_deadline: Duration::from_secs(10),
        }
    }

    /// What the process' environment says:
    ///
    /// | variable | meaning | default |
    /// | --- | --- | --- |
    /// | `ECHO_ADDRESS` | where it listens | `[::]:8080` |
    /// | `POD_NAME` | what it calls itself | `HOSTNAME` |
    /// | `ECHO_SHUTDOWN_DELAY` | how long it goes on serving after SIGTERM, not ready any more | `5s` |
    ///
    /// # Errors
    /// A variable that cannot be understood, said for people.
    pub fn from_environment() -> Result<Self, String> {
        let address = variable("ECHO_ADDRESS").unwrap_or_else(|| "[::]:8080".to_owned());
        let delay = variable("ECHO_SHUTDOWN_DELAY").unwrap_or_else(|| "5s".to_owned());
        Ok(Self {
            address: address.parse().map_err(|_| {
                format!("ECHO_ADDRESS: `{address}` is no address with a port such as `[::]:8080`")
            })?,
            name: variable("POD_NAME")
                .or_else(|| variable("HOSTNAME"))
                .unwrap_or_else(|| "echo".to_owned()),
            shutdown_delay: duration::parse(&delay).ok_or_else(|| {
                format!("ECHO_SHUTDOWN_DELAY: `{delay}` is no duration such as `5s`")
            })?,
            shutdown_deadline: Duration::from_secs(20),
        })
    }
}

// === impl Echo ===

impl Echo {
    /// Binds and serves, on the current tokio runtime.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub async fn start(options: Options) -> io::Result<Self> {
        let listener = TcpListener::bind(options.address).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State {
            name: options.name.clone(),
            ready: AtomicBool::new(true),
            counts: Arc::new(watch::Sender::new(Counts::default())),
        });
        let (stop, stopped) = oneshot::channel();
        let task =
            tokio::spawn(accept(listener, Arc::clone(&state), stopped, options.shutdown_deadline));
        Ok(Self { address, state, stop, task, options })
    }

    /// Serves one connection that something else accepted, such as a TLS server.
    pub async fn serve<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, io: I) {
        let service = service::of(Arc::clone(&self.state));
        // What ends a connection is the peer's affair; the counts tell what became of its
        // exchanges.
        let _ = builder().serve_connection_with_upgrades(TokioIo::new(io), service).await;
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it calls itself.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// What it has seen so far, to look at or to await.
    #[must_use]
    pub fn counts(&self) -> watch::Receiver<Counts> {
        self.state.counts.subscribe()
    }

    /// Switches what `GET /ready` answers. Requests are served all the same.
    pub fn set_ready(&self, ready: bool) {
        self.state.ready.store(ready, Ordering::Relaxed);
    }

    /// Stops as a well-behaved pod: not ready at once, still serving for the delay, then no new
    /// connection, and what is under way finishes within the deadline.
    pub async fn stop(self) {
        self.set_ready(false);
        tokio::time::sleep(self.options.shutdown_delay).await;
        // The task is gone already where it panicked; joining it tells.
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
                // Descriptors have run out: others must close before it helps to ask again.
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
