//! The writing half of a connection: heads and bodies, buffered so that a small message is one
//! write.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::io::AsyncWrite;

use super::body::Encoder;
use crate::exchange::{BodyLength, Broken, Frame};
use crate::itoa::decimal_value;

/// Buffered octets above which no more frames are accepted.
const BOUND: usize = 64 * 1024;
/// A body chunk up to this size is copied into the buffer; a larger one is written without a copy.
const COPY: usize = 4 * 1024;
/// Buffer capacity that a connection keeps after everything has been written.
const KEEP: usize = 16 * 1024;
/// Maximum number of slices per vectored write.
const SLICES: usize = 16;

/// The writing half of a connection.
#[derive(Debug)]
pub(crate) struct Outbound {
    pieces: VecDeque<Bytes>,
    tail: BytesMut,
    waiting: usize,
    encoder: Encoder,
    /// The message cannot be completed any more.
    is_broken: bool,
    /// The body ends with our half of the connection.
    ends_by_close: bool,
    /// Nothing was written to the transport since the last request's head.
    is_unwritten: bool,
    /// The transport, such as TLS, may hold octets back.
    is_unflushed: bool,
}

/// The parts of a request's head.
#[derive(Debug)]
pub(crate) struct RequestLine<'a, A> {
    pub(crate) method: &'a Method,
    pub(crate) target: &'a str,
    pub(crate) host: &'a HeaderValue,
    pub(crate) headers: &'a HeaderMap,
    /// Writes further lines, under names that `headers` does not contain.
    pub(crate) put_added: A,
    pub(crate) body: BodyLength,
    pub(crate) expects_continue: bool,
}

// === impl Outbound ===

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            waiting: 0,
            encoder: Encoder::Done,
            is_broken: false,
            ends_by_close: false,
            is_unwritten: true,
            is_unflushed: false,
        }
    }

    /// Whether a body is unfinished or was aborted.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.is_broken || self.encoder != Encoder::Done
    }

    /// Whether the transport has sent everything.
    pub(crate) fn is_flushed(&self) -> bool {
        self.waiting == 0 && !self.is_unflushed
    }

    /// Whether no octet of the last request was written to the transport.
    pub(crate) fn is_unwritten(&self) -> bool {
        self.is_unwritten
    }

    /// Writes a request's head. Framing is derived from the body's length, never from the header
    /// fields.
    pub(crate) fn request<A>(&mut self, request: RequestLine<'_, A>)
    where
        A: FnOnce(&mut BytesMut),
    {
        let out = &mut self.tail;
        out.reserve(1024);
        let (method, target) = (request.method.as_str().as_bytes(), request.target.as_bytes());
        put_parts([method, b" ", target, b" HTTP/1.1\r\n"], out);
        put_field(&header::HOST, request.host, out);
        for (name, value) in request.headers {
            // Only HTTP/2 allows it without `Connection: TE` (RFC 9113 §8.2.2).
            if name != header::TE {
                put_field(name, value, out);
            }
        }
        (request.put_added)(out);
        if request.expects_continue {
            out.put_slice(b"expect: 100-continue\r\n");
        }
        let encoder = match request.body {
            BodyLength::None => {
                // RFC 9110 §8.6: methods that anticipate a body announce its absence.
                if matches!(*request.method, Method::POST | Method::PUT | Method::PATCH) {
                    out.put_slice(b"content-length: 0\r\n");
                }
                Encoder::Done
            }
            BodyLength::Exact(length) => {
                put_field(&header::CONTENT_LENGTH, &decimal_value(length), out);
                Encoder::Exact(length)
            }
            BodyLength::Unknown => {
                out.put_slice(b"transfer-encoding: chunked\r\n");
                Encoder::Chunked
            }
            BodyLength::Tunnel => {
                out.put_slice(b"connection: upgrade\r\nupgrade: websocket\r\n");
                Encoder::Done
            }
        };
        out.put_slice(b"\r\n");
        self.is_unwritten = true;
        self.begin(encoder);
    }

    /// Writes a response's head; `encoder` frames its body.
    pub(crate) fn response(&mut self, status: StatusCode, headers: &HeaderMap, encoder: Encoder) {
        self.tail.reserve(1024);
        let reason = status.canonical_reason().unwrap_or_default().as_bytes();
        let code = status.as_str().as_bytes();
        put_parts([b"HTTP/1.1 ", code, b" ", reason, b"\r\n"], &mut self.tail);
        for (name, value) in headers {
            put_field(name, value, &mut self.tail);
        }
        self.tail.put_slice(b"\r\n");
        self.begin(encoder);
    }

    fn begin(&mut self, encoder: Encoder) {
        self.encoder = encoder;
        self.count();
    }

    /// Changes the framing of what follows, after a 101.
    pub(crate) fn switch(&mut self, encoder: Encoder) {
        self.encoder = encoder;
    }

    fn count(&mut self) {
        self.waiting = self.pieces.iter().map(Bytes::len).sum::<usize>() + self.tail.len();
    }

    /// Buffers a frame.
    pub(crate) fn push(&mut self, frame: Frame) {
        match frame {
            Frame::Data(data) if data.is_empty() => {}
            Frame::Data(data) => self.push_data(data),
            Frame::Trailers(trailers) => {
                self.is_broken |= !self.encoder.finish(Some(&trailers), &mut self.tail);
                self.count();
            }
        }
    }

    fn push_data(&mut self, data: Bytes) {
        if !self.encoder.before_data(data.len(), &mut self.tail) {
            self.is_broken = true;
            return;
        }
        if data.len() <= COPY {
            self.tail.put_slice(&data);
        } else {
            let before = self.tail.split().freeze();
            if !before.is_empty() {
                self.pieces.push_back(before);
            }
            self.pieces.push_back(data);
        }
        self.encoder.after_data(&mut self.tail);
        self.count();
    }

    /// Ends the body.
    pub(crate) fn finish(&mut self) {
        self.ends_by_close = self.encoder == Encoder::Raw;
        self.is_broken |= !self.encoder.finish(None, &mut self.tail);
        self.count();
    }

    /// Ready when another frame may be pushed.
    pub(crate) fn poll_ready<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while self.waiting > BOUND {
            ready!(self.poll_write(io, cx))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Flushes everything to the transport.
    ///
    /// # Errors
    /// The connection failed, or the body does not have its announced length.
    pub(crate) fn poll_flush<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        while self.waiting > 0 {
            ready!(self.poll_write(io, cx))?;
        }
        if self.is_unflushed {
            ready!(Pin::new(&mut *io).poll_flush(cx)).map_err(|_| Broken::Closed)?;
            self.is_unflushed = false;
        }
        if self.ends_by_close {
            ready!(Pin::new(io).poll_shutdown(cx)).map_err(|_| Broken::Closed)?;
            self.ends_by_close = false;
        }
        if self.is_broken {
            Poll::Ready(Err(Broken::Malformed("body_length")))
        } else {
            Poll::Ready(Ok(()))
        }
    }

    fn poll_write<T: AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        let written = if self.pieces.is_empty() {
            ready!(Pin::new(io).poll_write(cx, &self.tail))
        } else {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let pieces = self.pieces.iter().map(|piece| &**piece).chain([&*self.tail]);
            let mut length = 0;
            for (slice, piece) in slices.iter_mut().zip(pieces) {
                *slice = IoSlice::new(piece);
                length += 1;
            }
            ready!(Pin::new(io).poll_write_vectored(cx, slices.get(..length).unwrap_or_default()))
        };
        match written {
            Ok(0) | Err(_) => Poll::Ready(Err(Broken::Closed)),
            Ok(written) => {
                self.advance(written);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn advance(&mut self, mut written: usize) {
        self.waiting -= written;
        self.is_unwritten = false;
        self.is_unflushed = true;
        while let Some(piece) = self.pieces.front_mut() {
            if written < piece.len() {
                piece.advance(written);
                return;
            }
            written -= piece.len();
            self.pieces.pop_front();
        }
        if written < self.tail.len() {
            self.tail.advance(written);
            return;
        }
        self.tail.clear();
        // A large head is rarely followed by another, and connections can be long-lived.
        if self.tail.try_reclaim(KEEP + 1) {
            self.tail = BytesMut::new();
        }
    }
}

/// Writes one header field.
pub(crate) fn put_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    put_parts([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"], out);
}

/// Appends parts, making room for all of them at once.
#[inline]
pub(crate) fn put_parts<const N: usize>(parts: [&[u8]; N], out: &mut BytesMut) {
    let start = out.len();
    out.resize(start + parts.iter().map(|part| part.len()).sum::<usize>(), 0);
    let mut room = out.get_mut(start..).unwrap_or_default();
    for part in parts {
        let Some((place, rest)) = room.split_at_mut_checked(part.len()) else { return };
        place.copy_from_slice(part);
        room = rest;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, BufWriter, duplex};

    use super::*;

    /// A transport that takes everything at once, and sends it as its peer reads, as TLS does.
    #[tokio::test(start_paused = true)]
    async fn what_the_transport_holds_back_is_flushed() {
        let (ours, mut theirs) = duplex(16);
        let mut transport = BufWriter::new(ours);
        let mut outbound = Outbound::new();
        outbound.response(StatusCode::OK, &HeaderMap::new(), Encoder::Exact(1000));
        outbound.push(Frame::Data(Bytes::from(vec![b'a'; 1000])));
        outbound.finish();
        let mut flush = Box::pin(poll_fn(|cx| outbound.poll_flush(&mut transport, cx)));
        assert!((&mut flush).now_or_never().is_none(), "the peer has read nothing");

        let read = async {
            let mut octets = vec![0; "HTTP/1.1 200 OK\r\n\r\n".len() + 1000];
            theirs.read_exact(&mut octets).await.unwrap();
        };
        let both = async { futures::join!(flush, read) };
        let (flushed, ()) = tokio::time::timeout(Duration::from_secs(1), both).await.unwrap();
        flushed.unwrap();
        assert!(outbound.is_flushed());
    }

    #[tokio::test]
    async fn octets_written_to_make_room_are_flushed_at_the_end() {
        let (ours, mut theirs) = duplex(2 * BOUND);
        let mut transport = BufWriter::with_capacity(4 * BOUND, ours);
        let mut outbound = Outbound::new();
        outbound.response(StatusCode::OK, &HeaderMap::new(), Encoder::Raw);
        outbound.push(Frame::Data(Bytes::from(vec![b'a'; BOUND])));
        poll_fn(|cx| outbound.poll_ready(&mut transport, cx)).await.unwrap();
        assert!(!outbound.is_flushed());
        poll_fn(|cx| outbound.poll_flush(&mut transport, cx)).await.unwrap();
        assert!(outbound.is_flushed());
        let mut octets = vec![0; BOUND];
        theirs.read_exact(&mut octets).await.unwrap();
    }
}
