//! The telemetry of a gateway, changed on its way to the builder: another clock, or another process.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What is changed.
#[derive(Clone, Default)]
struct Change {
    /// How many seconds its clock is behind.
    behind: u64,
    /// How often it was restarted.
    restarts: u32,
}

/// A replica of a gateway, as the builder reads it.
pub(super) struct Replica {
    address: SocketAddr,
    change: Arc<Mutex<Change>>,
    _serving: JoinSet<()>,
}

// === impl Replica ===

impl Replica {
    /// The replica whose telemetry listener is at `gateway`.
    pub(super) async fn start(gateway: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let change: Arc<Mutex<Change>> = Arc::default();
        let shared = Arc::clone(&change);
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let shared = Arc::clone(&shared);
                connections.spawn(async move {
                    let service = service_fn(|request| forward(gateway, &shared, request));
                    // The builder may leave at any time.
                    let _ = server::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self { address, change, _serving: serving }
    }

    /// Where the builder reads it.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets its clock behind by some seconds.
    pub(super) fn set_behind(&self, seconds: u64) {
        self.change.lock().expect("no test panics with it").behind = seconds;
    }

    /// It is another process from now on.
    pub(super) fn restart(&self) {
        self.change.lock().expect("no test panics with it").restarts += 1;
    }
}

async fn forward(
    gateway: SocketAddr,
    change: &Mutex<Change>,
    request: Request<Incoming>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().to_string();
    let change = change.lock().expect("no test panics with it").clone();
    let Some(mut feed) = read(gateway, &target).await else {
        let response = Response::builder().status(502).body(Full::default());
        return Ok(response.expect("a response"));
    };
    feed["now"] = feed["now"].as_u64().unwrap_or_default().saturating_sub(change.behind).into();
    if change.restarts > 0 {
        feed["start"] = format!("restarted {} times", change.restarts).into();
    }
    Ok(Response::new(Full::from(feed.to_string())))
}

async fn read(gateway: SocketAddr, target: &str) -> Option<Value> {
    let stream = TcpStream::connect(gateway).await.ok()?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.ok()?;
    let mut tasks = JoinSet::new();
    tasks.spawn(connection);
    let request = Request::get(target).header("host", gateway.to_string());
    let response = sender.send_request(request.body(Empty::<Bytes>::new()).ok()?).await.ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}
