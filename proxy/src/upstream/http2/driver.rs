//! The task of one connection: moves frames between the connection's state and its transport.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, Sleep, sleep_until};
use tokio_util::io::poll_read_buf;

use super::connection::{Connection, Fault, code};
use super::receive::MALFORMED;
use super::stream::Cause;
use crate::http2::liveness::{Liveness, Verdict};

/// Octets to reserve for a read.
const READ: usize = 16 * 1024;
/// A buffer with less spare capacity than this grows before a read.
const MIN_ROOM: usize = 2 * 1024;
/// Buffer capacity that an idle connection keeps.
const IDLE_CAPACITY: usize = 4 * 1024;
/// How long writing the last frames may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Drives one connection.
pub(super) struct Driver<T> {
    io: T,
    connection: Rc<RefCell<Connection>>,
    input: BytesMut,
    /// Octets of the connection's buffer that were written.
    written: usize,
    is_unflushed: bool,
    /// The last write was pending.
    is_stalled: bool,
    /// Something was written since octets were last read.
    is_unanswered: bool,
    /// Counts the backend's activity.
    activity: u64,
    liveness: Liveness,
    idle_since: Option<Instant>,
}

/// Why a connection is closed.
enum CloseReason {
    /// It accepts no more requests, and the last one is complete.
    Done,
    /// The transport failed, or the backend closed it.
    Closed,
    /// The backend violated the protocol.
    Fault(Fault),
    /// The backend did not answer a PING.
    TimedOut,
}

// === impl Driver ===

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(io: T, connection: Rc<RefCell<Connection>>) -> Self {
        let now = Instant::now();
        let ping_after = connection.borrow().settings.ping_after;
        Self {
            io,
            connection,
            input: BytesMut::new(),
            written: 0,
            is_unflushed: false,
            is_stalled: false,
            is_unanswered: false,
            activity: 0,
            liveness: Liveness::new(ping_after, ping_after, now.into_std()),
            idle_since: Some(now),
        }
    }

    /// Runs until the connection is closed.
    pub(super) async fn run(mut self) {
        let mut timer = pin!(sleep_until(self.next_tick()));
        let reason = poll_fn(|cx| self.poll(timer.as_mut(), cx)).await;
        let (cause, code) = match reason {
            CloseReason::Done => (Cause::Closed, Some(code::NO_ERROR)),
            CloseReason::Closed => (Cause::Closed, None),
            CloseReason::Fault(Fault(code)) => {
                tracing::debug!(code, "the backend violated HTTP/2");
                (MALFORMED, Some(code))
            }
            CloseReason::TimedOut => (Cause::TimedOut, None),
        };
        self.connection.borrow_mut().fail(cause);
        if let Some(code) = code {
            self.connection.borrow_mut().goaway(code);
            // Best effort: the connection is closed whatever the result.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, poll_fn(|cx| self.poll_close(cx))).await;
        }
    }

    fn next_tick(&self) -> Instant {
        let idle = self.connection.borrow().settings.idle;
        Instant::now() + self.liveness.interval().min(idle / 4).max(Duration::from_millis(1))
    }

    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            if let Poll::Ready(reason) = self.poll_read(cx) {
                return Poll::Ready(reason);
            }
            match self.poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(CloseReason::Closed),
                Poll::Ready(Ok(())) if self.connection.borrow().is_done() => {
                    return Poll::Ready(CloseReason::Done);
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            self.note_idle();
            if timer.as_mut().poll(cx).is_pending() {
                self.connection.borrow_mut().register(cx);
                return Poll::Pending;
            }
            if self.tick() == Verdict::Dead {
                return Poll::Ready(CloseReason::TimedOut);
            }
            timer.as_mut().reset(self.next_tick());
        }
    }

    /// Reads until nothing is left. Ready when the connection must be closed.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        loop {
            if self.input.capacity() - self.input.len() < MIN_ROOM {
                self.input.reserve(READ);
            }
            let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input));
            if !matches!(read, Ok(1..)) {
                return Poll::Ready(CloseReason::Closed);
            }
            self.activity = self.activity.wrapping_add(1);
            self.is_unanswered = false;
            let mut connection = self.connection.borrow_mut();
            let received = connection.receive(&mut self.input);
            if let Err(fault) = received {
                return Poll::Ready(CloseReason::Fault(fault));
            }
            if connection.is_flooded() {
                return Poll::Ready(CloseReason::Fault(Fault(code::ENHANCE_YOUR_CALM)));
            }
        }
    }

    /// Writes everything that is buffered, and flushes the transport.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        let mut connection = self.connection.borrow_mut();
        loop {
            while let Some(rest) =
                connection.out.get(self.written..).filter(|rest| !rest.is_empty())
            {
                let Poll::Ready(written) = Pin::new(&mut self.io).poll_write(cx, rest)? else {
                    self.is_stalled = true;
                    return Poll::Pending;
                };
                if written == 0 {
                    return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into()));
                }
                self.written += written;
                self.is_unflushed = true;
                self.is_unanswered = true;
                if std::mem::take(&mut self.is_stalled) {
                    self.activity = self.activity.wrapping_add(1);
                }
            }
            connection.clear_written();
            self.written = 0;
            // There is room again for queued data of streams.
            connection.pump();
            if connection.out.is_empty() {
                break;
            }
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.is_unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_write(cx))?;
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn note_idle(&mut self) {
        if self.connection.borrow().exchanges > 0 {
            self.idle_since = None;
        } else if self.idle_since.is_none() {
            self.idle_since = Some(Instant::now());
        }
    }

    fn tick(&mut self) -> Verdict {
        let now = Instant::now();
        let mut connection = self.connection.borrow_mut();
        connection.idle_frames = 0;
        connection.window_changes = 0;
        if let Some(since) = self.idle_since {
            if connection.out.is_empty() {
                connection.out.shrink_to(IDLE_CAPACITY);
            }
            if self.input.is_empty() {
                self.input = BytesMut::new();
            }
            if now.duration_since(since) >= connection.settings.idle {
                connection.close();
            }
        }
        let is_expected = self.is_unanswered && connection.exchanges > 0;
        let verdict = self.liveness.check(now.into_std(), self.activity, is_expected);
        if verdict == Verdict::Ping {
            // The answer counts as activity like everything that is read.
            connection.ping();
        }
        verdict
    }
}
