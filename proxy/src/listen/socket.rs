//! A client's socket with a read-ahead buffer.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::proxy_protocol::{self, Header, Malformed, Progress};

/// The start of the HTTP/2 preface (RFC 9113 §3.4), long enough to differ from any HTTP/1 request.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Octets per read-ahead: as many as most heads have.
const CHUNK: usize = 4 * 1024;

/// A socket, and octets that were read ahead: readers receive them first.
pub(crate) struct Socket {
    ahead: BytesMut,
    stream: TcpStream,
}

/// The HTTP version of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Http1,
    Http2,
}

/// Why a PROXY protocol header was not read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Io(#[from] io::Error),
}

// === impl Socket ===

impl Socket {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { ahead: BytesMut::new(), stream }
    }

    /// Reads a PROXY protocol header, and keeps what follows it.
    pub(super) async fn read_proxy_header(&mut self) -> Result<Header, HeaderError> {
        loop {
            match proxy_protocol::read(&self.ahead)? {
                Progress::Done(header) => {
                    self.ahead.advance(header.length);
                    return Ok(header);
                }
                // Bounded by the parser: a header that is too long is malformed.
                Progress::NeedMore => self.read_ahead().await?,
            }
        }
    }

    /// Waits for the first octet.
    pub(super) async fn readable(&mut self) -> io::Result<()> {
        if self.ahead.is_empty() { self.read_ahead().await } else { Ok(()) }
    }

    /// Distinguishes HTTP/2 with prior knowledge from HTTP/1, without consuming any octets.
    pub(super) async fn detect(&mut self) -> io::Result<Protocol> {
        loop {
            if self.ahead.starts_with(HTTP2_PREFACE) {
                return Ok(Protocol::Http2);
            }
            if !HTTP2_PREFACE.starts_with(&self.ahead) {
                return Ok(Protocol::Http1);
            }
            self.read_ahead().await?;
        }
    }

    async fn read_ahead(&mut self) -> io::Result<()> {
        self.ahead.reserve(CHUNK);
        match self.stream.read_buf(&mut self.ahead).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let length = self.ahead.len().min(buf.remaining());
        buf.put_slice(&self.ahead.split_to(length));
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;

    /// Sends `pieces` from a client, each after the previous one was read.
    async fn sent(pieces: &[&[u8]]) -> (Socket, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let mut client = TcpStream::connect(listener.local_addr().expect("an address"))
            .await
            .expect("connected");
        let (stream, _) = listener.accept().await.expect("accepted");
        let mut socket = Socket::new(stream);
        for piece in pieces {
            client.write_all(piece).await.expect("written");
            let length = socket.ahead.len() + piece.len();
            while socket.ahead.len() < length {
                socket.read_ahead().await.expect("read");
            }
        }
        (socket, client)
    }

    async fn rest(mut socket: Socket, client: TcpStream) -> Vec<u8> {
        drop(client);
        let mut rest = Vec::new();
        socket.read_to_end(&mut rest).await.expect("read");
        rest
    }

    #[tokio::test]
    async fn detection_distinguishes_http2_from_http1_and_loses_no_octets() {
        for (octets, protocol) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], Protocol::Http2),
            (b"PROPFIND / HTTP/1.1\r\n", Protocol::Http1),
            (b"PRI * HTTP/1.1\r\n", Protocol::Http1),
            (b"GET / HTTP/1.1\r\n", Protocol::Http1),
        ] {
            let (mut socket, client) = sent(&[octets]).await;
            assert_eq!(socket.detect().await.expect("detected"), protocol);
            assert_eq!(rest(socket, client).await, octets);
        }
    }

    #[tokio::test]
    async fn detection_works_with_single_octets() {
        let (mut socket, mut client) = sent(&[b"PR"]).await;
        let (protocol, ()) = tokio::join!(socket.detect(), async {
            for octet in b"I * HTTP/2.0\r\n" {
                client.write_all(&[*octet]).await.expect("written");
                tokio::task::yield_now().await;
            }
        });
        assert_eq!(protocol.expect("detected"), Protocol::Http2);
        assert_eq!(rest(socket, client).await, HTTP2_PREFACE);
    }

    #[tokio::test]
    async fn octets_after_the_proxy_header_are_kept() {
        let (mut socket, client) =
            sent(&[b"PROXY TCP4 192.0.2.1 198.51.100.2 5", b"6324 443\r\nGET /"]).await;
        let header = socket.read_proxy_header().await.expect("a header");
        assert_eq!(header.addresses.expect("addresses").source.to_string(), "192.0.2.1:56324");
        assert_eq!(rest(socket, client).await, b"GET /");
    }

    #[tokio::test]
    async fn a_client_that_closes_before_its_header_is_an_error() {
        let (mut socket, client) = sent(&[b"PROXY "]).await;
        drop(client);
        assert!(matches!(socket.read_proxy_header().await, Err(HeaderError::Io(_))));
    }
}
