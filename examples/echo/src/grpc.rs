//! The gRPC service `portcullis.echo.v1.Echo`, with one method of each kind, and a client; and
//! `grpc.health.v1.Health/Check`, which says whether the pod is ready.
//!
//! `proto/echo.proto` defines it for other clients. The messages are written by hand to avoid a
//! dependency on protoc.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::{Stream, StreamExt};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::{Body as HttpBody, StdError};
use tonic::server::{
    ClientStreamingService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

use crate::server::State;

const UNARY: &str = "/portcullis.echo.v1.Echo/Unary";
const SERVER_STREAM: &str = "/portcullis.echo.v1.Echo/ServerStream";
const CLIENT_STREAM: &str = "/portcullis.echo.v1.Echo/ClientStream";
const BIDI_STREAM: &str = "/portcullis.echo.v1.Echo/BidiStream";
const HEALTH: &str = "/grpc.health.v1.Health/Check";

/// A request, which determines the response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoRequest {
    /// Returned in the response.
    #[prost(string, tag = "1")]
    pub message: String,
    /// The gRPC status of the call; 0 is success. Streams end with it after their messages.
    #[prost(int32, tag = "2")]
    pub status: i32,
    /// The number of messages in a server stream.
    #[prost(uint32, tag = "3")]
    pub repeat: u32,
    /// Milliseconds before each response.
    #[prost(uint32, tag = "4")]
    pub delay_ms: u32,
}

/// A response.
#[derive(Clone, PartialEq, prost::Message)]
pub struct EchoResponse {
    /// The message of the request; for a client stream, all messages joined by spaces.
    #[prost(string, tag = "1")]
    pub message: String,
    /// The pod that responded.
    #[prost(string, tag = "2")]
    pub pod: String,
    /// The index of this message in its stream, from 0.
    #[prost(uint32, tag = "3")]
    pub sequence: u32,
    /// The request's `grpc-timeout` as received by the pod.
    #[prost(string, tag = "4")]
    pub timeout: String,
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, prost::Message)]
struct HealthResponse {
    /// 1 is SERVING, 2 is NOT_SERVING.
    #[prost(int32, tag = "1")]
    status: i32,
}

type Responses = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

/// A client of the echo service over any gRPC transport, such as a [`tonic::transport::Channel`].
#[derive(Debug, Clone)]
pub struct Client<T> {
    inner: tonic::client::Grpc<T>,
}

#[derive(Clone)]
struct Methods(Arc<State>);

/// Serves a gRPC request.
pub(crate) async fn serve(
    state: &Arc<State>,
    request: http::Request<Incoming>,
) -> http::Response<Body> {
    let methods = Methods(Arc::clone(state));
    if request.uri().path() == HEALTH {
        let codec = ProstCodec::<HealthResponse, HealthRequest>::default();
        return tonic::server::Grpc::new(codec).unary(methods, request).await;
    }
    let mut grpc = tonic::server::Grpc::new(ProstCodec::<EchoResponse, EchoRequest>::default());
    match request.uri().path() {
        UNARY => grpc.unary(methods, request).await,
        SERVER_STREAM => grpc.server_streaming(methods, request).await,
        CLIENT_STREAM => grpc.client_streaming(methods, request).await,
        BIDI_STREAM => grpc.streaming(methods, request).await,
        _ => Status::unimplemented("no such method").into_http(),
    }
}

// === impl EchoRequest ===

impl EchoRequest {
    /// Creates a request whose message is returned once.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), repeat: 1, ..Self::default() }
    }

    async fn wait(&self) {
        if self.delay_ms > 0 {
            tokio::time::sleep(Duration::from_millis(self.delay_ms.into())).await;
        }
    }

    fn outcome(&self) -> Result<(), Status> {
        match Code::from(self.status) {
            Code::Ok => Ok(()),
            code => Err(Status::new(code, self.message.clone())),
        }
    }
}

// === impl Methods ===

impl Methods {
    fn response<R>(&self, request: &Request<R>) -> EchoResponse {
        let timeout = request.metadata().get("grpc-timeout").and_then(|value| value.to_str().ok());
        EchoResponse {
            pod: self.0.name.clone(),
            timeout: timeout.unwrap_or_default().to_owned(),
            ..EchoResponse::default()
        }
    }
}

/// The messages of a stream for one request.
fn repeated(
    request: EchoRequest,
    template: EchoResponse,
) -> impl Stream<Item = Result<EchoResponse, Status>> + Send {
    let ending = futures::stream::iter(request.outcome().err().map(Err));
    futures::stream::iter(0..request.repeat)
        .then(move |sequence| {
            let (request, template) = (request.clone(), template.clone());
            async move {
                request.wait().await;
                Ok(EchoResponse { message: request.message, sequence, ..template })
            }
        })
        .chain(ending)
}

impl UnaryService<EchoRequest> for Methods {
    type Response = EchoResponse;
    type Future = BoxFuture<'static, Result<Response<EchoResponse>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let template = self.response(&request);
        let request = request.into_inner();
        Box::pin(async move {
            request.wait().await;
            request.outcome()?;
            Ok(Response::new(EchoResponse { message: request.message, ..template }))
        })
    }
}

impl UnaryService<HealthRequest> for Methods {
    type Response = HealthResponse;
    type Future = std::future::Ready<Result<Response<HealthResponse>, Status>>;

    fn call(&mut self, _: Request<HealthRequest>) -> Self::Future {
        let status = if self.0.ready.load(Ordering::Acquire) { 1 } else { 2 };
        std::future::ready(Ok(Response::new(HealthResponse { status })))
    }
}

impl ServerStreamingService<EchoRequest> for Methods {
    type Response = EchoResponse;
    type ResponseStream = Responses;
    type Future = BoxFuture<'static, Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<EchoRequest>) -> Self::Future {
        let template = self.response(&request);
        let responses: Responses = Box::pin(repeated(request.into_inner(), template));
        Box::pin(async { Ok(Response::new(responses)) })
    }
}

impl ClientStreamingService<EchoRequest> for Methods {
    type Response = EchoResponse;
    type Future = BoxFuture<'static, Result<Response<EchoResponse>, Status>>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let template = self.response(&request);
        let mut requests = request.into_inner();
        Box::pin(async move {
            let mut messages = Vec::new();
            while let Some(request) = requests.next().await {
                let request = request?;
                request.outcome()?;
                messages.push(request.message);
            }
            let sequence = u32::try_from(messages.len()).unwrap_or(u32::MAX);
            Ok(Response::new(EchoResponse { message: messages.join(" "), sequence, ..template }))
        })
    }
}

impl StreamingService<EchoRequest> for Methods {
    type Response = EchoResponse;
    type ResponseStream = Responses;
    type Future = BoxFuture<'static, Result<Response<Responses>, Status>>;

    fn call(&mut self, request: Request<Streaming<EchoRequest>>) -> Self::Future {
        let template = self.response(&request);
        let responses = request.into_inner().flat_map(move |request| -> Responses {
            match request {
                Ok(request) => Box::pin(repeated(request, template.clone())),
                Err(status) => Box::pin(futures::stream::iter([Err(status)])),
            }
        });
        let responses: Responses = Box::pin(responses);
        Box::pin(async { Ok(Response::new(responses)) })
    }
}

// === impl Client ===

impl<T> Client<T>
where
    T: GrpcService<Body>,
    T::Error: Into<StdError>,
    T::ResponseBody: HttpBody<Data = bytes::Bytes> + Send + 'static,
    <T::ResponseBody as HttpBody>::Error: Into<StdError> + Send,
{
    /// Creates a client over `transport`.
    #[must_use]
    pub fn new(transport: T) -> Self {
        Self { inner: tonic::client::Grpc::new(transport) }
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.inner.ready().await.map_err(|error| Status::unavailable(error.into().to_string()))
    }

    /// Sends a message and receives a response.
    ///
    /// # Errors
    /// Returns the status of the call.
    pub async fn unary(
        &mut self,
        request: Request<EchoRequest>,
    ) -> Result<Response<EchoResponse>, Status> {
        self.ready().await?;
        self.inner.unary(request, PathAndQuery::from_static(UNARY), ProstCodec::default()).await
    }

    /// Sends a message and receives a stream of responses.
    ///
    /// # Errors
    /// Returns the status of the call.
    pub async fn server_stream(
        &mut self,
        request: Request<EchoRequest>,
    ) -> Result<Response<Streaming<EchoResponse>>, Status> {
        self.ready().await?;
        self.inner
            .server_streaming(
                request,
                PathAndQuery::from_static(SERVER_STREAM),
                ProstCodec::default(),
            )
            .await
    }

    /// Sends a stream of messages and receives a response.
    ///
    /// # Errors
    /// Returns the status of the call.
    pub async fn client_stream<S>(&mut self, requests: S) -> Result<Response<EchoResponse>, Status>
    where
        S: Stream<Item = EchoRequest> + Send + 'static,
    {
        self.ready().await?;
        let path = PathAndQuery::from_static(CLIENT_STREAM);
        self.inner.client_streaming(Request::new(requests), path, ProstCodec::default()).await
    }

    /// Sends a stream of messages and receives a stream of responses.
    ///
    /// # Errors
    /// Returns the status of the call.
    pub async fn bidi_stream<S>(
        &mut self,
        requests: S,
    ) -> Result<Response<Streaming<EchoResponse>>, Status>
    where
        S: Stream<Item = EchoRequest> + Send + 'static,
    {
        self.ready().await?;
        self.inner
            .streaming(
                Request::new(requests),
                PathAndQuery::from_static(BIDI_STREAM),
                ProstCodec::default(),
            )
            .await
    }
}
