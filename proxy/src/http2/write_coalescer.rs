//! Coalesces writes: h2 flushes its transport after nearly every DATA frame, which would be one
//! write to the socket and one TLS record each. This layer buffers what h2 writes and ignores its
//! flushes; the connection's task flushes once, after it has polled everything that was ready.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::block_filter::BlockFilter;
use super::block_watch::{BlockWatch, Unfinished};
use super::frame;
use super::irregular::Irregular;

/// Buffered octets above which they are written without a flush.
pub(crate) const BOUND: usize = 64 * 1024;
/// Buffer capacity that an idle connection keeps.
const IDLE_CAPACITY: usize = 4 * 1024;

/// A transport that coalesces writes. Clones share it: h2 and the task that drives h2 own one each.
#[derive(Debug)]
pub(crate) struct WriteCoalescer<T>(Rc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    transport: RefCell<Transport<T>>,
    activity: Cell<u64>,
    /// Octets that may be read before the next [`WriteCoalescer::allow`].
    allowed: Cell<usize>,
    blocks: RefCell<BlockWatch>,
    filter: RefCell<BlockFilter>,
}

#[derive(Debug)]
struct Transport<T> {
    io: T,
    buffered: Vec<u8>,
    written: usize,
    /// h2 waits for room in the buffer.
    is_full: bool,
    /// The transport has octets that have not been flushed.
    is_unflushed: bool,
    /// The last write was pending.
    is_stalled: bool,
}

/// The result of [`WriteCoalescer::poll_flush_all`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything was written to the transport.
    All,
    /// Everything was written, and h2 was waiting for room: it must be polled.
    MadeRoom,
}

// === impl WriteCoalescer ===

impl<T> WriteCoalescer<T> {
    /// `head_bytes` is the maximum size of a request's head.
    pub(crate) fn new(io: T, head_bytes: usize) -> Self {
        let max_held = head_bytes.saturating_add(2 * frame::MAX_PAYLOAD);
        Self(Rc::new(Shared {
            transport: RefCell::new(Transport {
                io,
                buffered: Vec::new(),
                written: 0,
                is_full: false,
                is_unflushed: false,
                is_stalled: false,
            }),
            activity: Cell::new(0),
            allowed: Cell::new(usize::MAX),
            blocks: RefCell::new(BlockWatch::new()),
            filter: RefCell::new(BlockFilter::new(max_held)),
        }))
    }

    /// Counts the peer's activity: reads, and writes that succeed after a pending one.
    pub(crate) fn activity(&self) -> u64 {
        self.0.activity.get()
    }

    /// Limits reading to about `octets` until the next call. A task that reads beyond that is woken
    /// immediately, and so runs after the tasks that it has spawned or woken. By default reading is
    /// not limited.
    pub(crate) fn allow(&self, octets: usize) {
        self.0.allowed.set(octets);
    }

    /// Returns the header block that the peer has not finished.
    pub(crate) fn unfinished_block(&self) -> Option<Unfinished> {
        self.0.blocks.borrow().unfinished()
    }

    /// Returns the streams whose header blocks h2 takes for others than they are.
    pub(crate) fn irregular(&self) -> Rc<Irregular> {
        self.0.filter.borrow().irregular()
    }

    /// Returns the path of the request of a stream, if h2 got another one in its place. Must be called
    /// for requests in the order of their streams.
    pub(crate) fn take_path(&self, stream: u32) -> Option<Bytes> {
        self.0.filter.borrow_mut().take(stream)
    }

    /// Whether the peer's header blocks cannot be decoded any more.
    pub(crate) fn is_undecodable(&self) -> bool {
        self.0.filter.borrow().is_blind()
    }

    /// Releases the memory of an idle connection.
    pub(crate) fn shrink(&self) {
        let mut transport = self.0.transport.borrow_mut();
        if transport.buffered.is_empty() {
            transport.buffered.shrink_to(IDLE_CAPACITY);
        }
    }
}

impl<T: AsyncWrite + Unpin> WriteCoalescer<T> {
    /// Writes everything that is buffered, and flushes the transport.
    pub(crate) fn poll_flush_all(&self, cx: &mut Context<'_>) -> Poll<io::Result<Flushed>> {
        let mut transport = self.0.transport.borrow_mut();
        ready!(self.poll_drain(&mut transport, cx))?;
        if transport.is_unflushed {
            ready!(Pin::new(&mut transport.io).poll_flush(cx))?;
            transport.is_unflushed = false;
        }
        let was_full = std::mem::take(&mut transport.is_full);
        Poll::Ready(Ok(if was_full { Flushed::MadeRoom } else { Flushed::All }))
    }

    fn poll_drain(
        &self,
        transport: &mut Transport<T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while let Some(rest) =
            transport.buffered.get(transport.written..).filter(|rest| !rest.is_empty())
        {
            let Poll::Ready(written) = Pin::new(&mut transport.io).poll_write(cx, rest)? else {
                transport.is_stalled = true;
                return Poll::Pending;
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            transport.written += written;
            transport.is_unflushed = true;
            if std::mem::take(&mut transport.is_stalled) {
                self.0.note_activity();
            }
        }
        transport.buffered.clear();
        transport.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Waits for room in the buffer, and returns it; never 0.
    fn poll_room(
        &self,
        transport: &mut Transport<T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if transport.buffered.len() >= BOUND
            && let Poll::Pending = self.poll_drain(transport, cx)?
        {
            transport.is_full = true;
            return Poll::Pending;
        }
        Poll::Ready(Ok(BOUND - transport.buffered.len()))
    }
}

impl<T> Shared<T> {
    fn note_activity(&self) {
        self.activity.set(self.activity.get().wrapping_add(1));
    }
}

impl<T> Clone for WriteCoalescer<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for WriteCoalescer<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut filter = self.0.filter.borrow_mut();
        let before = into.filled().len();
        loop {
            let ready = filter.ready(into.remaining());
            if !ready.is_empty() {
                into.put_slice(ready);
                return Poll::Ready(Ok(()));
            }
            let allowed = self.0.allowed.get();
            if allowed == 0 {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(Pin::new(&mut self.0.transport.borrow_mut().io).poll_read(cx, into))?;
            let Some(read) = into.filled().get(before..).filter(|read| !read.is_empty()) else {
                return Poll::Ready(Ok(()));
            };
            self.0.note_activity();
            self.0.allowed.set(allowed.saturating_sub(read.len()));
            self.0.blocks.borrow_mut().read(read);
            let passed = filter.read(read);
            into.set_filled(before + passed);
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for WriteCoalescer<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut transport = self.0.transport.borrow_mut();
        let room = ready!(self.poll_room(&mut transport, cx))?;
        let taken = octets.get(..room).unwrap_or(octets);
        transport.buffered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut transport = self.0.transport.borrow_mut();
        let mut room = ready!(self.poll_room(&mut transport, cx))?;
        let before = transport.buffered.len();
        for slice in slices {
            let taken = slice.get(..room).unwrap_or(slice);
            transport.buffered.extend_from_slice(taken);
            room -= taken.len();
        }
        Poll::Ready(Ok(transport.buffered.len() - before))
    }

    /// Lets h2 pass a payload as a slice after its frame head instead of copying it.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ignored; see [`WriteCoalescer::poll_flush_all`].
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush_all(cx))?;
        Pin::new(&mut self.0.transport.borrow_mut().io).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    #[tokio::test]
    async fn nothing_is_written_before_the_task_flushes() {
        let (ours, mut theirs) = duplex(1024);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        coalescer.write_all(b"one ").await.unwrap();
        coalescer.flush().await.unwrap();
        coalescer.write_all(b"two").await.unwrap();
        let mut buffer = [0; 16];
        assert!(theirs.read(&mut buffer).now_or_never().is_none());

        assert_eq!(flush(&coalescer).await, Flushed::All);
        let length = theirs.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"one two");
    }

    #[tokio::test]
    async fn no_more_than_the_bound_is_buffered() {
        let (ours, mut theirs) = duplex(1);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        let octets = vec![b'x'; 2 * BOUND];
        assert_eq!(coalescer.write(&octets).await.unwrap(), BOUND);
        assert!(coalescer.write(&octets).now_or_never().is_none());

        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        // The writer was pending, so it must be polled.
        assert_eq!(flush(&coalescer).await, Flushed::MadeRoom);
        assert_eq!(flush(&coalescer).await, Flushed::All);
        coalescer.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), BOUND);
    }

    #[tokio::test]
    async fn a_shutdown_writes_buffered_octets() {
        let (ours, mut theirs) = duplex(1024);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        coalescer.write_all(b"goodbye").await.unwrap();
        coalescer.shutdown().await.unwrap();
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"goodbye");
    }

    #[tokio::test]
    async fn reading_counts_as_activity() {
        let (ours, mut theirs) = duplex(1024);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        theirs.write_all(b"!").await.unwrap();
        assert_eq!(coalescer.read(&mut [0; 8]).await.unwrap(), 1);
        assert_eq!(coalescer.activity(), 1);
    }

    #[tokio::test]
    async fn reading_stops_at_the_allowance() {
        let (ours, mut theirs) = duplex(1024);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        theirs.write_all(b"one and two").await.unwrap();
        coalescer.allow(1);
        let mut buffer = [0; 3];
        assert_eq!(coalescer.read(&mut buffer).await.unwrap(), 3);
        assert!(coalescer.read(&mut buffer).now_or_never().is_none());
        coalescer.allow(1);
        assert_eq!(coalescer.read(&mut buffer).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_write_after_a_pending_one_counts_as_activity() {
        let (ours, mut theirs) = duplex(4);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        coalescer.write_all(b"12345678").await.unwrap();
        assert!(flush(&coalescer).now_or_never().is_none());
        assert_eq!(coalescer.activity(), 0);
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        assert!(flush(&coalescer).now_or_never().is_some());
        assert_eq!(coalescer.activity(), 1);
    }

    #[tokio::test]
    async fn an_idle_connection_releases_its_memory() {
        let (ours, _theirs) = duplex(2 * BOUND);
        let mut coalescer = WriteCoalescer::new(ours, 1024);
        coalescer.write_all(&vec![b'x'; BOUND]).await.unwrap();
        coalescer.shrink();
        assert!(coalescer.0.transport.borrow().buffered.capacity() >= BOUND);
        flush(&coalescer).await;
        coalescer.shrink();
        assert!(coalescer.0.transport.borrow().buffered.capacity() <= IDLE_CAPACITY);
    }

    async fn flush(coalescer: &WriteCoalescer<DuplexStream>) -> Flushed {
        poll_fn(|cx| coalescer.poll_flush_all(cx)).await.unwrap()
    }
}
