//! The listener of the API.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;

use crate::settings::TlsSettings;

/// The most connections; more wait in the backlog.
const MAX_CONNECTIONS: usize = 256;
/// The longest that a TLS handshake, or the header of a request, may take.
const MAX_HANDSHAKE: Duration = Duration::from_secs(10);
/// The longest that a connection lasts.
const MAX_CONNECTION: Duration = Duration::from_secs(120);
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
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let stream = match self.tcp.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "failed to accept a connection");
                    sleep(PAUSE).await;
                    continue;
                }
            };
            let (tls, router) = (self.tls.clone(), router.clone());
            tokio::spawn(async move {
                let _place = place;
                // A connection that lasts longer is closed; clients connect again.
                let _ = timeout(MAX_CONNECTION, connection(stream, tls, router)).await;
            });
        }
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, router: Router) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => requests(stream, router).await,
        Some(tls) => {
            if let Ok(Ok(stream)) = timeout(MAX_HANDSHAKE, tls.accept(stream)).await {
                requests(stream, router).await;
            }
        }
    }
}

async fn requests<S>(stream: S, router: Router)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(MAX_HANDSHAKE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = served.await {
        tracing::debug!(%error, "a connection to the API ended");
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
