//! HTTP/2 from clients: one task a connection, and one a stream.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::ext::Protocol;
use h2::server::{Connection, SendResponse};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, header, request,
};
use portcullis_config::settings::Settings;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, Sleep, sleep_until, timeout};

use super::drain::{Drain, Draining};
use crate::exchange::{
    BodyLength, Broken, Frame, Refusal, RequestHead, Respond, ResponseHead, Sink, Target,
};
use crate::http2::counted_bytes::Chunk;
use crate::http2::liveness::{Liveness, Verdict};
use crate::http2::reset_budget::ResetBudget;
use crate::http2::sink::StreamSink;
use crate::http2::source::StreamSource;
use crate::http2::write_coalescer::{Flushed, Gather};
use crate::normalize::refusals;

/// How long a client may be quiet while a stream is open before it is asked with a PING.
const QUIET: Duration = Duration::from_secs(20);
/// How long it may take to answer: the PING waits behind what the kernel holds for a slow link.
const PATIENCE: Duration = Duration::from_secs(30);
/// Octets that are read of a connection before its streams' tasks have their turn: header fields
/// that HPACK makes of an octet each hold a hundred times that.
const READ: usize = 64 * 1024;
/// The client sent frames, or cancelled requests, beyond all measure.
const FLOOD: &str = "http2_flood";
/// It did not finish a header block within `timeouts.requestHead`.
const HEAD_LATE: &str = "http2_head_late";
/// How long a client may take to close a connection that has ended, and how much it may still send
/// meanwhile.
const LINGER: (Duration, usize) = (Duration::from_secs(2), 256 * 1024);
/// Streams' windows that a connection's window has room for: what one client can make us hold
/// before backends read it.
const WINDOWS: u32 = 4;
/// Streams that may be reset by the client before they were even begun with (h2's count).
const RESETS_BEFORE_ACCEPT: usize = 100;
/// Streams that h2 may have to reset because the client broke the protocol on them, before it gives
/// the connection up.
const ERROR_RESETS: usize = 100;

/// A request's body.
pub(crate) type RequestBody = StreamSource;

/// What a connection's task and its streams' tasks share.
#[derive(Debug, Default)]
struct Shared {
    /// Streams that the client reset before their responses were complete, and that the budget has
    /// not been charged for.
    resets: Cell<u32>,
    /// Tasks of streams that are alive.
    tasks: Cell<usize>,
    /// Octets of responses that wait in h2.
    held: Rc<Cell<usize>>,
}

/// The client's end of one stream.
#[derive(Debug)]
pub(crate) struct Responder {
    state: Answer,
    shared: Rc<Shared>,
}

#[derive(Debug)]
enum Answer {
    Awaited(SendResponse<Chunk>),
    Begun(StreamSink),
    /// The head said that there is no body.
    Complete,
    Aborted,
}

/// Serves one connection until it ends. Each request becomes a task of this thread that runs what
/// `handle` returns, if anything; dropped before it has answered, the stream is reset.
///
/// It returns when the client has closed the connection, broken the protocol, or been idle for too
/// long; and when the gateway drains and the last stream has ended: whoever calls it sets the
/// deadline for that. Where the client is to blame, it says for what, in one word.
pub(crate) async fn serve<T, H, F>(
    io: T,
    settings: &Settings,
    drain: &Drain,
    handle: H,
) -> Option<&'static str>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder) -> Option<F>,
    F: Future<Output = ()> + 'static,
{
    let gather = Gather::new(io);
    let Ok(Some(connection)) =
        timeout(settings.timeouts.handshake, handshake(settings, &gather)).await
    else {
        linger(gather).await;
        return Some("http2_handshake");
    };
    let mut server = Server::new(connection, gather.clone(), settings, drain, handle);
    let mut timer = pin!(sleep_until(server.next_tick()));
    let blame = poll_fn(|cx| server.poll(timer.as_mut(), cx)).await;
    drop(server);
    linger(gather).await;
    blame
}

/// Reads what the client still sends, for a while. A socket that is closed with octets unread is
/// reset, and what was sent last, GOAWAY with its reason, would be lost with it.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut gather: Gather<T>) {
    let (time, mut most) = LINGER;
    gather.allow(most);
    let drained = async {
        gather.shutdown().await?;
        let mut buffer = [0; 4096];
        while most > 0 {
            match gather.read(&mut buffer).await? {
                0 => break,
                octets => most = most.saturating_sub(octets),
            }
        }
        std::io::Result::Ok(())
    };
    // Whatever it is that it ended with, the connection is over.
    let _ = timeout(time, drained).await;
}

/// Exchanges the prefaces (RFC 9113 §3.4).
async fn handshake<T: AsyncRead + AsyncWrite + Unpin>(
    settings: &Settings,
    gather: &Gather<T>,
) -> Option<Connection<Gather<T>, Chunk>> {
    let mut handshake = pin!(builder(settings).handshake(gather.clone()));
    poll_fn(|cx| match handshake.as_mut().poll(cx) {
        Poll::Ready(connection) => Poll::Ready(connection.ok()),
        Poll::Pending => match gather.poll_flush_all(cx) {
            Poll::Ready(Err(_)) => Poll::Ready(None),
            Poll::Ready(Ok(_)) | Poll::Pending => Poll::Pending,
        },
    })
    .await
}

fn builder(settings: &Settings) -> h2::server::Builder {
    let limits = &settings.limits;
    // RFC 9113 §6.9.1: the largest window.
    let window = limits.http2_stream_window.get().min((1 << 31) - 1);
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(limits.http2_streams.get())
        .initial_window_size(window)
        .initial_connection_window_size(window.saturating_mul(WINDOWS).min((1 << 31) - 1))
        .max_header_list_size(u32::try_from(limits.request_head_bytes.get()).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(RESETS_BEFORE_ACCEPT)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .enable_connect_protocol();
    builder
}

/// The task of one connection.
struct Server<T, H> {
    connection: Connection<Gather<T>, Chunk>,
    gather: Gather<T>,
    pings: Option<PingPong>,
    shared: Rc<Shared>,
    handle: H,
    /// None once the connection drains.
    drain: Option<Draining>,
    liveness: Liveness,
    budget: ResetBudget,
    most_tasks: usize,
    idle: Duration,
    idle_since: Option<Instant>,
    head: Duration,
    /// A header block that is not whole, and since when.
    block: Option<(u64, Instant)>,
    /// What the client is to blame for, once the connection is being shut down for it.
    blame: Option<&'static str>,
}

// === impl Server ===

impl<T, H, F> Server<T, H>
where
    T: AsyncRead + AsyncWrite + Unpin,
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder) -> Option<F>,
    F: Future<Output = ()> + 'static,
{
    fn new(
        mut connection: Connection<Gather<T>, Chunk>,
        gather: Gather<T>,
        settings: &Settings,
        drain: &Drain,
        handle: H,
    ) -> Self {
        let now = Instant::now();
        let streams = settings.limits.http2_streams.get();
        Self {
            pings: connection.ping_pong(),
            connection,
            gather,
            shared: Rc::default(),
            handle,
            drain: Some(drain.draining()),
            liveness: Liveness::new(QUIET, PATIENCE, now.into_std()),
            budget: ResetBudget::new(streams.saturating_mul(2), now.into_std()),
            most_tasks: usize::try_from(streams).unwrap_or(usize::MAX).saturating_mul(2),
            idle: settings.timeouts.client_idle,
            idle_since: Some(now),
            head: settings.timeouts.request_head,
            block: None,
            blame: None,
        }
    }

    fn next_tick(&self) -> Instant {
        let interval = self.liveness.interval().min(self.idle / 4).min(self.head / 2);
        Instant::now() + interval.max(Duration::from_millis(1))
    }

    fn poll(
        &mut self,
        mut timer: Pin<&mut Sleep>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<&'static str>> {
        self.gather.allow(READ);
        loop {
            if let Poll::Ready(blame) = self.poll_streams(cx) {
                // h2 has shut the transport down, and with it flushed it.
                return Poll::Ready(blame);
            }
            match self.gather.poll_flush_all(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(None),
                Poll::Ready(Ok(Flushed::MadeRoom)) => continue,
                Poll::Ready(Ok(Flushed::All)) | Poll::Pending => {}
            }
            self.note_idle();
            self.note_block();
            if self.poll_drain(cx).is_ready() {
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

    /// Begins the requests that have come. Ready when the connection is over.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<Option<&'static str>> {
        self.charge_resets();
        while let Some(stream) = ready!(self.connection.poll_accept(cx)) {
            match stream {
                Ok((request, respond)) => self.begin(request, respond),
                // h2 has sent GOAWAY where there is still someone to read it.
                Err(error) => return Poll::Ready(blame(&error)),
            }
        }
        Poll::Ready(self.blame)
    }

    fn charge_resets(&mut self) {
        let resets = self.shared.resets.take();
        let is_flood = resets > 0 && !self.budget.take(resets, Instant::now().into_std());
        if is_flood || self.shared.tasks.get() > self.most_tasks {
            self.give_up(FLOOD);
        }
    }

    fn give_up(&mut self, blame: &'static str) {
        self.blame = Some(blame);
        self.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
    }

    fn begin(&self, request: Request<RecvStream>, respond: SendResponse<Chunk>) {
        let (parts, body) = request.into_parts();
        let head = request_head(parts, &body);
        let responder = Responder::new(respond, Rc::clone(&self.shared));
        if let Some(serving) = (self.handle)(head, StreamSource::new(body), responder) {
            // Boxed here, once: the runtime would move it, several kilobytes, on its way into the
            // task and again out of it.
            tokio::task::spawn_local(Box::pin(serving));
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(draining) = &mut self.drain else { return Poll::Pending };
        ready!(Pin::new(draining).poll(cx));
        self.drain = None;
        // RFC 9113 §6.8: GOAWAY that forbids nothing yet, a PING, and when that is answered GOAWAY
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

    fn note_block(&mut self) {
        let unfinished = self.gather.unfinished_block();
        if unfinished != self.block.map(|(number, _)| number) {
            self.block = unfinished.map(|number| (number, Instant::now()));
        }
    }

    fn tick(&mut self) -> Verdict {
        let now = Instant::now();
        if self.block.is_some_and(|(_, since)| now.duration_since(since) >= self.head) {
            self.give_up(HEAD_LATE);
        }
        if let Some(since) = self.idle_since {
            self.gather.shrink();
            if now.duration_since(since) >= self.idle {
                self.connection.abrupt_shutdown(Reason::NO_ERROR);
            }
        }
        let verdict = self.liveness.judge(
            now.into_std(),
            self.gather.signs_of_life(),
            self.idle_since.is_none(),
        );
        if verdict == Verdict::Ask
            && let Some(pings) = &mut self.pings
        {
            // A pong that is not taken would keep the next PING from being sent.
            let _ = pings.poll_pong(&mut Context::from_waker(Waker::noop()));
            let _ = pings.send_ping(Ping::opaque());
        }
        verdict
    }
}

/// What the client is to blame for where h2 has given a connection up.
fn blame(error: &h2::Error) -> Option<&'static str> {
    if !error.is_library() {
        return None;
    }
    tracing::debug!(%error, "broken HTTP/2");
    Some(if error.reason() == Some(Reason::ENHANCE_YOUR_CALM) { FLOOD } else { "http2_malformed" })
}

/// A request's head as [`normalize`](crate::normalize) reads it. h2 has refused what RFC 9113 §8
/// calls malformed, but for what is refused here.
///
/// It does not tell what it drops: a fragment of `:path`, a `:scheme` without `:authority`, and
/// pseudo-headers among trailers. None of these reaches a backend.
fn request_head(parts: request::Parts, body: &RecvStream) -> Result<RequestHead, Refusal> {
    let request::Parts { method, uri, headers, mut extensions, .. } = parts;
    let protocol =
        extensions.remove::<Protocol>().map(|protocol| Bytes::copy_from_slice(protocol.as_ref()));
    if headers.values().any(has_outer_whitespace) {
        return Err(refusals::FIELD_WHITESPACE);
    }
    let length = body_length(&headers)?;
    let body = if body.is_end_stream() { BodyLength::None } else { length };
    let uri = uri.into_parts();
    let target = match uri.path_and_query {
        Some(path) if path == "*" => Target::Asterisk,
        Some(path) if path.as_str().starts_with('/') => Target::Path(path),
        // `http` reads `?query` as if a slash stood before it.
        Some(_) => return Err(refusals::PATH_MALFORMED),
        None if method == Method::CONNECT && protocol.is_none() => Target::Authority,
        None => return Err(refusals::PATH_MISSING),
    };
    Ok(RequestHead {
        method,
        version: Version::HTTP_2,
        authority: uri
            .authority
            .map(|authority| Bytes::copy_from_slice(authority.as_str().as_bytes())),
        scheme: uri.scheme.map(|scheme| match scheme.as_str() {
            "https" => Bytes::from_static(b"https"),
            "http" => Bytes::from_static(b"http"),
            other => Bytes::copy_from_slice(other.as_bytes()),
        }),
        target,
        headers,
        body,
        protocol,
    })
}

/// RFC 9113 §8.2.1: such a field is malformed, and an HTTP/1.1 backend would read another value
/// than our rules.
fn has_outer_whitespace(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}

fn body_length(headers: &HeaderMap) -> Result<BodyLength, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(BodyLength::Unknown) };
    // h2 takes several where they are equal.
    if lengths.next().is_some() {
        return Err(refusals::LENGTH_REPEATED);
    }
    // h2 has found that it is a number, and checks that the body has that length.
    length
        .to_str()
        .ok()
        .and_then(|length| length.parse().ok())
        .map(BodyLength::Exact)
        .ok_or(refusals::LENGTH_MALFORMED)
}

// === impl Responder ===

impl Responder {
    fn new(respond: SendResponse<Chunk>, shared: Rc<Shared>) -> Self {
        shared.tasks.set(shared.tasks.get() + 1);
        Self { state: Answer::Awaited(respond), shared }
    }

    /// Resets the stream, saying that nothing was done about the request: it may be sent again
    /// (RFC 9113 §8.7).
    pub(super) fn refuse(mut self) {
        if let Answer::Awaited(mut respond) = std::mem::replace(&mut self.state, Answer::Aborted) {
            respond.send_reset(Reason::REFUSED_STREAM);
        }
    }

    fn is_complete(&self) -> bool {
        match &self.state {
            Answer::Awaited(_) => false,
            Answer::Begun(sink) => sink.is_finished(),
            Answer::Complete | Answer::Aborted => true,
        }
    }

    fn is_reset(&mut self) -> bool {
        self.poll_gone(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Sink for Responder {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.state {
            Answer::Begun(sink) => sink.poll_ready(cx),
            Answer::Awaited(_) | Answer::Complete => Poll::Ready(Ok(())),
            Answer::Aborted => Poll::Ready(Err(Broken::Closed)),
        }
    }

    fn push(&mut self, frame: Frame) {
        if let Answer::Begun(sink) = &mut self.state {
            sink.push(frame);
        }
    }

    fn finish(&mut self) {
        if let Answer::Begun(sink) = &mut self.state {
            sink.finish();
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match &mut self.state {
            Answer::Begun(sink) => sink.poll_flush(cx),
            Answer::Awaited(_) | Answer::Complete => Poll::Ready(Ok(())),
            Answer::Aborted => Poll::Ready(Err(Broken::Closed)),
        }
    }
}

impl Respond for Responder {
    fn informational(&mut self, head: ResponseHead) {
        // RFC 9113 §8.6: HTTP/2 has no 101.
        if let Answer::Awaited(respond) = &mut self.state
            && head.status != StatusCode::SWITCHING_PROTOCOLS
        {
            // It fails where the client has gone, which `poll_gone` tells.
            let _ = respond.send_informational(response(head));
        }
    }

    fn head(&mut self, mut head: ResponseHead, body: BodyLength) {
        let Answer::Awaited(respond) = &mut self.state else { return };
        if body == BodyLength::Tunnel {
            // RFC 8441 §5: 200 takes the place of 101.
            head.status = StatusCode::OK;
        }
        let is_complete = body == BodyLength::None;
        match respond.send_response(response(head), is_complete) {
            Ok(_) if is_complete => self.state = Answer::Complete,
            Ok(stream) => self.state = Answer::Begun(StreamSink::new(stream, &self.shared.held)),
            Err(_) => self.abort(),
        }
    }

    fn abort(&mut self) {
        match std::mem::replace(&mut self.state, Answer::Aborted) {
            Answer::Awaited(mut respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Begun(mut sink) => sink.reset(Reason::INTERNAL_ERROR),
            Answer::Complete | Answer::Aborted => {}
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.state {
            Answer::Awaited(respond) => respond.poll_reset(cx).map(|_| ()),
            Answer::Begun(sink) => sink.poll_reset(cx),
            Answer::Complete => Poll::Pending,
            Answer::Aborted => Poll::Ready(()),
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.shared.tasks.set(self.shared.tasks.get().saturating_sub(1));
        if self.is_complete() {
            // If the request has not been read to its end, h2 resets the stream with NO_ERROR (RFC
            // 9113 §8.1).
            return;
        }
        if self.is_reset() {
            self.shared.resets.set(self.shared.resets.get().saturating_add(1));
        } else {
            self.abort();
        }
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
