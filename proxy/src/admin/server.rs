//! The HTTP/1.1 server of the operators' listeners. Everything about it is bounded: connections in
//! total and by peer, request heads, and the lifetime of a connection. A connection carries one
//! request, without keep-alive or pipelining.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_identity::connections::{Capacity, ConnectionGuard, ConnectionTasks};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use crate::listen::accept::is_of_one_connection;

/// The longest request head, and the size of a write, in octets.
const BUFFER: usize = 16 * 1024;
/// How long a request's head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause after a lack of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// The properties of one listener, and its counter.
#[derive(Debug)]
pub(super) struct Listener {
    /// Its name in logs and metrics.
    pub(super) name: &'static str,
    /// The most connections.
    pub(super) capacity: Capacity,
    /// The longest lifetime of a connection.
    pub(super) lifetime: Duration,
    /// Connections that were closed to make room.
    pub(super) evicted: AtomicU64,
}

/// Handles the requests of a listener.
pub(super) trait Handler: Send + Sync + 'static {
    /// Handles a request of `peer`.
    fn handle(
        &self,
        request: &Request<Incoming>,
        peer: IpAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// Serves forever; connections are closed with the task.
pub(super) async fn serve(
    socket: TcpListener,
    listener: Arc<Listener>,
    handler: Arc<impl Handler>,
) {
    let connections = ConnectionTasks::new(listener.capacity);
    let mut tasks = JoinSet::new();
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let peer = peer.ip();
                let evicted = connections.spawn(&mut tasks, peer, |guard| {
                    let connection = connection(stream, peer, guard, Arc::clone(&handler));
                    timeout(listener.lifetime, connection)
                });
                listener.evicted.fetch_add(u64::from(evicted), Ordering::Relaxed);
                // Read its request before others are accepted, which might evict it.
                yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => exhausted(&listener, &error).await,
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn exhausted(listener: &Listener, error: &io::Error) {
    tracing::warn!(listener = listener.name, %error, "failed to accept a connection");
    sleep(BACK_OFF).await;
}

async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    guard: ConnectionGuard,
    handler: Arc<impl Handler>,
) {
    let service = service_fn(|request| {
        guard.set_has_request(true);
        let handler = &handler;
        async move { Ok::<_, Infallible>(handler.handle(&request, peer).await) }
    });
    // A late or broken connection need not be reported.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

// === impl Listener ===

impl Listener {
    pub(super) fn new(name: &'static str, capacity: Capacity, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self { name, capacity, lifetime, evicted: AtomicU64::new(0) })
    }
}
