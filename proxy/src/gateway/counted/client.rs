//! Clients that write and compare octets, so that they cost next to nothing.

use std::future::Future;
use std::pin::Pin;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::Access;
use super::fixture::{BODY, uncounted};
use super::requests::{TARGET, fields, http1};

/// A client of the gateway.
pub(super) trait Client {
    /// Sends this many requests, each after the response to the one before.
    fn send(&mut self, requests: usize) -> Pin<Box<dyn Future<Output = ()> + '_>>;
}

/// A client of HTTP/1.1.
pub(super) struct Http1 {
    stream: DuplexStream,
    request: Vec<u8>,
    response: Vec<u8>,
}

/// A client of HTTP/2, with prior knowledge, whose streams follow each other.
pub(super) struct Http2 {
    stream: DuplexStream,
    access: Access,
    next_stream: u32,
    block: Vec<u8>,
    request: Vec<u8>,
    response: Vec<u8>,
}

// === impl Http1 ===

impl Http1 {
    pub(super) fn new(stream: DuplexStream, access: Access) -> Self {
        Self { stream, request: http1(access, access.host()), response: vec![0; 16 * 1024] }
    }

    async fn exchange(&mut self) {
        self.stream.write_all(&self.request).await.unwrap();
        let mut length = 0;
        loop {
            length += self.stream.read(&mut self.response[length..]).await.unwrap();
            let response = &self.response[..length];
            assert!(
                b"HTTP/1.1 200".iter().zip(response).all(|(one, other)| one == other),
                "{}",
                String::from_utf8_lossy(response)
            );
            if response.ends_with(BODY) {
                return;
            }
        }
    }
}

impl Client for Http1 {
    fn send(&mut self, requests: usize) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(uncounted(async move {
            for _ in 0..requests {
                self.exchange().await;
            }
        }))
    }
}

/// Types and flags of frames (RFC 9113 §6).
mod frame {
    pub(super) const HEADER: usize = 9;
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const ACK: u8 = 1;
    pub(super) const END_STREAM: u8 = 1;
    pub(super) const END_HEADERS: u8 = 4;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

// === impl Http2 ===

impl Http2 {
    pub(super) fn new(stream: DuplexStream, access: Access) -> Self {
        Self {
            stream,
            access,
            next_stream: 1,
            block: access.indexed_block(),
            request: Vec::with_capacity(4 * 1024),
            response: vec![0; 16 * 1024],
        }
    }

    async fn exchange(&mut self) {
        self.request.clear();
        if self.next_stream == 1 {
            self.request.extend_from_slice(PREFACE);
            put_frame(frame::SETTINGS, 0, 0, &[], &mut self.request);
            put_frame(
                frame::HEADERS,
                frame::END_HEADERS | frame::END_STREAM,
                1,
                &self.access.first_block(),
                &mut self.request,
            );
        } else {
            put_frame(
                frame::HEADERS,
                frame::END_HEADERS | frame::END_STREAM,
                self.next_stream,
                &self.block,
                &mut self.request,
            );
        }
        self.stream.write_all(&self.request).await.unwrap();
        self.response().await;
        self.next_stream += 2;
    }

    /// Reads frames until the response ends.
    async fn response(&mut self) {
        let (mut length, mut begin) = (0, 0);
        loop {
            length += self.stream.read(&mut self.response[length..]).await.unwrap();
            while let Some((header, payload)) =
                self.response[begin..length].split_first_chunk::<{ frame::HEADER }>()
            {
                let [high, middle, low, kind, flags, id @ ..] = *header;
                let octets = u32::from_be_bytes([0, high, middle, low]) as usize;
                let Some(payload) = payload.get(..octets) else { break };
                begin += frame::HEADER + octets;
                let is_ours = u32::from_be_bytes(id) == self.next_stream;
                match kind {
                    frame::SETTINGS if flags & frame::ACK == 0 => {
                        let mut acknowledgement = Vec::new();
                        put_frame(frame::SETTINGS, frame::ACK, 0, &[], &mut acknowledgement);
                        self.stream.write_all(&acknowledgement).await.unwrap();
                    }
                    // RFC 7541, appendix A: the entry 8 of the static table is `:status: 200`.
                    frame::HEADERS => assert!(is_ours && payload.contains(&0x88), "{payload:x?}"),
                    frame::DATA if flags & frame::END_STREAM != 0 => {
                        assert!(is_ours && payload.is_empty() || payload == BODY, "{payload:x?}");
                        assert_eq!(begin, length, "frames after the response");
                        return;
                    }
                    frame::GOAWAY => panic!("the connection is closed: {payload:x?}"),
                    _ => {}
                }
            }
        }
    }
}

impl Client for Http2 {
    fn send(&mut self, requests: usize) -> Pin<Box<dyn Future<Output = ()> + '_>> {
        Box::pin(uncounted(async move {
            for _ in 0..requests {
                self.exchange().await;
            }
        }))
    }
}

fn put_frame(kind: u8, flags: u8, stream: u32, payload: &[u8], out: &mut Vec<u8>) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend_from_slice(&length[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The number of entries of HPACK's static table (RFC 7541, appendix A).
const STATIC_ENTRIES: usize = 61;

impl Access {
    /// The header block of the first request, which enters the fields into the table.
    fn first_block(self) -> Vec<u8> {
        let mut block = pseudo_fields();
        for (name, value) in self.indexed_fields() {
            // RFC 7541 §6.2.1: literal with incremental indexing, new name.
            block.push(0x40);
            put_text(name, &mut block);
            put_text(&value, &mut block);
        }
        block
    }

    /// The header block of each further request: all but the path are in the table.
    fn indexed_block(self) -> Vec<u8> {
        let mut block = pseudo_fields();
        let count = self.indexed_fields().len();
        for number in 0..count {
            // The last one entered has the lowest index.
            put_integer(0x80, 7, STATIC_ENTRIES + count - number, &mut block);
        }
        block
    }

    fn indexed_fields(self) -> Vec<(&'static str, String)> {
        [(":authority", self.host().to_owned())].into_iter().chain(fields(self)).collect()
    }
}

/// `:method`, `:scheme` and `:path`; the last one differs between requests, so it is not indexed.
fn pseudo_fields() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x04];
    put_text(TARGET, &mut block);
    block
}

/// Writes a string without Huffman coding (RFC 7541 §5.2).
fn put_text(text: &str, out: &mut Vec<u8>) {
    put_integer(0, 7, text.len(), out);
    out.extend_from_slice(text.as_bytes());
}

/// Writes an integer (RFC 7541 §5.1) below the bits of `pattern`.
fn put_integer(pattern: u8, prefix: u32, number: usize, out: &mut Vec<u8>) {
    let max = (1 << prefix) - 1;
    if number < max {
        return out.push(pattern | number as u8);
    }
    out.push(pattern | max as u8);
    let mut rest = number - max;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
