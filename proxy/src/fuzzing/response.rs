//! Invariants of reading a backend's response.

use bytes::BytesMut;
use http::header::CONNECTION;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::{flushed, pieces};
use crate::exchange::{Broken, Frame};
use crate::http1::body::{Blanks, Decoded, Decoder, Encoder};
use crate::http1::head::{
    self, HeadLimits, HeadScanner, ParsedResponse, ResponseBody, ResponseContext,
};
use crate::http1::outbound::Outbound;

const LIMITS: HeadLimits = HeadLimits { bytes: 4096, headers: 32 };

/// The parse result of a response.
#[derive(Debug, PartialEq)]
struct Reading {
    /// The interim heads and the final one.
    heads: Vec<(StatusCode, HeaderMap)>,
    framing: Option<ResponseBody>,
    keep_alive: bool,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Octets that belong to the response; more may follow it.
    consumed: usize,
    end: End,
}

#[derive(Debug, PartialEq)]
enum End {
    Complete,
    /// The backend closed the connection prematurely.
    Truncated,
    Malformed(&'static str),
}

/// Checks how [`http1`](crate::http1) reads a response. The first octet determines the request, the
/// second how the rest is split.
///
/// - The result does not depend on how the octets are split.
/// - Bodies have their declared length, and nothing is read beyond the end.
/// - Heads stay within their limits.
/// - The encoded result parses as equal.
///
/// # Panics
/// Panics if an invariant is violated.
pub fn upstream_response(input: &[u8]) {
    let [context, seed, octets @ ..] = input else { return };
    let context = ResponseContext { head: context & 1 != 0, upgrade: context & 2 != 0 };
    let whole = read(pieces(octets, 0), octets.len(), context);
    for seed in [1, *seed] {
        assert_eq!(
            whole,
            read(pieces(octets, seed), octets.len(), context),
            "split into pieces of {seed}"
        );
    }
    assert!(whole.consumed <= octets.len());
    for (_, headers) in &whole.heads {
        assert!(headers.len() <= LIMITS.headers);
    }
    if let (Some(ResponseBody::Exact(length)), End::Complete) = (whole.framing, &whole.end) {
        assert_eq!(whole.body.len() as u64, length);
    }
    if let Some(ResponseBody::None) = whole.framing {
        assert!(whole.body.is_empty() && whole.trailers.is_none());
    }
    if whole.end == End::Complete {
        let written = write(&whole);
        let reparsed = read(pieces(&written, 0), written.len(), context);
        assert_eq!(reparsed.consumed, written.len());
        // The encoder writes its own version, which affects keep-alive, and in which the option
        // `keep-alive` says nothing and is not stored.
        let Reading { consumed, keep_alive, .. } = whole;
        let reparsed = Reading { consumed, keep_alive, ..reparsed };
        let whole = Reading { heads: without_keep_alive(&whole.heads), ..whole };
        assert_eq!(whole, reparsed, "written as {:?}", String::from_utf8_lossy(&written));
    }
}

/// The heads without fields `Connection: keep-alive`.
fn without_keep_alive(heads: &[(StatusCode, HeaderMap)]) -> Vec<(StatusCode, HeaderMap)> {
    let is_kept = |(name, value): &(&HeaderName, &HeaderValue)| {
        *name != CONNECTION || !value.as_bytes().eq_ignore_ascii_case(b"keep-alive")
    };
    let kept = |headers: &HeaderMap| {
        headers.iter().filter(is_kept).map(|(name, value)| (name.clone(), value.clone())).collect()
    };
    heads.iter().map(|(status, headers)| (*status, kept(headers))).collect()
}

/// Encodes a response.
fn write(reading: &Reading) -> Vec<u8> {
    let mut outbound = Outbound::new();
    let Some(((status, headers), interim)) = reading.heads.split_last() else { return Vec::new() };
    for (status, headers) in interim {
        outbound.response(*status, headers, Encoder::Done);
    }
    let encoder = match reading.framing {
        None | Some(ResponseBody::None) => Encoder::Done,
        Some(ResponseBody::Exact(length)) => Encoder::Exact(length),
        Some(ResponseBody::Chunked) => Encoder::Chunked,
        Some(ResponseBody::UntilClose | ResponseBody::Tunnel) => Encoder::Raw,
    };
    outbound.response(*status, headers, encoder);
    if !reading.body.is_empty() {
        outbound.push(Frame::Data(reading.body.clone().into()));
    }
    match &reading.trailers {
        Some(trailers) => outbound.push(Frame::Trailers(trailers.clone())),
        None => outbound.finish(),
    }
    flushed(outbound)
}

fn read<'a>(
    pieces: impl Iterator<Item = &'a [u8]>,
    length: usize,
    context: ResponseContext,
) -> Reading {
    let mut reader = Reader {
        reading: Reading::new(),
        scanner: HeadScanner::default(),
        decoder: None,
        buffer: BytesMut::new(),
    };
    let mut arrived = 0;
    for piece in pieces {
        arrived += piece.len();
        reader.buffer.extend_from_slice(piece);
        match reader.advance(context) {
            Ok(false) => {}
            Ok(true) => return reader.finish(arrived, End::Complete),
            Err(broken) => return reader.finish_broken(arrived, broken),
        }
    }
    assert_eq!(arrived, length);
    match reader.decoder.as_mut().map(Decoder::end_of_input) {
        Some(Ok(())) => reader.finish(arrived, End::Complete),
        Some(Err(broken)) => reader.finish_broken(arrived, broken),
        None => reader.finish(arrived, End::Truncated),
    }
}

struct Reader {
    reading: Reading,
    scanner: HeadScanner,
    decoder: Option<Decoder>,
    buffer: BytesMut,
}

// === impl Reader ===

impl Reader {
    /// Continues to parse; returns `true` at the end of the response.
    fn advance(&mut self, context: ResponseContext) -> Result<bool, Broken> {
        while self.decoder.is_none() {
            let Some(end) =
                self.scanner.scan(&self.buffer, LIMITS.bytes).map_err(head::HeadFault::broken)?
            else {
                return Ok(false);
            };
            assert!(end <= LIMITS.bytes + 1);
            self.scanner = HeadScanner::default();
            let parsed = head::response(self.buffer.split_to(end), LIMITS, context)?;
            self.head(parsed);
        }
        let Some(decoder) = &mut self.decoder else { return Ok(false) };
        loop {
            match decoder.decode(&mut self.buffer)? {
                Decoded::End => return Ok(true),
                Decoded::More => return Ok(false),
                Decoded::Frame(Frame::Data(data)) => {
                    assert!(!data.is_empty());
                    self.reading.body.extend_from_slice(&data);
                }
                Decoded::Frame(Frame::Trailers(trailers)) => self.reading.trailers = Some(trailers),
            }
        }
    }

    fn head(&mut self, parsed: ParsedResponse) {
        let status = parsed.head.status;
        self.reading.heads.push((status, parsed.head.headers));
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            assert_eq!(parsed.body, ResponseBody::None);
            return;
        }
        self.reading.keep_alive = parsed.keep_alive;
        self.reading.framing = Some(parsed.body);
        self.decoder = Some(match parsed.body {
            ResponseBody::None => Decoder::Done,
            ResponseBody::Exact(length) => Decoder::exact(length),
            ResponseBody::Chunked => Decoder::chunked(Blanks::Accepted),
            ResponseBody::UntilClose => Decoder::UntilClose,
            ResponseBody::Tunnel => Decoder::Tunnel,
        });
    }

    fn finish(mut self, arrived: usize, end: End) -> Reading {
        self.reading.consumed = arrived - self.buffer.len();
        self.reading.end = end;
        self.reading
    }

    fn finish_broken(mut self, arrived: usize, broken: Broken) -> Reading {
        match broken {
            // The consumed length of a malformed response is undefined.
            Broken::Malformed(reason) => {
                self.reading.end = End::Malformed(reason);
                self.reading
            }
            Broken::Closed | Broken::TimedOut => self.finish(arrived, End::Truncated),
        }
    }
}

// === impl Reading ===

impl Reading {
    fn new() -> Self {
        Self {
            heads: Vec::new(),
            framing: None,
            keep_alive: false,
            body: Vec::new(),
            trailers: None,
            consumed: 0,
            end: End::Truncated,
        }
    }
}
