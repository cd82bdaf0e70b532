//! A client as programs use one: HTTP/1.1 and HTTP/2 over TLS, with the certificate checked, and
//! every wait bounded.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::gateway::Gateway;

/// The longest that a connection or an answer may take before the client gives it up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const LARGEST_BODY: usize = 1 << 20;

pub(crate) type Failure = Box<dyn Error + Send + Sync>;

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Http1,
    Http2,
}

/// One connection to the gateway, for one hostname.
pub(crate) struct Connection {
    host: String,
    sender: Sender,
}

enum Sender {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

/// The path whose answer is the name of the pod.
pub(crate) const WHO: &str = "/whoami";

/// Asks for `path` of `host` once, on a connection of its own.
pub(crate) async fn get(
    gateway: &Gateway,
    to: SocketAddr,
    version: Version,
    host: &str,
    path: &str,
) -> Result<Answer, Failure> {
    Connection::open(gateway, to, version, host).await?.get(path).await
}

/// Connects to `to`, whose certificate has to name `host`.
pub(crate) async fn secured(
    config: Arc<ClientConfig>,
    to: SocketAddr,
    host: String,
) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(to).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(io::Error::other)?;
    TlsConnector::from(config).connect(name, stream).await
}

/// Asks a pod for `path`, past the gateway.
pub(crate) async fn plain(to: SocketAddr, path: &str) -> Result<Answer, Failure> {
    let stream = TokioIo::new(TcpStream::connect(to).await?);
    let (sender, connection) = http1::handshake(stream).await?;
    tokio::spawn(connection);
    Connection { host: to.to_string(), sender: Sender::Http1(sender) }.get(path).await
}

// === impl Connection ===

impl Connection {
    /// Connects to `to`, and makes sure that it has a certificate for `host`.
    pub(crate) async fn open(
        gateway: &Gateway,
        to: SocketAddr,
        version: Version,
        host: &str,
    ) -> Result<Self, Failure> {
        tokio::time::timeout(PATIENCE, Self::connect(gateway, to, version, host))
            .await
            .map_err(|_| "no connection in time")?
    }

    async fn connect(
        gateway: &Gateway,
        to: SocketAddr,
        version: Version,
        host: &str,
    ) -> Result<Self, Failure> {
        let stream = TokioIo::new(secured(gateway.tls(version), to, host.to_owned()).await?);
        let sender = match version {
            Version::Http1 => {
                let (sender, connection) = http1::handshake(stream).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), stream).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Self { host: host.to_owned(), sender })
    }

    /// The same connection for another stream; on HTTP/1.1 there is only one.
    pub(crate) fn another_stream(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { host: self.host.clone(), sender: Sender::Http2(sender.clone()) })
            }
        }
    }

    /// Whether the gateway has closed it: nothing more can be asked on it.
    pub(crate) fn is_closed(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => sender.is_closed(),
            Sender::Http2(sender) => sender.is_closed(),
        }
    }

    /// Asks for `path`, and waits for the whole answer.
    pub(crate) async fn get(&mut self, path: &str) -> Result<Answer, Failure> {
        self.request(Method::GET, path).await
    }

    /// Sends a request without a body, and waits for the whole answer.
    pub(crate) async fn request(&mut self, method: Method, path: &str) -> Result<Answer, Failure> {
        tokio::time::timeout(PATIENCE, self.exchange(method, path))
            .await
            .map_err(|_| "no answer in time")?
    }

    async fn exchange(&mut self, method: Method, path: &str) -> Result<Answer, Failure> {
        let request = Request::builder().method(method);
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                let request = request.uri(path).header("host", &self.host).body(Empty::new())?;
                sender.ready().await?;
                sender.send_request(request).await?
            }
            Sender::Http2(sender) => {
                let uri = Uri::builder()
                    .scheme("https")
                    .authority(self.host.as_str())
                    .path_and_query(path)
                    .build()?;
                sender.ready().await?;
                sender.send_request(request.uri(uri).body(Empty::new())?).await?
            }
        };
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), LARGEST_BODY).collect().await?.to_bytes();
        Ok(Answer { status, body })
    }
}

// === impl Answer ===

impl Answer {
    /// The pod that answered [`WHO`].
    pub(crate) fn pod(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}
