//! HTTP/2 from clients: one task per connection, and one per stream.

mod request_head;

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{Request, Response, StatusCode};
use portcullis_config::settings::Settings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::drain::{Drain, Draining};
use crate::exchange::{
    BodyLength, Broken, Frame, Refusal, RequestHead, Respond, ResponseHead, Sink,
};
use crate::http2::counted_bytes::Chunk;
use crate::http2::irregular::Irregular;
use crate::http2::liveness::{Liveness, Verdict};
use crate::http2::reset_budget::ResetBudget;
use crate::http2::sink::StreamSink;
use crate::http2::source::StreamSource;
use crate::http2::write_coalescer::{Flushed, WriteCoalescer};

/// How long a client may be inactive while a stream is open before a PING is sent.
const PING_AFTER: Duration = Duration::from_secs(20);
/// How long it may take to answer: the PING queues behind what the kernel buffers for a slow link.
const PING_TIMEOUT: Duration = Duration::from_secs(30);
/// Octets read from a connection before its streams' tasks run: HPACK can expand one octet into a
/// header field that takes a hundred times as much memory.
const READ: usize = 64 * 1024;
/// The client sent too many frames, or cancelled too many requests.
const FLOOD: &str = "http2_flood";
/// It did not finish a header block within `timeouts.requestHead`.
const HEAD_LATE: &str = "http2_head_late";
/// The client violated the protocol.
const MALFORMED: &str = "http2_malformed";
/// Its header block is larger than any head within `limits.requestHeadBytes`.
const HEAD_LARGE: &str = "http2_head_large";
/// How long a client may take to close a connection after our last frame, and how many octets it
/// may send until then.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 256 * 1024);
/// Connection window in stream windows: bounds what one client can make the gateway buffer before
/// backends read it.
const WINDOWS: u32 = 4;
/// Streams that the client may reset before they are accepted (counted by h2).
const RESETS_BEFORE_ACCEPT: usize = 100;
/// Streams that h2 may reset for protocol errors of the client before it closes the connection.
const ERROR_RESETS: usize = 100;

/// A request's body.
pub(crate) type RequestBody = StreamSource;

/// What a connection's task and its streams' tasks share.
#[derive(Debug, Default)]
struct Shared {
    /// Streams that the client reset before their responses were complete, not yet charged to the
    /// budget.
    resets: Cell<u32>,
    /// Number of stream tasks.
    tasks: Cell<usize>,
    /// Octets of responses that h2 buffers.
    buffered: Rc<Cell<usize>>,
    irregular: Rc<Irregular>,
}

/// The client's end of one stream.
#[derive(Debug)]
pub(crate) struct Responder {
    state: ResponseState,
    stream: u32,
    shared: Rc<Shared>,
}

#[derive(Debug)]
enum ResponseState {
    /// No final head was sent.
    Pending(SendResponse<Chunk>),
    Streaming(StreamSink),
    /// The response has no body.
    Complete,
    Aborted,
}

/// Serves one connection until it is closed.
///
/// `handle` gets each request, to be served by another task; if the responder is dropped before it has
/// responded, the stream is reset.
///
/// It returns when the client has closed the connection, violated the protocol, or been idle for
/// too long; and when the gateway drains and the last stream is closed: the caller sets the
/// deadline for that. It returns a reason, as a metric label, if the client is at fault.
pub(crate) async fn serve<T, H>(
    io: T,
    settings: &Settings,
    drain: &Drain,
    handle: H,
) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder),
{
    let coalescer = WriteCoalescer::new(io, settings.limits.request_head_bytes.get());
    let Ok(Some(connection)) =
        timeout(settings.timeouts.handshake, handshake(settings, &coalescer)).await
    else {
        linger(coalescer).await;
        return Some("http2_handshake");
    };
    let mut server = Server::new(connection, coalescer.clone(), settings, drain, handle);
    let mut timer = pin!(sleep_until(server.next_tick()));
    let blame = poll_fn(|cx| server.poll(timer.as_mut(), cx)).await;
    drop(server);
    linger(coalescer).await;
    blame
}

/// Reads on for a short time. Closing a socket with unread octets resets it, and the last frames,
/// such as GOAWAY with its reason, would be lost.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut coalescer: WriteCoalescer<T>) {
    let (time, mut left) = LINGER;
    coalescer.allow(left);
    let drained = async {
        coalescer.shutdown().await?;
        // Not in the future, which would be larger for the whole life of the connection.
        let mut buffer = vec![0; 4096];
        while left > 0 {
            match coalescer.read(&mut buffer).await? {
                0 => break,
                octets => left = left.saturating_sub(octets),
            }
        }
        std::io::Result::Ok(())
    };
    // The connection is closed whatever the result.
    let _ = timeout(time, drained).await;
}

/// Exchanges the prefaces (RFC 9113 §3.4).
async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    settings: &Settings,
    coalescer: &WriteCoalescer<T>,
) -> Option<Connection<WriteCoalescer<T>, Chunk>> {
    let mut handshake = pin!(builder(settings).handshake(coalescer.clone()));
    poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(connection) => Poll::Ready(connection.ok()),
        Poll::Pending => match coalescer.poll_flush_all(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        },
    })
    .await
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let limits = &settings.limits;
    // RFC 9113 §6.9.1: the maximum window.
    let window = limits.http2_stream_window.get().min((1 << 31) - 1);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.http2_streams.get())
        .initial_window_size(window)
        .initial_connection_window_size(window.saturating_mul(WINDOWS).min((1 << 31) - 1))
        .max_header_list_size(request_head::list_size(limits.request_head_bytes.get()))
        .max_pending_accept_reset_streams(RESETS_BEFORE_ACCEPT)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .enable_connect_protocol();
    builder
}

/// The task of one connection.
struct Server<T, H> {
    connection: Connection<WriteCoalescer<T>, Chunk>,
    coalescer: WriteCoalescer<T>,
    pings: Option<PingPong>,
    shared: Rc<Shared>,
    handle: H,
    /// `None` once the connection drains.
    drain: Option<Draining>,
    liveness: Liveness,
    budget: ResetBudget,
    max_tasks: usize,
    idle: Duration,
    idle_since: Option<Instant>,
    head_timeout: Duration,
    /// `limits.requestHeadBytes`.
    head_bytes: usize,
    /// The unfinished header block, and since when.
    block: Option<(u64, Instant)>,
    /// The client's fault for which the connection is being shut down.
    blame: Option<&'static str>,
}

// === impl Server ===

impl<T, H> Server<T, H>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder),
{
    fn new(
        mut connection: Connection<WriteCoalescer<T>, Chunk>,
        coalescer: WriteCoalescer<T>,
        settings: &Settings,
        drain: &Drain,
        handle: H,
    ) -> Self {
        let now = Instant::now();
        let streams = settings.limits.http2_streams.get();
        Self {
            pings: connection.ping_pong(),
            connection,
            shared: Rc::new(Shared { irregular: coalescer.irregular(), ..Shared::default() }),
            coalescer,
            handle,
            drain: Some(drain.draining()),
            liveness: Liveness::new(PING_AFTER, PING_TIMEOUT, now.into_std()),
            budget: ResetBudget::new(streams.saturating_mul(2), now.into_std()),
            max_tasks: usize::try_from(streams).unwrap_or(usize::MAX).saturating_mul(2),
            idle: settings.timeouts.client_idle,
            idle_since: Some(now),
            head_timeout: settings.timeouts.request_head,
            head_bytes: settings.limits.request_head_bytes.get(),
            block: None,
            blame: None,
        }
    }

    fn next_tick(&self) -> Instant {
        let interval = self.liveness.interval().min(self.idle / 4).min(self.head_timeout / 2);
        Instant::now() + interval.max(Duration::from_millis(1))
    }

    fn poll(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<&'static str>> {
        self.coalescer.allow(READ);
        loop {
            if let Poll::Ready(blame) = self.poll_streams(cx) {
                // h2 has shut down the transport, which flushes it.
                return Poll::Ready(blame);
            }
            match self.coalescer.poll_flush_all(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(Flushed::MadeRoom)) => continue,
                Poll::Ready(Ok(Flushed::All)) | Poll::Pending => {}
            }
            self.note_idle();
            if self.note_undecodable() || self.note_block() || self.poll_drain(cx).is_ready() {
                continue;
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            if self.tick() == Verdict::Dead {
                return Poll::Ready(Some("http2_silent"));
            }
            timer.as_mut().reset(self.next_tick());
        }
    }

    /// Starts the requests that have arrived. Ready when the connection is closed.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Option<&'static str>> {
        self.charge_resets();
        while let Some(stream) = ready!(self.connection.poll_accept(cx)) {
            match stream {
                Ok((request, respond)) => self.begin(request, respond),
                // h2 has sent GOAWAY if the connection is still open.
                Err(error) => return Poll::Ready(blame(&error)),
            }
        }
        Poll::Ready(self.blame)
    }

    fn charge_resets(&mut self) {
        let irregular = &self.shared.irregular;
        let resets = self.shared.resets.take().saturating_add(irregular.take_uncharged());
        let is_flood = resets > 0
            && (!self.budget.take(resets, Instant::now().into_std()) || irregular.has_overflowed());
        if is_flood || self.shared.tasks.get() > self.max_tasks {
            self.shut_down(FLOOD);
        }
    }

    fn shut_down(&mut self, blame: &'static str) {
        self.blame = Some(blame);
        self.connection.abrupt_shutdown(match blame {
            MALFORMED => Reason::PROTOCOL_ERROR,
            _ => Reason::ENHANCE_YOUR_CALM,
        });
    }

    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Chunk>) {
        let (parts, body) = request.into_parts();
        let responder = Responder::new(respond, Rc::clone(&self.shared));
        if responder.is_malformed() || self.coalescer.is_undecodable() {
            // Dropping the responder resets the stream.
            return;
        }
        let irregular = &self.shared.irregular;
        let path = self.coalescer.take_path(responder.stream);
        let head = request_head::read(parts, &body, path, self.head_bytes);
        let body = StreamSource::new(body, Rc::clone(irregular));
        (self.handle)(head, body, responder);
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(draining) = &mut self.drain else { return Poll::Pending };
        ready!(Pin::new(draining).poll(cx));
        self.drain = None;
        // RFC 9113 §6.8: a GOAWAY that permits all streams, a PING, and after its answer a GOAWAY
        // with the last stream.
        self.connection.graceful_shutdown();
        Poll::Ready(())
    }

    fn note_idle(&mut self) {
        if self.connection.has_streams() {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
    }

    /// Shuts the connection down when header blocks cannot be decoded any more; returns whether it did.
    /// h2 has read the same octets, but that must not be left to it alone: it would cut paths, or read
    /// other fields than the client wrote.
    fn note_undecodable(&mut self) -> bool {
        if self.blame.is_some() || !self.coalescer.is_undecodable() {
            return false;
        }
        // The rest of one that is too large may still be to come.
        let is_unfinished = self.coalescer.unfinished_block().is_some();
        self.shut_down(if is_unfinished { HEAD_LARGE } else { MALFORMED });
        true
    }

    /// Notes when an unfinished header block began. Returns whether the connection is shut down because
    /// it is too large: h2 would buffer as much as the cookies of a head may count before they are
    /// joined.
    fn note_block(&mut self) -> bool {
        let unfinished = self.coalescer.unfinished_block();
        let max = self.head_bytes.saturating_add(READ);
        let is_too_large =
            self.blame.is_none() && unfinished.is_some_and(|block| block.octets > max);
        if is_too_large {
            self.shut_down(HEAD_LARGE);
        }
        let unfinished = unfinished.map(|block| block.number);
        if unfinished != self.block.map(|(number, _)| number) {
            self.block = unfinished.map(|number| (number, Instant::now()));
        }
        is_too_large
    }

    fn tick(&mut self) -> Verdict {
        let now = Instant::now();
        if self.block.is_some_and(|(_, since)| now.duration_since(since) >= self.head_timeout) {
            self.shut_down(HEAD_LATE);
        }
        if let Some(since) = self.idle_since {
            self.coalescer.shrink();
            if now.duration_since(since) >= self.idle {
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
            }
        }
        let verdict = self.liveness.check(
            now.into_std(),
            self.coalescer.activity(),
            self.idle_since.is_none(),
        );
        if verdict == Verdict::Ping
            && let Some(pings) = &mut self.pings
        {
            // An unread pong would prevent the next PING.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            let _ = pings.send_ping(Ping::opaque());
        }
        verdict
    }
}

/// Returns the client's fault if h2 has closed a connection.
fn blame(error: &h2::Error) -> Option<&'static str> {
    if !error.is_library() {
        return None;
    }
    tracing::debug!(%error, "HTTP/2 connection error");
    Some(if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) { FLOOD } else { MALFORMED })
}

// === impl Responder ===

impl Responder {
    fn new(respond: SendResponse<Chunk>, shared: Rc<Shared>) -> Self {
        shared.tasks.set(shared.tasks.get() + 1);
        let stream = respond.stream_id().as_u32();
        Self { state: ResponseState::Pending(respond), stream, shared }
    }

    /// Resets the stream with REFUSED_STREAM: the request was not processed and may be retried (RFC
    /// 9113 §8.7).
    pub(super) fn refuse(mut self) {
        if let ResponseState::Pending(mut respond) =
            std::mem::replace(&mut self.state, ResponseState::Aborted)
        {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    }

    /// Whether the request has malformed trailers: a stream error (RFC 9113 §8.1.1).
    fn is_malformed(&self) -> bool {
        self.shared.irregular.has_malformed_trailers(self.stream)
    }

    fn is_complete(&self) -> bool {
        match &self.state {
            ResponseState::Pending(_) => false,
            ResponseState::Streaming(sink) => sink.is_finished(),
            ResponseState::Complete | ResponseState::Aborted => true,
        }
    }

    fn is_reset(&mut self) -> bool {
        self.poll_client_closed(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Sink for Responder {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.state {
            ResponseState::Streaming(sink) => sink.poll_ready(cx),
            ResponseState::Pending(_) | ResponseState::Complete => Poll::Ready(Ok(())),
            ResponseState::Aborted => Poll::Ready(Err(Broken::Closed)),
        }
    }

    fn push(&mut self, frame: Frame) {
        if let ResponseState::Streaming(sink) = &mut self.state {
            sink.push(frame);
        }
    }

    fn finish(&mut self) {
        if let ResponseState::Streaming(sink) = &mut self.state {
            sink.finish();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.state {
            ResponseState::Streaming(sink) => sink.poll_flush(cx),
            ResponseState::Pending(_) | ResponseState::Complete => Poll::Ready(Ok(())),
            ResponseState::Aborted => Poll::Ready(Err(Broken::Closed)),
        }
    }
}

impl Respond for Responder {
    fn informational(&mut self, head: ResponseHead) {
        // RFC 9113 §8.6: HTTP/2 has no 101.
        if let ResponseState::Pending(respond) = &mut self.state
            && head.status != StatusCode::SWITCHING_PROTOCOLS
        {
            // It fails if the client is gone, which `poll_client_closed` reports.
            let _ = respond.send_informational(response(head));
        }
    }

    fn head(&mut self, mut head: ResponseHead, body: BodyLength) {
        if self.is_malformed() {
            return self.abort();
        }
        let ResponseState::Pending(respond) = &mut self.state else { return };
        if body == BodyLength::Tunnel {
            // RFC 8441 §5: 200 replaces 101.
            head.status = StatusCode::OK;
        }
        let is_complete = body == BodyLength::None;
        match respond.send_response(response(head), is_complete) {
            Ok(_) if is_complete => self.state = ResponseState::Complete,
            Ok(stream) => {
                let sink = StreamSink::new(stream, &self.shared.buffered);
                self.state = ResponseState::Streaming(sink);
            }
            Err(_) => self.abort(),
        }
    }

    fn abort(&mut self) {
        let reason =
            if self.is_malformed() { Reason::PROTOCOL_ERROR } else { Reason::INTERNAL_ERROR };
        match std::mem::replace(&mut self.state, ResponseState::Aborted) {
            ResponseState::Pending(mut respond) => respond.send_reset(reason),
            ResponseState::Streaming(mut sink) => sink.reset(reason),
            ResponseState::Complete | ResponseState::Aborted => {}
        }
    }

    fn poll_client_closed(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_malformed() && !self.is_complete() {
            self.abort();
        }
        match &mut self.state {
            ResponseState::Pending(respond) => respond.poll_reset(cx).map(|_| ()),
            ResponseState::Streaming(sink) => sink.poll_reset(cx),
            ResponseState::Complete => Poll::Pending,
            ResponseState::Aborted => Poll::Ready(()),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.tasks.set(self.shared.tasks.get().saturating_sub(1));
        // If the request was not read to its end, h2 resets the stream of a complete response with
        // NO_ERROR (RFC 9113 §8.1).
        if !self.is_complete() {
            if self.is_reset() {
                self.shared.resets.set(self.shared.resets.get().saturating_add(1));
            } else {
                self.abort();
            }
        }
        self.shared.irregular.remove(self.stream);
    }
}

fn response(head: ResponseHead) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    response
}

#[cfg(test)]
mod tests;
