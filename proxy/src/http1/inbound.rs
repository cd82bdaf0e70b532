//! The reading half of a connection: heads, then the frames of bodies.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

use super::body::{Decoded, Decoder};
use super::head::{HeadFault, HeadScanner};
use crate::exchange::{Broken, Frame};

/// Maximum number of octets per read.
const READ: usize = 16 * 1024;
/// A buffer with less spare capacity than this grows before a read.
const MIN_ROOM: usize = 4 * 1024;

/// The reading half of a connection.
#[derive(Debug)]
pub(crate) struct Inbound {
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
        // If no octet of the buffer is in use any more, its memory is reused: it is still in the
        // processor's cache.
        let is_fresh = self.octets.is_empty() && self.octets.try_reclaim(READ);
        if !is_fresh && self.octets.capacity() - self.octets.len() < MIN_ROOM {
            self.octets.reserve(READ);
        }
        match ready!(poll_read_buf(Pin::new(io), cx, &mut self.octets)) {
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
                        return Poll::Ready(Ok(self.octets.split_to(length)));
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

    /// Returns the next frame of the body; `None` at its end.
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

    /// Waits until the connection fails, reading ahead up to one buffer. A peer that only closed
    /// its half does not count: it can still receive the response.
    pub(crate) fn poll_client_closed<T: AsyncRead + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        while self.decoder.is_done() && !self.is_eof && self.octets.len() < READ {
            if let Err(Broken::Closed) = ready!(self.poll_fill(io, cx)).map(drop) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
