//! The HTTP/1.1 server of the listeners that are not for clients. Everything about it is bounded:
//! connections in all and by peer, a request's head, the time for a connection. A connection
//! carries one request: nothing stays open between two, and nothing is pipelined.

use std::convert::Infallible;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet, yield_now};
use tokio::time::{sleep, timeout};

use super::connections::{Capacity, Connections, Id};
use crate::listen::accept::is_of_one_connection;

/// Octets of a request's head, and of what is written at a time.
const BUFFER: usize = 16 * 1024;
/// For a request's head.
const HEAD: Duration = Duration::from_secs(5);
/// After accepting failed for want of descriptors or memory.
const BACK_OFF: Duration = Duration::from_millis(100);

/// What tells one of these listeners from another.
#[derive(Debug)]
pub(super) struct Listener {
    /// Its name in logs and metrics.
    pub(super) name: &'static str,
    /// How many connections there may be.
    pub(super) capacity: Capacity,
    /// How long a connection may last in all.
    pub(super) lifetime: Duration,
    /// Connections that were closed to make room.
    pub(super) evicted: AtomicU64,
}

/// Whose request it is that is answered.
pub(super) trait Answer: Send + Sync + 'static {
    /// Answers a request of `peer`.
    fn answer(
        &self,
        request: &Request<Incoming>,
        peer: IpAddr,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// One connection, counted until this is dropped.
struct Counted {
    connections: Arc<Mutex<Connections<AbortHandle>>>,
    id: Id,
}

/// Serves forever; connections end with the task.
pub(super) async fn serve(socket: TcpListener, listener: Arc<Listener>, pages: Arc<impl Answer>) {
    let connections = Arc::new(Mutex::new(Connections::<AbortHandle>::new(listener.capacity)));
    let mut tasks = JoinSet::new();
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let peer = peer.ip();
                let (id, victim) = lock(&connections).admit(peer);
                if let Some(victim) = victim {
                    listener.evicted.fetch_add(1, Ordering::Relaxed);
                    victim.abort();
                }
                let counted = Counted { connections: Arc::clone(&connections), id };
                let connection = connection(stream, peer, counted, Arc::clone(&pages));
                let task = tasks.spawn(timeout(listener.lifetime, connection));
                lock(&connections).set_handle(id, task);
                // So that its request is read before many others are accepted, which might make
                // it go.
                yield_now().await;
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => exhausted(&listener, &error).await,
        }
        while tasks.try_join_next().is_some() {}
    }
}

async fn exhausted(listener: &Listener, error: &io::Error) {
    tracing::warn!(listener = listener.name, %error, "no connection can be accepted for now");
    sleep(BACK_OFF).await;
}

async fn connection(stream: TcpStream, peer: IpAddr, counted: Counted, pages: Arc<impl Answer>) {
    let service = service_fn(|request| {
        counted.has_request();
        let pages = &pages;
        async move { Ok::<_, Infallible>(pages.answer(&request, peer).await) }
    });
    // Late or broken, there is nobody to report it to.
    let _ = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

fn lock<H>(connections: &Mutex<Connections<H>>) -> MutexGuard<'_, Connections<H>> {
    connections.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl Listener ===

impl Listener {
    pub(super) fn new(name: &'static str, capacity: Capacity, lifetime: Duration) -> Arc<Self> {
        Arc::new(Self { name, capacity, lifetime, evicted: AtomicU64::new(0) })
    }
}

// === impl Counted ===

impl Counted {
    fn has_request(&self) {
        lock(&self.connections).set_has_request(self.id);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        lock(&self.connections).remove(self.id);
    }
}
