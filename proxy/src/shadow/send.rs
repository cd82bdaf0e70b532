//! Sends one copy, once, and drops the response.

use std::future::poll_fn;
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use portcullis_config::snapshot::backend::Backend;
use portcullis_config::snapshot::policy::LoadBalancing;
use portcullis_identity::caller::Caller;

use super::ShadowContext;
use super::comparison::Comparison;
use super::copied::CopiedRequest;
use crate::exchange::grpc_status::grpc_status;
use crate::exchange::{BodyLength, Broken, Frame, Source};
use crate::limit::Requester;
use crate::proxy_headers::prepared::ProxyHeaders;
use crate::relay::BodyCopy;
use crate::telemetry::{AnswerClass, ShadowLabels};
use crate::upstream::Choice;
use crate::upstream::endpoint::Pool;
use crate::upstream::exchange::{AddedFields, Exchange, Failed, Head, Message};

/// The most interim responses that are read.
const MAX_INTERIM: usize = 8;

/// A shadow.
pub(super) struct Target {
    pub(super) labels: ShadowLabels,
    pub(super) backend: Backend,
    pub(super) load_balancing: LoadBalancing,
}

/// The body of a copy on its way.
struct Upload {
    body: Body,
    copy: BodyCopy,
}

/// A body that is there in whole.
struct Body(Option<Bytes>);

/// The head of a response.
struct Responded {
    status: StatusCode,
    grpc_status: Option<u16>,
    at: Instant,
}

/// Sends a copy of a request within the timeout, and records the response.
pub(super) async fn send(
    context: &ShadowContext,
    request: &CopiedRequest,
    target: &Target,
    comparison: &Comparison,
) {
    let deadline = comparison.sent() + context.timeout;
    let sending = async {
        let (mut exchange, mut upload) = match begin(context, request, target, deadline).await {
            Ok(begun) => begun,
            Err(dropped) => return dropped.into_iter().for_each(|why| comparison.dropped(why)),
        };
        match head(&mut exchange, &mut upload).await {
            Ok(responded) => {
                let class = AnswerClass::of(responded.status, responded.grpc_status);
                comparison.shadow_responded(class, responded.at);
                discard(context, exchange, upload, responded, comparison).await;
            }
            Err(failure) if is_inconclusive(failure, &exchange) => {
                comparison.dropped("connection_closed");
            }
            Err(_) => {}
        }
    };
    // Whatever has no response by then has failed.
    let _ = tokio::time::timeout_at(deadline.into(), sending).await;
}

/// Sends the head to an endpoint.
///
/// # Errors
/// Why nothing was sent, if that is no failure of the shadow.
async fn begin(
    context: &ShadowContext,
    request: &CopiedRequest,
    target: &Target,
    deadline: Instant,
) -> Result<(Exchange, Upload), Option<&'static str>> {
    let now = Instant::now();
    let Backend { endpoints, protocol, .. } = &target.backend;
    let balancer = context.upstreams.balancer(endpoints, protocol, now);
    let random = context.random.next();
    let algorithm = target.load_balancing;
    let choice = Choice { algorithm, caller: None, random, now, is_first: true };
    let endpoint = balancer.choose(choice, |_| false).map(Rc::clone).ok_or("no_endpoint")?;
    // All copies are of one client: they leave places to those whose requests it answers.
    let requester =
        Requester { caller: &Caller::default(), address: IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    let load = endpoint.admit(requester).ok_or("endpoint_full")?;
    let proxy = request.proxy.as_deref();
    let message = Message {
        method: &request.method,
        host: &request.host,
        target: &request.target,
        headers: &request.fields,
        added: AddedFields {
            proxy: proxy.map(|prepared| ProxyHeaders { prepared, id: &request.id }),
            identity: None,
        },
        body: request.length(),
        expects_continue: false,
        connect_timeout: context.connect_timeout.min(context.timeout),
        call_deadline: Some(deadline).filter(|_| request.is_grpc),
        is_copy: true,
    };
    match endpoint.start(load, &message, Pool::Use, now).await {
        Ok(exchange) => Ok((exchange, Upload::new(request))),
        Err(Failed::Full) => Err(Some("endpoint_full")),
        Err(Failed::NotSent) => Err(Some("connection_closed")),
        Err(_) => Err(None),
    }
}

/// Sends the body, and reads the head of the response. The endpoint may be one of a canary, which
/// must not suffer from what copies meet: they count neither for its health nor for its latency.
///
/// # Errors
/// There is none.
async fn head(exchange: &mut Exchange, upload: &mut Upload) -> Result<Responded, Failed> {
    for _ in 0..=MAX_INTERIM {
        let head = poll_fn(|cx| {
            let _ = upload.poll(exchange, cx);
            exchange.halves().1.poll_head(cx)
        });
        if let Head::Final(head, _) = head.await? {
            let (grpc_status, at) = (grpc_status(&head.headers), Instant::now());
            return Ok(Responded { status: head.status, grpc_status, at });
        }
    }
    Err(Failed::Broken(Broken::Malformed("interim_responses")))
}

/// Reads the response to its end, up to the limit, and drops it.
async fn discard(
    context: &ShadowContext,
    mut exchange: Exchange,
    mut upload: Upload,
    responded: Responded,
    comparison: &Comparison,
) {
    let mut left = context.response_octets;
    loop {
        let frame = poll_fn(|cx| {
            let _ = upload.poll(&mut exchange, cx);
            exchange.halves().1.poll_frame(cx)
        });
        match frame.await {
            None => return exchange.finish(Instant::now()),
            Some(Ok(Frame::Data(data))) => match left.checked_sub(data.len()) {
                Some(rest) => left = rest,
                // The connection is closed, or the stream is reset.
                None => return,
            },
            Some(Ok(Frame::Trailers(trailers))) => {
                let code = grpc_status(&trailers).or(responded.grpc_status);
                let class = AnswerClass::of(responded.status, code);
                comparison.shadow_responded(class, responded.at);
            }
            Some(Err(_)) => {
                return comparison.shadow_responded(AnswerClass::Failed, responded.at);
            }
        }
        // Requests do not wait for the rest of a large response.
        tokio::task::yield_now().await;
    }
}

/// Whether a failure says nothing about the shadow: a kept connection was closed for its age.
fn is_inconclusive(failure: Failed, exchange: &Exchange) -> bool {
    failure == Failed::NotSent || failure == Failed::NoResponse && exchange.is_kept()
}

// === impl Upload ===

impl Upload {
    fn new(request: &CopiedRequest) -> Self {
        if request.length() == BodyLength::None {
            return Self { body: Body(None), copy: BodyCopy::empty() };
        }
        let body = Some(request.body.clone()).filter(|body| !body.is_empty());
        Self { body: Body(body), copy: BodyCopy::new() }
    }

    /// Sends what the connection takes. Ready when all was sent, or the shadow stopped reading; it
    /// may have responded anyway.
    fn poll(&mut self, exchange: &mut Exchange, cx: &mut Context<'_>) -> Poll<()> {
        if self.copy.is_done() {
            return Poll::Ready(());
        }
        let (mut sink, _) = exchange.halves();
        let sent = ready!(self.copy.poll(&mut self.body, &mut sink, |_| Ok(()), cx));
        if sent.is_err() {
            self.copy.stop();
        }
        Poll::Ready(())
    }
}

// === impl Body ===

impl Source for Body {
    fn poll_frame(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        Poll::Ready(self.0.take().map(Frame::Data).map(Ok))
    }
}
