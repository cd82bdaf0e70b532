//! A client that reads frames.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::frames::*;

/// A connection on which frames are written by hand.
pub(super) struct Client<T> {
    io: T,
    read: Vec<u8>,
}

/// The outcome of stream 1, or of its connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Status(u16),
    Reset(u32),
    Goaway(u32),
    Closed,
}

// === impl Client ===

impl<T: AsyncRead + AsyncWrite + Unpin> Client<T> {
    pub(super) fn new(io: T) -> Self {
        Self { io, read: Vec::new() }
    }

    /// Writes as much as the gateway accepts before it closes the connection.
    pub(super) async fn send(&mut self, octets: impl AsRef<[u8]>) -> bool {
        self.io.write_all(octets.as_ref()).await.is_ok() && self.io.flush().await.is_ok()
    }

    /// The next frame; none when the connection is closed. SETTINGS and PING are acknowledged.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = Frame::take(&mut self.read) {
                if matches!(frame.kind, SETTINGS | PING) && frame.flags & ACK == 0 {
                    let payload = if frame.kind == PING { &*frame.payload } else { &[] };
                    self.send(super::frames::frame(frame.kind, ACK, 0, payload)).await;
                }
                return Some(frame);
            }
            let mut buffer = [0; 16 * 1024];
            match self.io.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(length) => self.read.extend_from_slice(&buffer[..length]),
            }
        }
    }

    /// The outcome of a stream. With `closes`, waits for the end of the connection, whatever the
    /// stream gets before.
    pub(super) async fn outcome(&mut self, stream: u32, closes: bool) -> Outcome {
        let mut status = None;
        let mut goaway = None;
        while let Some(frame) = self.frame().await {
            match frame.kind {
                GOAWAY if frame.code() != 0 => goaway = goaway.or(Some(frame.code())),
                HEADERS if frame.stream == stream && status.is_none() => status = frame.status(),
                RST_STREAM if frame.stream == stream && !closes => {
                    return status.map_or(Outcome::Reset(frame.code()), Outcome::Status);
                }
                _ => {}
            }
            let is_end = matches!(frame.kind, HEADERS | DATA)
                && frame.stream == stream
                && frame.flags & END_STREAM != 0;
            if let (true, false, Some(status)) = (is_end, closes, status) {
                return Outcome::Status(status);
            }
        }
        goaway.map_or(Outcome::Closed, Outcome::Goaway)
    }
}
