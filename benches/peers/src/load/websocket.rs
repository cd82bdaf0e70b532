//! WebSockets (RFC 6455) with messages of a fixed length below 126 bytes: the client's side and the
//! echo of it.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::Failure;
use crate::connection::Stream;
use crate::exchange::Target;
use crate::http1::{first_line, read_head};

// The example of RFC 6455 §1.3: each handshake has the same key, so that nothing needs to be
// computed.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const BINARY: u8 = 0x82;
const MASKED: u8 = 0x80;
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const HEAD_BYTES: usize = 2;

/// A client's connection, with one message at a time.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    message: Vec<u8>,
    echo: Vec<u8>,
}

impl Connection {
    /// Makes the handshake.
    pub(crate) async fn open(
        mut stream: Box<dyn Stream>,
        target: &Target,
    ) -> Result<Self, Failure> {
        let length = u8::try_from(target.bytes)
            .ok()
            .filter(|length| *length < 126)
            .ok_or("messages have less than 126 bytes")?;
        let fields = format!(
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}"
        );
        stream
            .write_all(
                format!("GET /websocket HTTP/1.1\r\nHost: {}\r\n{fields}\r\n\r\n", target.host)
                    .as_bytes(),
            )
            .await?;
        let mut received = Vec::new();
        read_head(&mut stream, &mut received).await?;
        if !received.starts_with(b"HTTP/1.1 101 ") {
            return Err(format!("a handshake was answered with {:?}", first_line(&received)).into());
        }
        let mut message = vec![BINARY, MASKED | length];
        message.extend(MASK);
        message.extend(masked(&vec![b'x'; target.bytes]));
        Ok(Self { stream, message, echo: vec![0; HEAD_BYTES + target.bytes] })
    }

    /// Sends a message, and reads its echo.
    pub(crate) async fn echo(&mut self) -> Result<(), Failure> {
        self.stream.write_all(&self.message).await?;
        self.stream.read_exact(&mut self.echo).await?;
        let [first, length, text @ ..] = self.echo.as_slice() else {
            return Err("an empty echo".into());
        };
        let is_right = *first == BINARY
            && usize::from(*length) == text.len()
            && text.iter().all(|octet| *octet == b'x');
        if is_right { Ok(()) } else { Err("an echo is not the message".into()) }
    }
}

/// The backend's side of a connection: it echoes messages until the client closes.
pub(crate) async fn serve(mut stream: Box<dyn Stream>) -> Result<(), Failure> {
    read_head(&mut stream, &mut Vec::new()).await?;
    let head = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {ACCEPT}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut received = Vec::new();
    loop {
        while let Some((frame, rest)) = whole_frame(&received) {
            let (echo, rest) = (unmasked(frame), rest.to_vec());
            stream.write_all(&echo).await?;
            received = rest;
        }
        if stream.read_buf(&mut received).await? == 0 {
            return Ok(());
        }
    }
}

/// A masked frame at the beginning of `received`, and what follows it.
fn whole_frame(received: &[u8]) -> Option<(&[u8], &[u8])> {
    let length = usize::from(received.get(1)? & !MASKED) + HEAD_BYTES + MASK.len();
    received.split_at_checked(length)
}

/// The frame as a server sends it.
fn unmasked(frame: &[u8]) -> Vec<u8> {
    let text = frame.get(HEAD_BYTES + MASK.len()..).unwrap_or_default();
    let mut echo = vec![BINARY, u8::try_from(text.len()).unwrap_or_default()];
    echo.extend(masked(text));
    echo
}

fn masked(text: &[u8]) -> impl Iterator<Item = u8> {
    text.iter().zip(MASK.iter().cycle()).map(|(octet, mask)| octet ^ mask)
}
