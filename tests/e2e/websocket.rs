//! WebSocket over HTTP/1.1 (RFC 6455) and over HTTP/2 (RFC 8441).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::harness::{
    Echo, Gateway, Raw, Recording, Service, Step, WEB, World, client, echo, eventually, soon,
};

async fn start() -> (Echo, Gateway) {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    (pod, gateway)
}

async fn converse<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>) {
    let large = "x".repeat(1_000_000);
    for (sent, expected) in [("hello", "hello"), ("whoami", "pod-1"), (&large, &large)] {
        socket.send(Message::text(sent)).await.unwrap();
        let answer = soon("each message comes back", socket.next()).await.unwrap().unwrap();
        assert!(answer == Message::text(expected), "{} octets came back", answer.len());
    }
    socket.send(Message::binary(vec![0, 255])).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::binary(vec![0, 255]));
    socket.close(None).await.unwrap();
    let last = soon("the closing handshake ends", socket.next()).await;
    assert!(last.is_none_or(|message| message.is_ok_and(|message| message.is_close())));
}

#[tokio::test]
async fn messages_are_forwarded_over_http1() {
    let (_pod, gateway) = start().await;
    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
    let (socket, response) =
        tokio_tungstenite::client_async(format!("wss://{WEB}/chat"), stream).await.unwrap();
    assert_eq!(response.headers()["x-pod"], "pod-1");
    converse(socket).await;
}

#[tokio::test]
async fn messages_are_forwarded_over_http2() {
    let (_pod, gateway) = start().await;
    converse(connect_http2(&gateway, WEB).await.unwrap()).await;
}

#[tokio::test]
async fn messages_are_forwarded_to_pods_with_app_protocol_ws() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").app_protocol("kubernetes.io/ws").pod(&pod)),
    )
    .await;
    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
    let (socket, _) =
        tokio_tungstenite::client_async(format!("wss://{WEB}/chat"), stream).await.unwrap();
    converse(socket).await;
}

#[tokio::test]
async fn messages_are_forwarded_to_http2_pods() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").app_protocol("kubernetes.io/h2c").pod(&pod)),
    )
    .await;
    // Twice: over a connection whose settings were not received yet, and over the same one.
    for _ in 0..2 {
        let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
        let (socket, response) =
            tokio_tungstenite::client_async(format!("wss://{WEB}/chat"), stream).await.unwrap();
        assert_eq!(response.headers()["x-pod"], "pod-1");
        converse(socket).await;
        converse(connect_http2(&gateway, WEB).await.unwrap()).await;
    }
}

#[tokio::test]
async fn the_subprotocol_is_negotiated_by_client_and_pod() {
    let (_pod, gateway) = start().await;
    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
    let mut request = format!("wss://{WEB}/chat").into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", "chat.v2, chat.v1".parse().unwrap());
    let (_, response) = tokio_tungstenite::client_async(request, stream).await.unwrap();
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat.v2");
}

#[tokio::test]
async fn data_directly_after_the_handshake_is_not_lost() {
    let (_pod, gateway) = start().await;
    let mut client = Raw::connect(gateway.http()).await;
    let handshake = format!(
        "GET / HTTP/1.1\r\nHost: {WEB}\r\nConnection: Upgrade\r\nUpgrade: \
         websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
         dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    // A masked text frame with the two letters "hi", masked with zeros.
    let mut octets = handshake.into_bytes();
    octets.extend_from_slice(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    client.send(octets).await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 101);
    assert_eq!(response.header("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    assert_eq!(client.octets(4).await.unwrap(), [0x81, 2, b'h', b'i']);
}

#[tokio::test]
async fn the_pod_can_reject_the_handshake() {
    let pod = Recording::script(vec![
        Step::head(),
        Step::write("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
        Step::Restart,
    ])
    .await
    .unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    let stream = client::tls(&gateway, WEB, &["http/1.1"]).await.unwrap();
    let refusal =
        tokio_tungstenite::client_async(format!("wss://{WEB}/chat"), stream).await.unwrap_err();
    assert!(refusal.to_string().contains("403"), "{refusal}");
    let refusal = connect_http2(&gateway, WEB).await.err();
    assert_eq!(refusal, Some(403));
}

#[tokio::test]
async fn denied_and_unknown_hosts_respond_alike_to_a_handshake() {
    let pod = echo("pod-1").await;
    let gateway =
        Gateway::start(World::web(&pod).with(Service::new("web").environment("closed").pod(&pod)))
            .await;
    for host in ["web--closed.apps.test", "web--nowhere.apps.test"] {
        assert_eq!(connect_http2(&gateway, host).await.err(), Some(404));
        let stream = client::tls(&gateway, host, &["http/1.1"]).await.unwrap();
        let refusal =
            tokio_tungstenite::client_async(format!("wss://{host}/"), stream).await.unwrap_err();
        assert!(refusal.to_string().contains("404"), "{refusal}");
    }
    assert_eq!(pod.counts().borrow().started, 0);
}

#[tokio::test]
async fn a_client_that_disconnects_closes_the_socket_at_the_pod() {
    let (pod, gateway) = start().await;
    let mut counts = pod.counts();
    let mut socket = connect_http2(&gateway, WEB).await.unwrap();
    socket.send(Message::text("whoami")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    drop(socket);
    soon("the pod sees the end", counts.wait_for(|counts| counts.finished + counts.cancelled >= 1))
        .await
        .unwrap();
}

/// A WebSocket by extended CONNECT.
///
/// # Errors
/// The status of a response other than 200.
async fn connect_http2(gateway: &Gateway, host: &str) -> Result<WebSocketStream<Tunnel>, u16> {
    let mut client = client::http2(gateway, host).await;
    eventually("the gateway offers extended CONNECT", || {
        std::future::ready(client.is_extended_connect_protocol_enabled())
    })
    .await;
    let request = http::Request::connect(format!("https://{host}/chat"))
        .header("sec-websocket-version", "13");
    let mut request = request.body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    let (response, sender) = client.send_request(request, false).unwrap();
    let response = soon("the handshake is answered", response).await.unwrap();
    if response.status() != 200 {
        return Err(response.status().as_u16());
    }
    let tunnel =
        Tunnel { sender, receiver: response.into_body(), pending: Bytes::new(), _client: client };
    Ok(WebSocketStream::from_raw_socket(tunnel, Role::Client, None).await)
}

/// A stream of HTTP/2 as a stream of octets.
struct Tunnel {
    sender: SendStream<Bytes>,
    receiver: RecvStream,
    pending: Bytes,
    /// The connection lives as long as its clients.
    _client: h2::client::SendRequest<Bytes>,
}

// === impl Tunnel ===

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.pending.is_empty() {
            match ready!(self.receiver.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => self.pending = data.map_err(io::Error::other)?,
            }
        }
        let count = self.pending.len().min(buffer.remaining());
        buffer.put_slice(&self.pending.split_to(count));
        self.receiver.flow_control().release_capacity(count).map_err(io::Error::other)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.sender.reserve_capacity(octets.len());
        let count = match ready!(self.sender.poll_capacity(cx)) {
            None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            Some(capacity) => capacity.map_err(io::Error::other)?.min(octets.len()),
        };
        let data = Bytes::copy_from_slice(&octets[..count]);
        self.sender.send_data(data, false).map_err(io::Error::other)?;
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.sender.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}
