//! A client that sends raw bytes, and reads HTTP/1.1 responses one at a time.

use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

/// A connection.
pub(crate) struct Raw {
    stream: Box<dyn Stream>,
    pending: Vec<u8>,
}

/// A response as it was on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Response {
    /// Its status.
    pub(crate) status: u16,
    /// Its head, with the empty line.
    pub(crate) head: String,
    /// The decoded body.
    pub(crate) body: Vec<u8>,
    /// The trailers of a chunked body.
    pub(crate) trailers: String,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

// === impl Raw ===

impl Raw {
    /// Connects by plain TCP.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.expect("the gateway accepts connections"))
    }

    /// A client on an existing connection.
    pub(crate) fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        Self { stream: Box::new(stream), pending: Vec::new() }
    }

    /// Sends bytes. A closed connection is detected when reading.
    pub(crate) async fn send(&mut self, octets: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(octets.as_ref()).await;
        let _ = self.stream.flush().await;
    }

    /// Closes the sending direction.
    pub(crate) async fn shutdown(&mut self) {
        let _ = self.stream.shutdown().await;
    }

    /// The next response; `None` if the connection was closed before it.
    pub(crate) async fn response(&mut self) -> Option<Response> {
        self.response_to("GET").await
    }

    /// The next response, to a request of that method.
    pub(crate) async fn response_to(&mut self, method: &str) -> Option<Response> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).into_owned();
        let status: u16 = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or_else(|| panic!("no status line: {head}"));
        let mut response = Response { status, head, body: Vec::new(), trailers: String::new() };
        if method == "HEAD" || status == 204 || status == 304 || status < 200 {
            return Some(response);
        }
        if response
            .header("transfer-encoding")
            .is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
        {
            self.chunked(&mut response).await;
        } else if let Some(length) =
            response.header("content-length").and_then(|length| length.parse().ok())
        {
            response.body = self.octets(length).await.expect("the body is whole");
        } else {
            response.body = self.rest().await;
        }
        Some(response)
    }

    async fn chunked(&mut self, response: &mut Response) {
        loop {
            let line = self.until(b"\r\n").await.expect("a chunk's size");
            let text = String::from_utf8_lossy(&line).trim().to_owned();
            let size = usize::from_str_radix(&text, 16)
                .unwrap_or_else(|_| panic!("no chunk size: {text}"));
            if size == 0 {
                break;
            }
            response.body.extend(self.octets(size).await.expect("a whole chunk"));
            self.octets(2).await.expect("a chunk's end");
        }
        loop {
            let line = self.until(b"\r\n").await.expect("the end of the trailers");
            if line == b"\r\n" {
                return;
            }
            response.trailers.push_str(&String::from_utf8_lossy(&line));
        }
    }

    /// Reads this many bytes; `None` if the connection was closed before.
    pub(crate) async fn octets(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.pending.len() < count {
            self.fill().await?;
        }
        Some(self.pending.drain(..count).collect())
    }

    /// Reads up to and including `mark`; `None` if the connection was closed before.
    pub(crate) async fn until(&mut self, mark: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(start) = self.pending.windows(mark.len()).position(|window| window == mark)
            {
                return Some(self.pending.drain(..start + mark.len()).collect());
            }
            self.fill().await?;
        }
    }

    /// Reads until the peer closes or resets the connection.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        while self.fill().await.is_some() {}
        std::mem::take(&mut self.pending)
    }

    async fn fill(&mut self) -> Option<()> {
        let read =
            soon("the gateway answers or closes", self.stream.read_buf(&mut self.pending)).await;
        (read.unwrap_or(0) > 0).then_some(())
    }
}

// === impl Response ===

impl Response {
    /// The first header of that name, given in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (other, value) = line.split_once(':')?;
            other.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    /// The body as text.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}
