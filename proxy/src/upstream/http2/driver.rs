//! The task of one connection: it moves what is sent and received between the connection's state
//! and its transport.

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

/// Octets that are read at a time.
const READ: usize = 16 * 1024;
/// Octets that must fit into what is left of a buffer; else there is a new one.
const READ_AT_LEAST: usize = 2 * 1024;
/// Capacity that an idle connection keeps.
const IDLE_CAPACITY: usize = 4 * 1024;
/// How long the last frames may take to go out.
const FAREWELL: Duration = Duration::from_secs(2);

/// Drives one connection.
pub(super) struct Driver<T> {
    io: T,
    connection: Rc<RefCell<Connection>>,
    input: BytesMut,
    /// Octets of the connection's buffer that the transport has taken.
    written: usize,
    is_unflushed: bool,
    /// The transport took no more.
    is_stalled: bool,
    /// Something was written since octets were last read.
    is_unanswered: bool,
    /// How often the backend showed that it is there.
    signs_of_life: u64,
    liveness: Liveness,
    idle_since: Option<Instant>,
}

/// How a connection ends.
enum Over {
    /// Nothing is left to be done on it.
    Done,
    /// The transport broke, or the backend closed it.
    Closed,
    Broken(Fault),
    Dead,
}

// === impl Driver ===

impl<T: AsyncRead + AsyncWrite + Unpin> Driver<T> {
    pub(super) fn new(io: T, connection: Rc<RefCell<Connection>>) -> Self {
        let now = Instant::now();
        let quiet = connection.borrow().settings.quiet;
        Self {
            io,
            connection,
            input: BytesMut::new(),
            written: 0,
            is_unflushed: false,
            is_stalled: false,
            is_unanswered: false,
            signs_of_life: 0,
            liveness: Liveness::new(quiet, quiet, now.into_std()),
            idle_since: Some(now),
        }
    }

    /// Until the connection has ended.
    pub(super) async fn run(mut self) {
        let mut timer = pin!(sleep_until(self.next_tick()));
        let over = poll_fn(|cx| self.poll(timer.as_mut(), cx)).await;
        let (cause, code) = match over {
            Over::Done => (Cause::Closed, Some(code::NO_ERROR)),
            Over::Closed => (Cause::Closed, None),
            Over::Broken(Fault(code)) => {
                tracing::debug!(code, "a backend broke HTTP/2");
                (MALFORMED, Some(code))
            }
            Over::Dead => (Cause::TimedOut, None),
        };
        self.connection.borrow_mut().fail(cause);
        if let Some(code) = code {
            self.connection.borrow_mut().goaway(code);
            // Whoever does not take it goes without.
            let _ = tokio::time::timeout(FAREWELL, poll_fn(|cx| self.poll_farewell(cx))).await;
        }
    }

    fn next_tick(&self) -> Instant {
        let idle = self.connection.borrow().settings.idle;
        Instant::now() + self.liveness.interval().min(idle / 4).max(Duration::from_millis(1))
    }

    fn poll(&mut self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            if let Poll::Ready(over) = self.poll_read(cx) {
                return Poll::Ready(over);
            }
            match self.poll_write(cx) {
                Poll::Ready(Err(_)) => return Poll::Ready(Over::Closed),
                Poll::Ready(Ok(())) if self.connection.borrow().is_done() => {
                    return Poll::Ready(Over::Done);
                }
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
            self.note_idle();
            if timer.as_mut().poll(cx).is_pending() {
                self.connection.borrow_mut().register(cx);
                return Poll::Pending;
            }
            if self.tick() == Verdict::Dead {
                return Poll::Ready(Over::Dead);
            }
            timer.as_mut().reset(self.next_tick());
        }
    }

    /// Reads until nothing is left. Ready when the connection is over.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Over> {
        loop {
            if self.input.capacity() - self.input.len() < READ_AT_LEAST {
                self.input.reserve(READ);
            }
            let read = ready!(poll_read_buf(Pin::new(&mut self.io), cx, &mut self.input));
            if !matches!(read, Ok(1..)) {
                return Poll::Ready(Over::Closed);
            }
            self.signs_of_life = self.signs_of_life.wrapping_add(1);
            self.is_unanswered = false;
            let mut connection = self.connection.borrow_mut();
            let received = connection.receive(&mut self.input);
            if let Err(fault) = received {
                return Poll::Ready(Over::Broken(fault));
            }
            if connection.is_flooded() {
                return Poll::Ready(Over::Broken(Fault(code::ENHANCE_YOUR_CALM)));
            }
        }
    }

    /// Writes until nothing is left, and flushes the transport.
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
                    self.signs_of_life = self.signs_of_life.wrapping_add(1);
                }
            }
            connection.out.clear();
            self.written = 0;
            // There is room for what streams had to keep.
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

    fn poll_farewell(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
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
        let verdict = self.liveness.judge(now.into_std(), self.signs_of_life, is_expected);
        if verdict == Verdict::Ask {
            // The answer is a sign of life like everything that is read.
            connection.ping();
        }
        verdict
    }
}
