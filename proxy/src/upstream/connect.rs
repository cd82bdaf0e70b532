//! Connections to pods: TCP, and TLS if the Service requires it.

use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use portcullis_config::settings::Settings;
use portcullis_config::snapshot::backend::UpstreamProtocol;
use portcullis_config::snapshot::rate_limit::RateScope;
use portcullis_identity::tls_roots::{self, AuthoritiesError};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::limit::Requester;
use crate::random::Random;
use crate::telemetry::{Meter, UpstreamConnection};

/// TCP keepalive: idle time before the first probe, and interval of probes.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(5));

/// The certificate authorities that pods' certificates are verified against.
#[derive(Clone)]
pub(crate) struct Authorities(Arc<ClientConfig>);

/// Establishes connections to pods.
pub(super) struct Connector {
    pub(super) settings: Arc<Settings>,
    pub(super) meter: Rc<Meter>,
    /// Spreads the probes of ejected endpoints.
    pub(super) random: Random,
    hasher: RandomState,
    tls: Option<TlsConnector>,
}

/// A connection to a pod, counted in metrics until it is dropped.
#[derive(Debug)]
pub(crate) struct Transport {
    stream: Stream,
    _open: UpstreamConnection,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

// === impl Authorities ===

impl Authorities {
    /// Reads a PEM file of certificates.
    ///
    /// # Errors
    /// It cannot be read, or contains no certificate.
    pub(crate) fn read(file: &Path) -> Result<Self, AuthoritiesError> {
        let config = tls_roots::client_config(tls_roots::read(file)?, &[b"h2", b"http/1.1"])?;
        Ok(Self(Arc::new(config)))
    }
}

// === impl Connector ===

impl Connector {
    pub(super) fn new(
        settings: Arc<Settings>,
        authorities: Option<Authorities>,
        meter: Rc<Meter>,
    ) -> Self {
        Self {
            settings,
            meter,
            random: Random::seeded(0),
            hasher: RandomState::new(),
            tls: authorities.map(|authorities| TlsConnector::from(authorities.0)),
        }
    }

    /// By whom a request is counted where endpoints are almost full.
    pub(super) fn key(&self, requester: Requester<'_>) -> NonZeroU64 {
        requester.key(&self.hasher, RateScope::User)
    }

    /// Connects to a pod, with TLS if the protocol requires it.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        protocol: &UpstreamProtocol,
        timeout: Duration,
    ) -> io::Result<Transport> {
        match protocol {
            UpstreamProtocol::Http1 | UpstreamProtocol::H2c => self.plain(address, timeout).await,
            UpstreamProtocol::Tls { server_name } => self.tls(address, server_name, timeout).await,
        }
    }

    async fn plain(&self, address: SocketAddr, timeout: Duration) -> io::Result<Transport> {
        let stream = within(timeout, self.tcp(address)).await?;
        Ok(self.transport(Stream::Plain(stream)))
    }

    /// Connects to a pod whose certificate is valid for `server_name`.
    async fn tls(
        &self,
        address: SocketAddr,
        server_name: &str,
        timeout: Duration,
    ) -> io::Result<Transport> {
        let connector = self.tls.as_ref().ok_or_else(|| {
            io::Error::other("upstreams.certificateAuthorities is not configured")
        })?;
        let name = ServerName::try_from(server_name.to_owned()).map_err(io::Error::other)?;
        let connecting = async { connector.connect(name, self.tcp(address).await?).await };
        let stream = within(timeout, connecting).await?;
        Ok(self.transport(Stream::Tls(Box::new(stream))))
    }

    fn transport(&self, stream: Stream) -> Transport {
        Transport { stream, _open: self.meter.upstream_connection() }
    }

    async fn tcp(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        // An unreachable pod sends nothing, not even a reset: it must acknowledge what was sent
        // within this time.
        socket.set_tcp_user_timeout(Some(self.settings.timeouts.connect))?;
        let (idle, interval) = KEEPALIVE;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(idle).with_interval(interval))?;
        Ok(stream)
    }
}

async fn within<T>(
    timeout: Duration,
    connecting: impl Future<Output = io::Result<T>>,
) -> io::Result<T> {
    tokio::time::timeout(timeout, connecting).await.map_err(|_| io::ErrorKind::TimedOut)?
}

// === impl Transport ===

impl Transport {
    /// Whether it is not encrypted.
    pub(super) fn is_plain(&self) -> bool {
        matches!(self.stream, Stream::Plain(_))
    }

    /// Whether ALPN negotiated HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match &self.stream {
            Stream::Plain(_) => false,
            Stream::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, octets),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, octets),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
            Stream::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Stream::Plain(stream) => stream.is_write_vectored(),
            Stream::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
