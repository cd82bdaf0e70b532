//! Exchanges: a request and its response, or a message and its echo.

use serde::Deserialize;

use crate::connection::Connector;
use crate::{Failure, http1, http2, websocket};

/// Where exchanges go, and of what kind they are.
#[derive(Clone, Deserialize)]
pub(crate) struct Target {
    pub(crate) port: u16,
    pub(crate) host: String,
    pub(crate) tls: bool,
    pub(crate) kind: Kind,
    pub(crate) connections: usize,
    /// Exchanges at a time on each connection; 1 unless it is HTTP/2.
    pub(crate) streams: usize,
    /// The length of a response's body, or of a message.
    pub(crate) bytes: usize,
}

/// A kind of exchange.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// GET over HTTP/1.1.
    Http1,
    /// GET over HTTP/2.
    Http2,
    /// A message on a WebSocket over HTTP/1.1, which is echoed.
    Websocket,
    /// A message on a stream of gRPC in both directions, which is echoed.
    GrpcStream,
}

impl Kind {
    pub(crate) fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::GrpcStream)
    }
}

/// What makes one exchange after the other.
pub(crate) enum Exchanger {
    Http1(http1::Connection),
    Http2(http2::Requests),
    Websocket(websocket::Connection),
    GrpcStream(http2::Messages),
}

impl Exchanger {
    /// Makes one exchange.
    pub(crate) async fn exchange(&mut self) -> Result<(), Failure> {
        match self {
            Self::Http1(one) => one.get().await,
            Self::Http2(one) => one.get().await,
            Self::Websocket(one) => one.echo().await,
            Self::GrpcStream(one) => one.echo().await,
        }
    }

    /// Ends it as the protocol wants it.
    pub(crate) async fn end(self) -> Result<(), Failure> {
        match self {
            Self::GrpcStream(one) => one.end().await,
            _ => Ok(()),
        }
    }
}

/// Opens all connections. Returns what makes exchanges on them, as many as may be in flight;
/// neighbours are on different connections.
pub(crate) async fn open(target: &Target) -> Result<Vec<Exchanger>, Failure> {
    let connector = Connector::new(target)?;
    let mut opened = Vec::new();
    for _ in 0..target.connections {
        opened.push(open_connection(&connector, target).await?.into_iter());
    }
    let mut exchangers = Vec::new();
    for _ in 0..target.streams {
        exchangers.extend(opened.iter_mut().filter_map(Iterator::next));
    }
    Ok(exchangers)
}

/// Opens a connection. Returns what makes exchanges on it, one for each stream.
pub(crate) async fn open_connection(
    connector: &Connector<'_>,
    target: &Target,
) -> Result<Vec<Exchanger>, Failure> {
    let stream = connector.open().await?;
    let mut opened = Vec::new();
    match target.kind {
        Kind::Http1 => opened.push(Exchanger::Http1(http1::Connection::new(stream, target))),
        Kind::Websocket => {
            let connection = websocket::Connection::open(stream, target).await?;
            opened.push(Exchanger::Websocket(connection));
        }
        Kind::Http2 => {
            let connection = http2::open(stream).await?;
            for _ in 0..target.streams {
                opened.push(Exchanger::Http2(http2::Requests::new(connection.clone(), target)?));
            }
        }
        Kind::GrpcStream => {
            let connection = http2::open(stream).await?;
            for _ in 0..target.streams {
                let messages = http2::Messages::open(connection.clone(), target).await?;
                opened.push(Exchanger::GrpcStream(messages));
            }
        }
    }
    Ok(opened)
}
