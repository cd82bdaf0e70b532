//! The listener of the API. No peer can use up its connections.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use portcullis_identity::connections::{Capacity, ConnectionGuard, ConnectionTasks};
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinSet, yield_now};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use super::body;
use crate::settings::TlsSettings;

/// The most connections; for a further one, the peer with the most loses one. One peer may have
/// those of a hundred builds that end at once.
const CAPACITY: Capacity = Capacity { connections: 256, per_peer: 128 };
/// The longest that a TLS handshake may take, and the longest from the end of a response to the end
/// of the next request's header.
const MAX_IDLE: Duration = Duration::from_secs(10);
/// How long a connection accepts requests.
const MAX_CONNECTION: Duration = Duration::from_secs(120);
/// The longest that the last request of a connection may take.
const MAX_REQUEST: Duration = Duration::from_secs(60);
/// The longest header of a request, in octets.
const MAX_HEADER: usize = 32 * 1024;
/// How long accepting pauses when the process has no file descriptor left.
const PAUSE: Duration = Duration::from_millis(100);

/// A listener for the API.
pub struct Listener {
    tcp: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address cannot be used.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] std::io::Error),
    /// The certificate cannot be read.
    #[error("{0}: {1}")]
    Certificate(String, String),
    /// The certificate cannot be used.
    #[error("the certificate of the API cannot be used: {0}")]
    Tls(#[from] rustls::Error),
}

// === impl Listener ===

impl Listener {
    /// Listens on an address.
    ///
    /// # Errors
    /// The address is in use, or the certificate cannot be used.
    pub async fn bind(address: SocketAddr, tls: Option<&TlsSettings>) -> Result<Self, ServeError> {
        let tls = tls.map(acceptor).transpose()?;
        let failed = |error| ServeError::Listen(address, error);
        Ok(Self { tcp: TcpListener::bind(address).await.map_err(failed)?, tls })
    }

    /// The address that it listens on.
    ///
    /// # Errors
    /// The system does not tell it.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves connections until it is dropped.
    pub async fn serve(self, router: Router) {
        let router = router.layer(from_fn(body::read_on));
        let connections = ConnectionTasks::new(CAPACITY);
        let mut tasks = JoinSet::new();
        loop {
            match self.tcp.accept().await {
                Ok((stream, peer)) => {
                    let (tls, router) = (self.tls.clone(), router.clone());
                    let evicted = connections.spawn(&mut tasks, peer.ip(), |guard| {
                        connection(stream, tls, router, guard)
                    });
                    if evicted {
                        tracing::debug!("closed a connection to make room for another one");
                    }
                    // Read its request before others are accepted, which might evict it.
                    yield_now().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(PAUSE).await;
                }
            }
            while tasks.try_join_next().is_some() {}
        }
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    router: Router,
    guard: ConnectionGuard,
) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => requests(stream, router, &guard).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(MAX_IDLE, tls.accept(stream)).await {
                requests(stream, router, &guard).await;
            }
        }
    }
}

async fn requests<S>(stream: S, router: Router, guard: &ConnectionGuard)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request: Request<Incoming>| {
        guard.set_has_request(true);
        let call = router.call(request);
        async move {
            let response = call.await;
            guard.set_has_request(false);
            response
        }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_IDLE)
        .max_buf_size(MAX_HEADER)
        .serve_connection(TokioIo::new(stream), service);
    let mut served = pin!(served);
    // A late or broken connection need not be reported. After its time, clients connect again.
    if timeout(MAX_CONNECTION, &mut served).await.is_err() {
        served.as_mut().graceful_shutdown();
        let _ = timeout(MAX_REQUEST, served).await;
    }
}

fn acceptor(settings: &TlsSettings) -> Result<TlsAcceptor, ServeError> {
    let invalid = |path: &std::path::Path, error: rustls_pki_types::pem::Error| {
        ServeError::Certificate(path.display().to_string(), error.to_string())
    };
    let chain = CertificateDer::pem_file_iter(&settings.certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| invalid(&settings.certificate, error))?;
    let key = PrivateKeyDer::from_pem_file(&settings.key)
        .map_err(|error| invalid(&settings.key, error))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use axum::routing::post;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_connection_outlives_a_request_whose_body_nobody_reads() {
        const REQUEST: &str = "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\n";
        let called = Arc::new(Notify::new());
        let calls = Arc::clone(&called);
        let reject = move || async move {
            calls.notify_one();
            "rejected"
        };
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), None).await.unwrap();
        let address = listener.address().unwrap();
        let serving = tokio::spawn(listener.serve(Router::new().route("/", post(reject))));
        let mut client = TcpStream::connect(address).await.unwrap();
        let mut received = Vec::new();
        for times in 1..=2 {
            client.write_all(REQUEST.as_bytes()).await.unwrap();
            called.notified().await;
            // The response would be sent now, and the connection closed.
            for _ in 0..10 {
                yield_now().await;
            }
            client.write_all(b"12345").await.unwrap();
            while String::from_utf8_lossy(&received).matches("rejected").count() < times {
                let read = timeout(MAX_IDLE, client.read_buf(&mut received)).await;
                assert_ne!(read.unwrap().unwrap(), 0, "{}", String::from_utf8_lossy(&received));
            }
        }
        serving.abort();
    }
}
