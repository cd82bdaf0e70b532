//! The backend of WebSockets and of streams of gRPC: it sends back what it receives.

use std::net::SocketAddr;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{self, SendResponse};
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::net::{TcpListener, TcpStream};

use crate::{Failure, websocket};

const WINDOW: u32 = 1 << 30;
const MOST_STREAMS: u32 = 1000;

/// Serves until the process is ended.
pub(crate) async fn run(websocket: SocketAddr, grpc: SocketAddr) -> Result<(), Failure> {
    let websocket = TcpListener::bind(websocket).await?;
    let grpc = TcpListener::bind(grpc).await?;
    loop {
        tokio::select! {
            accepted = websocket.accept() => serve(websocket::serve(Box::new(ready(accepted?.0)?))),
            accepted = grpc.accept() => serve(serve_grpc(ready(accepted?.0)?)),
        }
    }
}

fn ready(stream: TcpStream) -> Result<TcpStream, Failure> {
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection that fails is the client's matter: it does not get its echo.
fn serve(connection: impl Future<Output = Result<(), Failure>> + 'static) {
    tokio::task::spawn_local(async move {
        let _ = connection.await;
    });
}

async fn serve_grpc(stream: TcpStream) -> Result<(), Failure> {
    let mut builder = server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_concurrent_streams(MOST_STREAMS);
    let mut connection = builder.handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        serve(echo_messages(request, respond));
    }
    Ok(())
}

async fn echo_messages(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), Failure> {
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut sent = respond.send_response(response, false)?;
    let mut received = request.into_body();
    while let Some(data) = received.data().await {
        let data = data?;
        received.flow_control().release_capacity(data.len())?;
        if !data.is_empty() {
            sent.send_data(data, false)?;
        }
    }
    let status = HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    sent.send_trailers(status)?;
    Ok(())
}
