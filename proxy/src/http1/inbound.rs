//! What is read from a connection: heads, then the frames of bodies.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::body::{Decoded, Decoder};
use super::head::{HeadFault, HeadScanner};
use crate::exchange::{Broken, Frame};

/// Octets that one read asks for at the most.
const READ: usize = 16 * 1024;
/// A buffer with less room than this grows before it is read into.
const ROOM: usize = 4 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Inbound {
    octets: BytesMut,
    scanner: HeadScanner,
    decoder: Decoder,
    is_ended: bool,
}

/// Why no head could be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoHead {
    /// The peer closed before the first octet of it.
    Ended,
    /// The peer closed, or the connection broke, within it.
    Cut,
    /// It cannot be a head.
    Fault(HeadFault),
}

// === impl Inbound ===

impl Inbound {
    pub(crate) fn new() -> Self {
        Self {
            octets: BytesMut::new(),
            scanner: HeadScanner::default(),
            decoder: Decoder::Done,
            is_ended: false,
        }
    }

    /// Whether nothing is left over that nobody has read.
    pub(crate) fn is_empty(&self) -> bool {
        self.octets.is_empty()
    }

    /// Octets that were read and are still here.
    pub(crate) fn len(&self) -> usize {
        self.octets.len()
    }

    /// Whether the peer has closed its half.
    pub(crate) fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Whether the body that was begun last has been read in whole.
    pub(crate) fn is_body_done(&self) -> bool {
        self.decoder.is_done()
    }

    /// Says what the next frames are.
    pub(crate) fn begin_body(&mut self, decoder: Decoder) {
        self.decoder = decoder;
    }

    /// Reads once. Ready with `false` at the peer's end.
    pub(crate) fn poll_fill<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Broken>> {
        if self.is_ended {
            return Poll::Ready(Ok(false));
        }
        // Where nothing of what was read is in use any more, the next is read to the same place: it
        // is still in the processor's cache.
        let is_fresh = self.octets.is_empty() && self.octets.try_reclaim(READ);
        if !is_fresh && self.octets.capacity() - self.octets.len() < ROOM {
            self.octets.reserve(READ);
        }
        match ready!(poll_read_buf(Pin::new(io), cx, &mut self.octets)) {
            Ok(0) => {
                self.is_ended = true;
                Poll::Ready(Ok(false))
            }
            Ok(_) => Poll::Ready(Ok(true)),
            // rustls tells a close without close_notify as an error; the framing of the body
            // decides whether it was too early.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
                self.is_ended = true;
                Poll::Ready(Ok(false))
            }
            Err(_) => Poll::Ready(Err(Broken::Closed)),
        }
    }

    /// Ready when there is at least one octet of the next head, or with the peer's end.
    pub(crate) fn poll_first<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), NoHead>> {
        if !self.octets.is_empty() {
            return Poll::Ready(Ok(()));
        }
        match ready!(self.poll_fill(io, cx)) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) | Err(_) => Poll::Ready(Err(NoHead::Ended)),
        }
    }

    /// The octets of the next head, with its empty line.
    pub(crate) fn poll_head<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        limit: usize,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BytesMut, NoHead>> {
        loop {
            if !self.octets.is_empty() {
                match self.scanner.scan(&self.octets, limit) {
                    Err(fault) => return Poll::Ready(Err(NoHead::Fault(fault))),
                    Ok(Some(length)) => {
                        self.scanner = HeadScanner::default();
                        return Poll::Ready(Ok(self.octets.split_to(length)));
                    }
                    Ok(None) => {}
                }
            }
            let missing = if self.octets.is_empty() { NoHead::Ended } else { NoHead::Cut };
            match ready!(self.poll_fill(io, cx)) {
                Ok(true) => {}
                Ok(false) | Err(_) => return Poll::Ready(Err(missing)),
            }
        }
    }

    /// The next frame of the body.
    pub(crate) fn poll_frame<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame, Broken>>> {
        loop {
            match self.decoder.decode(&mut self.octets) {
                Ok(Decoded::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Decoded::End) => return Poll::Ready(None),
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

    /// Reads ahead, up to one buffer, to learn whether the peer is gone. Its end alone does not say
    /// so: a half-closed connection still takes the answer.
    pub(crate) fn poll_gone<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        while self.decoder.is_done() && !self.is_ended && self.octets.len() < READ {
            if let Err(Broken::Closed) = ready!(self.poll_fill(io, cx)).map(drop) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
