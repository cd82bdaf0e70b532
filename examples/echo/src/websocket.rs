//! The WebSocket service, which echoes messages.

use std::sync::Arc;

use futures::{SinkExt, StreamExt};
use http::header::{
    CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, UPGRADE,
};
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::body::{self, ResponseBody};
use crate::server::State;
use crate::service::{code, is_http2};

/// Returns whether `request` is a WebSocket handshake: an upgrade (RFC 6455 §4.1) or an extended
/// CONNECT (RFC 8441 §4).
pub(crate) fn is_handshake(request: &Request<Incoming>) -> bool {
    if is_http2(request.version()) {
        let protocol = request.extensions().get::<Protocol>();
        return request.method() == Method::CONNECT
            && protocol.is_some_and(|protocol| protocol.as_str() == "websocket");
    }
    request
        .headers()
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Accepts the handshake, and echoes messages in a separate task until the peer closes.
pub(crate) fn accept(state: &Arc<State>, mut request: Request<Incoming>) -> Response<ResponseBody> {
    let mut response = Response::new(body::full(""));
    if !is_http2(request.version()) {
        let Some(key) = request.headers().get(SEC_WEBSOCKET_KEY) else {
            return code(StatusCode::BAD_REQUEST);
        };
        let Ok(accept) = HeaderValue::from_str(&derive_accept_key(key.as_bytes())) else {
            return code(StatusCode::BAD_REQUEST);
        };
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    }
    if let Some(protocol) = first_protocol(&request) {
        response.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    if let Ok(pod) = HeaderValue::from_str(&state.name) {
        response.headers_mut().insert(HeaderName::from_static("x-pod"), pod);
    }
    let greets = request.uri().path() == "/greet";
    tokio::spawn(echo(hyper::upgrade::on(&mut request), state.name.clone(), greets));
    response
}

/// Returns the first offered subprotocol (RFC 6455 §4.2.2).
fn first_protocol(request: &Request<Incoming>) -> Option<HeaderValue> {
    let offered = request.headers().get(SEC_WEBSOCKET_PROTOCOL)?.to_str().ok()?;
    HeaderValue::from_str(offered.split(',').next()?.trim()).ok()
}

async fn echo(upgrade: OnUpgrade, name: String, greets: bool) {
    let Ok(upgraded) = upgrade.await else { return };
    let mut socket =
        WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None).await;
    if greets {
        // For clients that can only read frames. Their disconnects do not matter.
        let _ = socket.send(Message::text(format!("Hello from {name}"))).await;
        let _ = socket.close(None).await;
        return;
    }
    while let Some(Ok(message)) = socket.next().await {
        let response = match message {
            Message::Text(text) if text.as_str() == "whoami" => Message::text(name.clone()),
            Message::Text(_) | Message::Binary(_) => message,
            // The library handles pings and the closing handshake.
            _ => continue,
        };
        if socket.send(response).await.is_err() {
            return;
        }
    }
}
