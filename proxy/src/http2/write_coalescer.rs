//! Deferred flush: h2 flushes its transport after nearly every DATA frame, which would be one write
//! to the socket and one TLS record each. This layer gathers what h2 writes and ignores its
//! flushes; the task of the connection flushes once, when it has polled all that was ready.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use super::block_watch::BlockWatch;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Octets that are gathered before they are written without a flush.
pub(crate) const BOUND: usize = 64 * 1024;
/// Capacity that an idle connection keeps.
const IDLE_CAPACITY: usize = 4 * 1024;

/// A transport that gathers writes. Clones are handles to the same one: h2 owns one, the task that
/// drives h2 another.
#[derive(Debug)]
pub(crate) struct Gather<T>(Rc<Shared<T>>);

#[derive(Debug)]
struct Shared<T> {
    transport: RefCell<Transport<T>>,
    signs_of_life: Cell<u64>,
    /// Octets that may still be read.
    allowed: Cell<usize>,
    blocks: RefCell<BlockWatch>,
}

#[derive(Debug)]
struct Transport<T> {
    io: T,
    gathered: Vec<u8>,
    written: usize,
    /// h2 was told to wait for room.
    is_full: bool,
    /// The transport holds octets that it was not asked to flush.
    is_unflushed: bool,
    /// The transport took no more.
    is_stalled: bool,
}

/// What [`Gather::poll_flush_all`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// All has gone to the transport.
    All,
    /// All has gone, and h2 had been told to wait: it must be polled again.
    MadeRoom,
}

// === impl Gather ===

impl<T> Gather<T> {
    pub(crate) fn new(io: T) -> Self {
        Self(Rc::new(Shared {
            transport: RefCell::new(Transport {
                io,
                gathered: Vec::new(),
                written: 0,
                is_full: false,
                is_unflushed: false,
                is_stalled: false,
            }),
            signs_of_life: Cell::new(0),
            allowed: Cell::new(usize::MAX),
            blocks: RefCell::new(BlockWatch::new()),
        }))
    }

    /// How often the peer showed that it is there: octets were read, or it made room for more after
    /// there had been none.
    pub(crate) fn signs_of_life(&self) -> u64 {
        self.0.signs_of_life.get()
    }

    /// Lets some `octets` be read until this is called again. Where more is to be read, the task
    /// that reads is woken at once: it comes by after what it has begun has had its turn. Without
    /// this, all is read that is there.
    pub(crate) fn allow(&self, octets: usize) {
        self.0.allowed.set(octets);
    }

    /// The number of the header block that the peer has begun and not finished.
    pub(crate) fn unfinished_block(&self) -> Option<u64> {
        self.0.blocks.borrow().unfinished()
    }

    /// Gives back the memory of an idle connection.
    pub(crate) fn shrink(&self) {
        let mut transport = self.0.transport.borrow_mut();
        if transport.gathered.is_empty() {
            transport.gathered.shrink_to(IDLE_CAPACITY);
        }
    }
}

impl<T: AsyncWrite + Unpin> Gather<T> {
    /// Writes all that was gathered and flushes the transport.
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
            transport.gathered.get(transport.written..).filter(|rest| !rest.is_empty())
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
                self.0.note_life();
            }
        }
        transport.gathered.clear();
        transport.written = 0;
        Poll::Ready(Ok(()))
    }

    /// How many octets may be gathered now; never ready with 0.
    fn poll_room(
        &self,
        transport: &mut Transport<T>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if transport.gathered.len() >= BOUND
            && let Poll::Pending = self.poll_drain(transport, cx)?
        {
            transport.is_full = true;
            return Poll::Pending;
        }
        Poll::Ready(Ok(BOUND - transport.gathered.len()))
    }
}

impl<T> Shared<T> {
    fn note_life(&self) {
        self.signs_of_life.set(self.signs_of_life.get().wrapping_add(1));
    }
}

impl<T> Clone for Gather<T> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gather<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let allowed = self.0.allowed.get();
        if allowed == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = into.filled().len();
        ready!(Pin::new(&mut self.0.transport.borrow_mut().io).poll_read(cx, into))?;
        if let Some(read) = into.filled().get(before..).filter(|read| !read.is_empty()) {
            self.0.note_life();
            self.0.allowed.set(allowed.saturating_sub(read.len()));
            self.0.blocks.borrow_mut().read(read);
        }
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gather<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut transport = self.0.transport.borrow_mut();
        let room = ready!(self.poll_room(&mut transport, cx))?;
        let taken = octets.get(..room).unwrap_or(octets);
        transport.gathered.extend_from_slice(taken);
        Poll::Ready(Ok(taken.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut transport = self.0.transport.borrow_mut();
        let mut room = ready!(self.poll_room(&mut transport, cx))?;
        let before = transport.gathered.len();
        for slice in slices {
            let taken = slice.get(..room).unwrap_or(slice);
            transport.gathered.extend_from_slice(taken);
            room -= taken.len();
        }
        Poll::Ready(Ok(transport.gathered.len() - before))
    }

    /// h2 may then chain a payload behind its frame's header instead of copying it there first.
    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Ignored; see [`Gather::poll_flush_all`].
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
        let mut gather = Gather::new(ours);
        gather.write_all(b"one ").await.unwrap();
        gather.flush().await.unwrap();
        gather.write_all(b"two").await.unwrap();
        let mut buffer = [0; 16];
        assert!(theirs.read(&mut buffer).now_or_never().is_none());

        assert_eq!(flush(&gather).await, Flushed::All);
        let length = theirs.read(&mut buffer).await.unwrap();
        assert_eq!(&buffer[..length], b"one two");
    }

    #[tokio::test]
    async fn no_more_is_gathered_than_the_bound() {
        let (ours, mut theirs) = duplex(1);
        let mut gather = Gather::new(ours);
        let octets = vec![b'x'; 2 * BOUND];
        assert_eq!(gather.write(&octets).await.unwrap(), BOUND);
        assert!(gather.write(&octets).now_or_never().is_none());

        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            theirs.read_to_end(&mut all).await.unwrap();
            all.len()
        });
        // It was told to wait, so it must be told that there is room.
        assert_eq!(flush(&gather).await, Flushed::MadeRoom);
        assert_eq!(flush(&gather).await, Flushed::All);
        gather.shutdown().await.unwrap();
        assert_eq!(reading.await.unwrap(), BOUND);
    }

    #[tokio::test]
    async fn a_shutdown_writes_what_was_gathered() {
        let (ours, mut theirs) = duplex(1024);
        let mut gather = Gather::new(ours);
        gather.write_all(b"goodbye").await.unwrap();
        gather.shutdown().await.unwrap();
        let mut all = Vec::new();
        theirs.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"goodbye");
    }

    #[tokio::test]
    async fn a_peer_that_sends_is_alive() {
        let (ours, mut theirs) = duplex(1024);
        let mut gather = Gather::new(ours);
        theirs.write_all(b"!").await.unwrap();
        assert_eq!(gather.read(&mut [0; 8]).await.unwrap(), 1);
        assert_eq!(gather.signs_of_life(), 1);
    }

    #[tokio::test]
    async fn no_more_is_read_than_is_allowed_at_once() {
        let (ours, mut theirs) = duplex(1024);
        let mut gather = Gather::new(ours);
        theirs.write_all(b"one and two").await.unwrap();
        gather.allow(1);
        let mut buffer = [0; 3];
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 3);
        assert!(gather.read(&mut buffer).now_or_never().is_none());
        gather.allow(1);
        assert_eq!(gather.read(&mut buffer).await.unwrap(), 3);
    }

    #[tokio::test]
    async fn a_peer_that_makes_room_is_alive() {
        let (ours, mut theirs) = duplex(4);
        let mut gather = Gather::new(ours);
        gather.write_all(b"12345678").await.unwrap();
        assert!(flush(&gather).now_or_never().is_none());
        assert_eq!(gather.signs_of_life(), 0);
        theirs.read_exact(&mut [0; 4]).await.unwrap();
        assert!(flush(&gather).now_or_never().is_some());
        assert_eq!(gather.signs_of_life(), 1);
    }

    #[tokio::test]
    async fn an_idle_connection_gives_its_memory_back() {
        let (ours, _theirs) = duplex(2 * BOUND);
        let mut gather = Gather::new(ours);
        gather.write_all(&vec![b'x'; BOUND]).await.unwrap();
        gather.shrink();
        assert!(gather.0.transport.borrow().gathered.capacity() >= BOUND);
        flush(&gather).await;
        gather.shrink();
        assert!(gather.0.transport.borrow().gathered.capacity() <= IDLE_CAPACITY);
    }

    async fn flush(gather: &Gather<DuplexStream>) -> Flushed {
        poll_fn(|cx| gather.poll_flush_all(cx)).await.unwrap()
    }
}
