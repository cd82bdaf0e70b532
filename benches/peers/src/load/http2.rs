//! HTTP/2: requests, and streams of gRPC whose messages are echoed.

use bytes::Bytes;
use h2::client::{self, SendRequest};
use h2::{RecvStream, SendStream};
use http::{Method, Request, StatusCode};

use crate::Failure;
use crate::connection::Stream;
use crate::exchange::Target;

const WINDOW: u32 = 1 << 30;

/// Opens a connection, which is served until nothing refers to it any more.
pub(crate) async fn open(stream: Box<dyn Stream>) -> Result<SendRequest<Bytes>, Failure> {
    let mut builder = client::Builder::new();
    builder.initial_window_size(WINDOW).initial_connection_window_size(WINDOW).enable_push(false);
    let (requests, connection) = builder.handshake(stream).await?;
    tokio::spawn(connection);
    Ok(requests)
}

/// Requests on one connection, one after the other.
pub(crate) struct Requests {
    connection: SendRequest<Bytes>,
    request: Request<()>,
    bytes: usize,
}

impl Requests {
    pub(crate) fn new(connection: SendRequest<Bytes>, target: &Target) -> Result<Self, Failure> {
        let request = Request::get(uri(target, "/get")).header("user-agent", "load").body(())?;
        Ok(Self { connection, request, bytes: target.bytes })
    }

    /// Sends a GET, and reads its response, which must be a 200 with as many bytes as are due.
    pub(crate) async fn get(&mut self) -> Result<(), Failure> {
        let mut connection = self.connection.clone().ready().await?;
        let (response, _) = connection.send_request(self.request.clone(), true)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(format!("a request was answered with {}", response.status()).into());
        }
        let received = receive(&mut response.into_body(), usize::MAX).await?;
        if received == self.bytes {
            Ok(())
        } else {
            Err(format!("a response had {received} bytes").into())
        }
    }
}

/// A stream of gRPC in both directions, with one message at a time.
pub(crate) struct Messages {
    sent: SendStream<Bytes>,
    received: RecvStream,
    message: Bytes,
}

impl Messages {
    /// Opens a stream, and sends the first message with it: some gateways wait for one.
    pub(crate) async fn open(
        connection: SendRequest<Bytes>,
        target: &Target,
    ) -> Result<Self, Failure> {
        let length = u32::try_from(target.bytes)?.to_be_bytes();
        let message = Bytes::from([[0].as_slice(), &length, &vec![b'x'; target.bytes]].concat());
        let request =
            Request::builder().method(Method::POST).uri(uri(target, "/bench.Echo/Stream"));
        let request =
            request.header("content-type", "application/grpc").header("te", "trailers").body(())?;
        let mut connection = connection.ready().await?;
        let (response, mut sent) = connection.send_request(request, false)?;
        sent.send_data(message.clone(), false)?;
        let response = response.await?;
        if response.status() != StatusCode::OK {
            return Err(format!("a stream was answered with {}", response.status()).into());
        }
        let mut opened = Self { sent, received: response.into_body(), message };
        opened.receive_echo().await?;
        Ok(opened)
    }

    /// Sends a message, and reads its echo.
    pub(crate) async fn echo(&mut self) -> Result<(), Failure> {
        self.sent.send_data(self.message.clone(), false)?;
        self.receive_echo().await
    }

    async fn receive_echo(&mut self) -> Result<(), Failure> {
        let received = receive(&mut self.received, self.message.len()).await?;
        if received == self.message.len() {
            Ok(())
        } else {
            Err(format!("an echo had {received} bytes").into())
        }
    }

    /// Ends the stream, and reads its status.
    pub(crate) async fn end(mut self) -> Result<(), Failure> {
        self.sent.send_data(Bytes::new(), true)?;
        receive(&mut self.received, usize::MAX).await?;
        match self.received.trailers().await? {
            Some(trailers) if trailers.get("grpc-status").is_some_and(|status| status == "0") => {
                Ok(())
            }
            other => Err(format!("a stream ended with the trailers {other:?}").into()),
        }
    }
}

/// Reads `most` bytes, or all until the end. Returns how many there were.
async fn receive(body: &mut RecvStream, most: usize) -> Result<usize, Failure> {
    let mut received = 0;
    while received < most {
        let Some(data) = body.data().await else { break };
        let length = data?.len();
        body.flow_control().release_capacity(length)?;
        received += length;
    }
    Ok(received)
}

fn uri(target: &Target, path: &str) -> String {
    format!("{}://{}{path}", if target.tls { "https" } else { "http" }, target.host)
}
