//! gRPC calls and WebSockets of a load.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::{SinkExt as _, StreamExt as _};
use http::Uri;
use hyper_util::rt::TokioIo;
use portcullis_echo::grpc::{Client, EchoRequest};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::{Shared, Work, describe, was_never_processed};
use crate::client::{Failure, PATIENCE, Version, secured};

/// Messages in each direction of a stream, and of a WebSocket.
const MESSAGES: u32 = 5;
/// The time between two messages of a stream, in milliseconds.
const INTERVAL: u32 = 2;

/// Connects, and calls by as many streams as planned until the load ends or a call fails. A channel
/// reconnects by itself.
///
/// # Errors
/// The connection could not be opened.
pub(super) async fn grpc(shared: &Arc<Shared>) -> Result<(), Failure> {
    let host = &shared.plan.host;
    let (config, address) = (shared.gateway.tls(Version::Http2), shared.gateway.https);
    let connector = Connector { config, address, host: host.clone() };
    let endpoint = Endpoint::from_shared(format!("https://{host}"))?.timeout(PATIENCE);
    let channel = endpoint.connect_with_connector(connector).await?;
    let mut streams = JoinSet::new();
    for _ in 0..shared.plan.streams {
        streams.spawn(call(Arc::clone(shared), Client::new(channel.clone())));
    }
    while streams.join_next().await.is_some() {}
    Ok(())
}

async fn call(shared: Arc<Shared>, mut client: Client<Channel>) {
    while shared.goes_on() {
        let asked = Instant::now();
        let called = match shared.plan.work {
            Work::Streams => converse(&mut client).await,
            _ => unary(&mut client).await,
        };
        match called {
            Ok(pod) => shared.succeed(pod, asked),
            Err(status) if was_never_processed(&status) => shared.lock().reconnected += 1,
            Err(status) => return shared.fail(describe(&status)),
        }
        shared.pause().await;
    }
}

/// Calls once, and returns the pod's name.
async fn unary(client: &mut Client<Channel>) -> Result<String, Status> {
    let answer = client.unary(Request::new(EchoRequest::new("hello"))).await?;
    Ok(answer.into_inner().pod)
}

/// Sends messages one at a time, reads the answer to each, and returns the pod's name.
async fn converse(client: &mut Client<Channel>) -> Result<String, Status> {
    let requests = (0..MESSAGES)
        .map(|number| EchoRequest { delay_ms: INTERVAL, ..EchoRequest::new(number.to_string()) });
    let mut answers = client.bidi_stream(futures::stream::iter(requests)).await?.into_inner();
    let mut pod = String::new();
    for number in 0..MESSAGES {
        let answer = answers.message().await?.ok_or_else(|| Status::data_loss("ended early"))?;
        if answer.message != number.to_string() {
            return Err(Status::data_loss(format!("{answer:?} instead of {number}")));
        }
        pod = answer.pod;
    }
    match answers.message().await? {
        None => Ok(pod),
        Some(answer) => Err(Status::data_loss(format!("{answer:?} after the end"))),
    }
}

/// Opens a connection for each WebSocket, until one fails or the load ends.
///
/// # Errors
/// A connection could not be opened.
pub(super) async fn web_socket(shared: &Arc<Shared>) -> Result<(), Failure> {
    while shared.goes_on() {
        let asked = Instant::now();
        let (config, host) = (shared.gateway.tls(Version::Http1), shared.plan.host.clone());
        let stream = secured(config, shared.gateway.https, host).await?;
        match tokio::time::timeout(PATIENCE, talk(&shared.plan.host, stream)).await {
            Ok(Ok(pod)) => shared.succeed(pod, asked),
            Ok(Err(error)) => shared.fail(describe(&*error)),
            Err(_) => shared.fail("a WebSocket made no progress".to_owned()),
        }
        shared.pause().await;
    }
    Ok(())
}

/// The handshake, a few messages, and the closing handshake. Returns the pod's name.
async fn talk(host: &str, stream: TlsStream<TcpStream>) -> Result<String, Failure> {
    let url = format!("wss://{host}/chat");
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    let mut pod = String::new();
    for _ in 0..MESSAGES {
        tokio::time::sleep(Duration::from_millis(INTERVAL.into())).await;
        socket.send(Message::text("whoami")).await?;
        pod = text(&mut socket).await?;
    }
    socket.close(None).await?;
    match socket.next().await {
        None | Some(Ok(Message::Close(_))) => Ok(pod),
        other => Err(format!("{other:?} instead of the closing handshake").into()),
    }
}

async fn text(socket: &mut WebSocketStream<TlsStream<TcpStream>>) -> Result<String, Failure> {
    match socket.next().await {
        Some(Ok(Message::Text(text))) => Ok(text.to_string()),
        Some(Err(error)) => Err(error.into()),
        other => Err(format!("{other:?} instead of a message").into()),
    }
}

/// Connects a channel to the gateway, regardless of DNS.
struct Connector {
    config: Arc<ClientConfig>,
    address: SocketAddr,
    host: String,
}

impl tonic::codegen::Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (config, address, host) = (Arc::clone(&self.config), self.address, self.host.clone());
        Box::pin(async move { secured(config, address, host).await.map(TokioIo::new) })
    }
}
