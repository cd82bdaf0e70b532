//! A program in a container, with its input and output: the `exec` of a pod, over a WebSocket.
//!
//! The protocol is that of `k8s.io/apimachinery/pkg/util/remotecommand`: each message has the number
//! of its stream as its first octet.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use kube::Client;
use kube::client::Body;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};

use super::objects::bounded;

/// The numbers of the streams.
const INPUT: u8 = 0;
const OUTPUT: u8 = 1;
const ERROR: u8 = 2;
const STATUS: u8 = 3;
/// How much of the input is in one message.
const PART: usize = 32 * 1024;
/// The largest message that is read. A server sends parts of 32 KiB.
const MAX_MESSAGE: usize = 1024 * 1024;
/// How much of the error output, and of a refusal of the server, is kept.
const MAX_ERROR: usize = 4096;

/// A program that runs in a container.
pub(crate) struct Program(WebSocketStream<TokioIo<Upgraded>>);

// === impl Program ===

impl Program {
    /// Starts one.
    ///
    /// # Errors
    /// The server rejects it, or cannot be reached.
    pub(crate) async fn start(
        client: &Client,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[&str],
    ) -> Result<Self, String> {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key).map_err(|_| "the system has no randomness".to_owned())?;
        let request = Request::get(uri(namespace, pod, container, command))
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_VERSION, "13")
            .header(header::SEC_WEBSOCKET_KEY, STANDARD.encode(key))
            .header(
                header::SEC_WEBSOCKET_PROTOCOL,
                HeaderValue::from_static("v5.channel.k8s.io, v4.channel.k8s.io"),
            )
            .body(Body::empty())
            .map_err(|error| error.to_string())?;
        let response = client.send(request).await.map_err(|error| crate::causes::causes(&error))?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ERROR).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            let message = message_of(&body);
            return Err(bounded(&format!("the server answered {status}: {message}")));
        }
        let upgraded = hyper::upgrade::on(response).await.map_err(|error| error.to_string())?;
        let settings = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE))
            .max_frame_size(Some(MAX_MESSAGE));
        let socket =
            WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Client, Some(settings));
        Ok(Self(socket.await))
    }

    /// Passes on what it reads and writes until it ends, then returns why it ended. Its input stays
    /// open after `input` has ended.
    pub(crate) async fn relay(
        self,
        mut input: impl AsyncRead + Unpin,
        mut output: impl AsyncWrite + Unpin,
    ) -> String {
        let (mut sink, mut messages) = self.0.split();
        let up = async {
            let mut part = vec![INPUT; PART.saturating_add(1)];
            loop {
                let rest = part.get_mut(1..).unwrap_or_default();
                let Ok(count @ 1..) = input.read(rest).await else { break };
                let message = part.get(..count.saturating_add(1)).unwrap_or_default().to_vec();
                if sink.send(Message::binary(message)).await.is_err() {
                    break;
                }
            }
            std::future::pending::<String>().await
        };
        let down = async {
            let mut errors = Vec::new();
            while let Some(message) = messages.next().await {
                let message = match message {
                    Ok(message) => message,
                    Err(error) => return error.to_string(),
                };
                let Message::Binary(message) = message else { continue };
                match message.split_first() {
                    Some((&OUTPUT, part)) if output.write_all(part).await.is_err() => break,
                    Some((&ERROR, part)) => {
                        let left = MAX_ERROR.saturating_sub(errors.len());
                        errors.extend_from_slice(part.get(..left).unwrap_or(part));
                    }
                    Some((&STATUS, status)) => {
                        let status = message_of(status);
                        return format!("{status} {}", String::from_utf8_lossy(&errors).trim());
                    }
                    _ => {}
                }
            }
            "the connection was closed".to_owned()
        };
        tokio::select! {
            end = up => end,
            end = down => end.trim().to_owned(),
        }
    }
}

fn uri(namespace: &str, pod: &str, container: &str, command: &[&str]) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(command.iter().map(|word| ("command", word)));
    query.append_pair("container", container);
    query.extend_pairs(["stdin", "stdout", "stderr"].map(|stream| (stream, "true")));
    let query = query.finish();
    format!("/api/v1/namespaces/{namespace}/pods/{pod}/exec?{query}")
}

/// The message of a Status, or the text that came in place of one.
fn message_of(status: &[u8]) -> String {
    let parsed: Option<Value> = serde_json::from_slice(status).ok();
    let message = parsed.as_ref().and_then(|status| status.get("message")?.as_str());
    message.map_or_else(|| String::from_utf8_lossy(status).into_owned(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::routing::any;
    use http::Response;
    use kube::Config;
    use serde_json::json;
    use tokio::net::TcpListener;

    use super::*;

    /// A program that prints its input on its error output, then its output.
    async fn peer(request: axum::extract::Request) -> Response<axum::body::Body> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        if !query.contains("command=echo&command=a+b&container=build&stdin=true&stdout=true") {
            let status = json!({ "kind": "Status", "message": "no such container" });
            let body = axum::body::Body::from(status.to_string());
            return Response::builder().status(404).body(body).unwrap();
        }
        tokio::spawn(async move {
            let upgraded = hyper::upgrade::on(request).await.unwrap();
            let socket =
                WebSocketStream::from_raw_socket(TokioIo::new(upgraded), Role::Server, None);
            let mut socket = socket.await;
            let message = socket.next().await.unwrap().unwrap().into_data();
            let (stream, text) = message.split_first().unwrap();
            assert_eq!((*stream, text), (INPUT, &b"question"[..]));
            for (stream, text) in [(ERROR, "its error"), (OUTPUT, "ans"), (OUTPUT, "wer")] {
                let message = [&[stream], text.as_bytes()].concat();
                socket.send(Message::binary(message)).await.unwrap();
            }
            let status = json!({ "status": "Failure", "message": "exit code 3" }).to_string();
            let message = [&[STATUS], status.as_bytes()].concat();
            socket.send(Message::binary(message)).await.unwrap();
        });
        let response = Response::builder()
            .status(101)
            .header(header::CONNECTION, "Upgrade")
            .header(header::UPGRADE, "websocket")
            .header(header::SEC_WEBSOCKET_PROTOCOL, "v5.channel.k8s.io");
        response.body(axum::body::Body::empty()).unwrap()
    }

    #[tokio::test]
    async fn a_program_has_its_input_and_output_and_reports_how_it_ended() {
        let router = Router::new().route("/api/v1/namespaces/n/pods/p/exec", any(peer));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let client = Client::try_from(Config::new(url.parse().unwrap())).unwrap();
        let program = Program::start(&client, "n", "p", "build", &["echo", "a b"]).await.unwrap();
        let mut output = Vec::new();
        let end = program.relay(&b"question"[..], &mut output).await;
        assert_eq!((end.as_str(), output.as_slice()), ("exit code 3 its error", &b"answer"[..]));
        let refused = Program::start(&client, "n", "p", "other", &["echo"]).await.err().unwrap();
        assert_eq!(refused, "the server answered 404 Not Found: no such container");
    }
}
