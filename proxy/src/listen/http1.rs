//! HTTP/1.1 and HTTP/1.0 from clients: sequential requests on one connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

use super::connection::LATE;
use super::drain::Drain;
use super::lazy_timer::LazyTimer;
use super::linger::{self, Linger};
use crate::exchange::{
    BodyLength, Broken, Frame, Peer, Refusal, RequestHead, Respond, ResponseHead, Sink, Source,
};
use crate::http1::body::{Blanks, Decoder, Encoder};
use crate::http1::connection::Shared;
use crate::http1::head::{self, HeadLimits, ParsedRequest};
use crate::http1::inbound::HeadError;
use crate::itoa::decimal_value;
use crate::memory::{Account, Charge};
use crate::normalize::refusals;
use crate::request::{DiscardLimit, Discarded};
use crate::worker_context::WorkerContext;
use crate::{proxy_headers, request};

/// A head took longer than `timeouts.requestHead`.
const HEAD_LATE: Refusal =
    Refusal { status: StatusCode::REQUEST_TIMEOUT, reason: "head_late", close: true };

/// The next event on a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "moved once a request, and the large one is the common one"
)]
enum Next {
    Request(ParsedRequest),
    Refused(Refusal),
    End,
}

/// The body of a request.
struct Body<T>(Shared<T>);

/// Responds to one request.
struct Responder<T> {
    connection: Shared<T>,
    version: Version,
    is_head: bool,
    /// Whether the connection may carry another request.
    keep: bool,
    /// Whether the client sends no further request.
    is_last: bool,
    is_aborted: bool,
}

/// Serves a connection until it is closed.
pub(crate) async fn serve<T>(
    io: T,
    worker: Rc<WorkerContext>,
    peer: Rc<Peer>,
    account: &Rc<Account>,
    drain: Drain,
) where
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let connection = Shared::new(io);
    let limits = HeadLimits {
        bytes: worker.settings.limits.request_head_bytes.get(),
        headers: worker.settings.limits.request_headers.get(),
    };
    let sleep = pin!(tokio::time::sleep(worker.settings.timeouts.client_idle));
    let mut timer = LazyTimer::new(sleep);
    let mut charge = Charge::new(account);
    let mut is_incomplete;
    let mut is_last = false;
    let mut idle_since = Instant::now();
    loop {
        let mut responder = Responder::new(connection.clone());
        timer.reset(idle_since + worker.settings.timeouts.client_idle);
        let next = next(&connection, limits, &worker, &drain, &mut charge, &mut timer).await;
        // What could not be read as a request may be followed by more of it.
        is_incomplete = matches!(next, Next::Refused(_));
        let reply = match next {
            Next::Request(ParsedRequest { head, .. })
                if !charge.cover(&head, || {
                    proxy_headers::client(&head.headers, &peer, &worker.proxy_headers).address
                }) =>
            {
                responder.keep = false;
                is_incomplete = head.body != BodyLength::None;
                request::refuse(&worker, &peer, &refusals::REQUEST_MEMORY, &mut responder)
            }
            Next::Request(ParsedRequest { head, keep_alive }) => {
                responder.begin(&head, keep_alive, &drain);
                let mut body = Body(connection.clone());
                request::serve(&worker, &peer, head, &mut charge, &mut body, &mut responder).await
            }
            Next::Refused(refusal) => {
                responder.keep = false;
                request::refuse(&worker, &peer, &refusal, &mut responder)
            }
            Next::End => break,
        };
        charge.shrink(0);
        let ended_at = reply.ended_at();
        reply.deliver(&worker, &mut responder).await;
        idle_since = ended_at.map_or_else(Instant::now, Instant::from_std);
        if responder.is_aborted {
            return;
        }
        is_last = responder.is_last;
        if !responder.keep {
            break;
        }
        // A body that was read already ends immediately.
        let limit = DiscardLimit::KEPT_CONNECTION;
        let rest = request::discard_body(&mut Body(connection.clone()), limit).await;
        if rest != Discarded::Whole {
            break;
        }
    }
    let unread = {
        let inbound = &connection.borrow().inbound;
        is_incomplete |= !inbound.is_body_done();
        !inbound.is_empty()
    };
    let linger = if is_incomplete {
        Linger::within_request(&worker.settings)
    } else if is_last && !unread {
        // Nothing is left to read.
        return linger::close(&connection, peer.tls).await;
    } else {
        Linger::after_request()
    };
    if !linger.close(&connection).await && is_incomplete {
        worker.meter.refused("unread_body");
    }
}

/// Reads the next request head: its first octet until `timer` fires, the rest within
/// `timeouts.requestHead`.
async fn next<T>(
    connection: &Shared<T>,
    limits: HeadLimits,
    worker: &WorkerContext,
    drain: &Drain,
    charge: &mut Charge,
    timer: &mut LazyTimer<'_>,
) -> Next
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let timeouts = &worker.settings.timeouts;
    let mut draining = pin!(drain.draining());
    let mut is_draining = false;
    let first = poll_fn(|cx| {
        let connection = &mut *connection.borrow();
        if let Poll::Ready(first) = connection.inbound.poll_first(&mut connection.io, cx) {
            return Poll::Ready(first.is_ok());
        }
        // A request may be in flight already: its response then closes the connection.
        if !is_draining && draining.as_mut().poll(cx).is_ready() {
            is_draining = true;
            timer.reset(Instant::now() + LATE);
        }
        timer.poll(cx).map(|()| false)
    });
    if !first.await {
        return Next::End;
    }
    let mut is_late = None;
    let octets = poll_fn(|cx| {
        let connection = &mut *connection.borrow();
        if let Poll::Ready(head) =
            connection.inbound.poll_head(&mut connection.io, limits.bytes, cx)
        {
            return Poll::Ready(Ok(head));
        }
        // A partial head is charged like a complete one.
        if !charge.resize(connection.inbound.len()) {
            return Poll::Ready(Err(refusals::REQUEST_MEMORY));
        }
        // Most heads arrive in one read: the timer is set only for the others.
        is_late.get_or_insert_with(|| timer.reset(Instant::now() + timeouts.request_head));
        timer.poll(cx).map(|()| Err(HEAD_LATE))
    })
    .await;
    match octets {
        Err(refusal) => Next::Refused(refusal),
        Ok(Err(HeadError::Closed | HeadError::Truncated)) => Next::End,
        Ok(Err(HeadError::Fault(fault))) => Next::Refused(fault.refusal()),
        Ok(Ok(octets)) => match head::request(octets, limits) {
            Ok(parsed) => Next::Request(parsed),
            Err(refusal) => Next::Refused(refusal),
        },
    }
}

// === impl Body ===

impl<T: AsyncRead + Unpin> Source for Body<T> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame, Broken>>> {
        let connection = &mut *self.0.borrow();
        connection.inbound.poll_frame(&mut connection.io, cx)
    }
}

// === impl Responder ===

impl<T> Responder<T> {
    fn new(connection: Shared<T>) -> Self {
        Self {
            connection,
            version: Version::HTTP_11,
            is_head: false,
            keep: true,
            is_last: false,
            is_aborted: false,
        }
    }

    fn begin(&mut self, head: &RequestHead, keep_alive: bool, drain: &Drain) {
        self.version = head.version;
        self.is_head = head.method == Method::HEAD;
        self.is_last = !keep_alive;
        self.keep = !self.is_last && !drain.is_announced();
        self.connection.borrow().inbound.begin_body(match head.body {
            BodyLength::None | BodyLength::Tunnel => Decoder::Done,
            BodyLength::Exact(length) => Decoder::exact(length),
            BodyLength::Unknown => Decoder::chunked(Blanks::Rejected),
        });
    }

    /// Chooses the framing of the body, and adds its header fields.
    fn frame(&mut self, head: &mut ResponseHead, body: BodyLength) -> Encoder {
        let has_no_body = self.is_head
            || head.status == StatusCode::NO_CONTENT
            || head.status == StatusCode::NOT_MODIFIED;
        match body {
            BodyLength::None if has_no_body => Encoder::Done,
            BodyLength::None => {
                head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
                Encoder::Done
            }
            BodyLength::Exact(length) => {
                head.headers.insert(CONTENT_LENGTH, decimal_value(length));
                if has_no_body { Encoder::Done } else { Encoder::Exact(length) }
            }
            BodyLength::Unknown if has_no_body => Encoder::Done,
            BodyLength::Unknown if self.version == Version::HTTP_10 => {
                self.keep = false;
                Encoder::Raw
            }
            BodyLength::Unknown => {
                head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                Encoder::Chunked
            }
            BodyLength::Tunnel => {
                self.keep = false;
                head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
                self.connection.borrow().inbound.begin_body(Decoder::Tunnel);
                Encoder::Raw
            }
        }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Respond for Responder<T> {
    fn informational(&mut self, head: ResponseHead) {
        if self.version != Version::HTTP_10 {
            self.connection.borrow().outbound.response(head.status, &head.headers, Encoder::Done);
        }
    }

    fn head(&mut self, mut head: ResponseHead, body: BodyLength) {
        let encoder = self.frame(&mut head, body);
        if body == BodyLength::Tunnel {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        } else if !self.keep {
            head.headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else if self.version == Version::HTTP_10 {
            head.headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        self.connection.borrow().outbound.response(head.status, &head.headers, encoder);
    }

    fn close(&mut self) {
        self.keep = false;
    }

    fn abort(&mut self) {
        self.is_aborted = true;
    }

    fn poll_client_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let connection = &mut *self.connection.borrow();
        connection.inbound.poll_client_closed(&mut connection.io, cx)
    }
}

impl<T: AsyncWrite + Unpin> Sink for Responder<T> {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let connection = &mut *self.connection.borrow();
        connection.outbound.poll_ready(&mut connection.io, cx)
    }

    fn push(&mut self, frame: Frame) {
        // The response to HEAD has no body: the backend codec produces none, but local replies do.
        if !self.is_head {
            self.connection.borrow().outbound.push(frame);
        }
    }

    fn finish(&mut self) {
        self.connection.borrow().outbound.finish();
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let connection = &mut *self.connection.borrow();
        connection.outbound.poll_flush(&mut connection.io, cx)
    }
}
