//! HTTP/1.1, as far as a counted response needs it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Failure;
use crate::connection::Stream;
use crate::exchange::Target;

const MOST_HEAD_BYTES: usize = 16 << 10;

/// A kept connection, with one request at a time.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    request: Vec<u8>,
    bytes: usize,
    received: Vec<u8>,
}

impl Connection {
    pub(crate) fn new(stream: Box<dyn Stream>, target: &Target) -> Self {
        let request =
            format!("GET /get HTTP/1.1\r\nHost: {}\r\nUser-Agent: load\r\n\r\n", target.host);
        Self { stream, request: request.into_bytes(), bytes: target.bytes, received: Vec::new() }
    }

    /// Sends a GET, and reads its response, which must be a 200 with as many bytes as are due.
    pub(crate) async fn get(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.request).await?;
        self.received.clear();
        let head = read_head(&mut self.stream, &mut self.received).await?;
        if !self.received.starts_with(b"HTTP/1.1 200 ") {
            return Err(format!("a response began with {:?}", first_line(&self.received)).into());
        }
        let whole = head + self.bytes;
        while self.received.len() < whole {
            if self.stream.read_buf(&mut self.received).await? == 0 {
                return Err("a response was cut off".into());
            }
        }
        if self.received.len() > whole { Err("a response was too long".into()) } else { Ok(()) }
    }
}

/// Reads a head, and perhaps more. Returns its length.
pub(crate) async fn read_head(
    stream: &mut Box<dyn Stream>,
    received: &mut Vec<u8>,
) -> Result<usize, Failure> {
    loop {
        if stream.read_buf(received).await? == 0 {
            return Err("the connection was closed instead of a head".into());
        }
        if let Some(at) = received.windows(4).position(|four| four == b"\r\n\r\n") {
            return Ok(at + 4);
        }
        if received.len() > MOST_HEAD_BYTES {
            return Err("a head was too long".into());
        }
    }
}

pub(crate) fn first_line(received: &[u8]) -> String {
    String::from_utf8_lossy(received).lines().next().unwrap_or_default().to_owned()
}
