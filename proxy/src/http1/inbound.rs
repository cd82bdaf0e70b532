//! The reading half of a connection: heads, then the frames of bodies.

use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::body::{Decoded, Decoder};
use super::buffers;
use super::head::{HeadFault, HeadScanner};
use crate::exchange::{Broken, Frame};

/// A buffer with less spare capacity than this grows before a read.
const MIN_ROOM: usize = 4 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// Without capacity while it is empty and the peer is waited for.
    octets: BytesMut,
    scanner: HeadScanner,
    decoder: Decoder,
    is_eof: bool,
}

/// Why no head was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadError {
    /// The peer closed before the first octet.
    Closed,
    /// The peer closed, or the connection failed, within the head.
    Truncated,
    /// The octets are not a valid head.
    Fault(HeadFault),
}

// === impl Inbound ===

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            octets: BytesMut::new(),
            scanner: HeadScanner::default(),
            decoder: Decoder::Done,
            is_eof: false,
        }
    }

    /// Whether the buffer is empty.
    pub(crate) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Number of buffered octets.
    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether the peer has closed its half.
    pub(crate) fn is_eof(&self) -> bool {
        self.is_eof
    }

    /// Whether the current body has been read completely.
    pub(crate) fn is_body_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Sets the decoder for the next body.
    pub(crate) fn begin_body(&mut self, decoder: Decoder) {
        self.decoder = decoder;
    }

    /// Reads once. Returns `false` when the peer has closed its half.
    pub(crate) fn poll_fill<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Broken>> {
        if self.is_eof {
            return Poll::Ready(Ok(false));
        }
        // The octets of the last frame may be in use.
        let read = if self.octets.is_empty() && !self.octets.try_reclaim(buffers::CAPACITY) {
            buffers::poll_read(io, cx, &mut self.octets)
        } else {
            if self.octets.capacity() - self.octets.len() < MIN_ROOM {
                self.octets.reserve(buffers::CAPACITY);
            }
            let read = poll_read_buf(Pin::new(io), cx, &mut self.octets);
            self.give_back();
            read
        };
        match ready!(read) {
            Ok(0) => {
                self.is_eof = true;
                Poll::Ready(Ok(false))
            }
            Ok(_) => Poll::Ready(Ok(true)),
            // rustls reports a close without close_notify as an error; the framing of the body
            // decides whether it was premature.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.is_eof = true;
                Poll::Ready(Ok(false))
            }
            Err(_) => Poll::Ready(Err(Broken::Closed)),
        }
    }

    /// Gives the buffer back to the worker if it is empty and no frame of it is in use.
    pub(crate) fn give_back(&mut self) {
        if self.octets.is_empty() && self.octets.try_reclaim(buffers::CAPACITY) {
            buffers::give(mem::take(&mut self.octets));
        }
    }

    /// Discards what is buffered, or else what one read returns. Returns the number of octets; 0
    /// when the peer has closed its half.
    pub(crate) fn poll_discard<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<usize, Broken>> {
        if self.octets.is_empty() {
            ready!(self.poll_fill(io, cx))?;
        }
        let octets = self.octets.len();
        self.octets.clear();
        Poll::Ready(Ok(octets))
    }

    /// Waits for the first octet of the next head, or for the peer to close.
    pub(crate) fn poll_first<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), HeadError>> {
        if !self.octets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_fill(io, cx)) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) | Err(_) => Poll::Ready(Err(HeadError::Closed)),
        }
    }

    /// Returns the octets of the next head, including its empty line.
    pub(crate) fn poll_head<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BytesMut, HeadError>> {
        loop {
            if !self.octets.is_empty() {
                match self.scanner.scan(&self.octets, limit) {
                    Err(fault) => return Poll::Ready(Err(HeadError::Fault(fault))),
                    Ok(Some(length)) => {
                        self.scanner = HeadScanner::default();
                        return Poll::Ready(Ok(self.take_head(length)));
                    }
                    Ok(None) => {}
                }
            }
            let error =
                if self.octets.is_empty() { HeadError::Closed } else { HeadError::Truncated };
            match ready!(self.poll_fill(io, cx)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// A copy of the head: a slice would hold the whole buffer until the response has ended.
    fn take_head(&mut self, length: usize) -> BytesMut {
        let head = buffers::copy(self.octets.get(..length).unwrap_or_default());
        self.octets.advance(length);
        self.give_back();
        head
    }

    /// Returns the next frame of the body; `None` at its end.
    pub(crate) fn poll_frame<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, Broken>>> {
        loop {
            match self.decoder.decode(&mut self.octets) {
                Ok(Decoded::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Decoded::End) => {
                    self.give_back();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => {}
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
            match ready!(self.poll_fill(io, cx)) {
                Ok(true) => {}
                Ok(false) => {
                    if let Err(broken) = self.decoder.end_of_input() {
                        return Poll::Ready(Some(Err(broken)));
                    }
                }
                Err(broken) => return Poll::Ready(Some(Err(broken))),
            }
        }
    }

    /// Waits until the connection fails, reading ahead up to one buffer. A peer that only closed
    /// its half does not count: it can still receive the response.
    pub(crate) fn poll_client_closed<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        while self.decoder.is_done() && !self.is_eof && self.octets.len() < buffers::CAPACITY {
            if let Err(Broken::Closed) = ready!(self.poll_fill(io, cx)).map(drop) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures::FutureExt;
    use tokio::io::{AsyncWriteExt, DuplexStream, duplex};

    use super::*;

    const LIMIT: usize = 1024;
    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nhost: a.test\r\n\r\n";

    async fn head(inbound: &mut Inbound, io: &mut DuplexStream) -> BytesMut {
        poll_fn(|cx| inbound.poll_head(io, LIMIT, cx)).await.unwrap()
    }

    #[tokio::test]
    async fn a_connection_has_a_buffer_only_while_octets_are_in_it() {
        let (mut ours, mut theirs) = duplex(64 * 1024);
        let mut inbound = Inbound::new();
        let mut pending = poll_fn(|cx| inbound.poll_first(&mut ours, cx));
        assert!((&mut pending).now_or_never().is_none());
        assert_eq!(inbound.octets.capacity(), 0, "no request");

        let (begin, rest) = HEAD.split_at(9);
        theirs.write_all(begin).await.unwrap();
        assert!(head(&mut inbound, &mut ours).now_or_never().is_none());
        assert!(inbound.octets.capacity() > 0, "a part of a head");
        theirs.write_all(rest).await.unwrap();
        let read = head(&mut inbound, &mut ours).await;
        assert_eq!((&read[..], inbound.octets.capacity()), (HEAD, 0), "its request is served");

        inbound.begin_body(Decoder::exact(3));
        theirs.write_all(b"abc").await.unwrap();
        theirs.write_all(HEAD).await.unwrap();
        let Some(Ok(Frame::Data(data))) = poll_fn(|cx| inbound.poll_frame(&mut ours, cx)).await
        else {
            panic!("no body");
        };
        assert_eq!(&data[..], b"abc");
        drop(data);
        assert!(poll_fn(|cx| inbound.poll_frame(&mut ours, cx)).await.is_none());
        assert_eq!(inbound.len(), HEAD.len(), "the next request is kept");
        assert_eq!(head(&mut inbound, &mut ours).await, HEAD);
        assert_eq!(inbound.octets.capacity(), 0, "the body has ended");
    }

    #[tokio::test]
    async fn a_frame_that_is_in_use_is_not_overwritten() {
        let (mut ours, mut theirs) = duplex(64 * 1024);
        let mut inbound = Inbound::new();
        inbound.begin_body(Decoder::exact(5));
        theirs.write_all(b"first").await.unwrap();
        let Some(Ok(Frame::Data(data))) = poll_fn(|cx| inbound.poll_frame(&mut ours, cx)).await
        else {
            panic!("no body");
        };
        theirs.write_all(HEAD).await.unwrap();
        assert_eq!(head(&mut inbound, &mut ours).await, HEAD);
        assert_eq!(&data[..], b"first", "it is not overwritten");
    }
}
