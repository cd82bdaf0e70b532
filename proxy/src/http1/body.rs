//! Bodies: decoding and encoding their framing (RFC 9112 §6 and §7).

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::head::{self, HeadFault, HeadLimits, HeadScanner};
use crate::exchange::{Broken, Frame};

/// Maximum length of a line with a chunk's size and extensions.
pub(crate) const MAX_CHUNK_LINE: usize = 1024;
/// Limits of a trailer section.
pub(crate) const TRAILERS: HeadLimits = HeadLimits { bytes: 16 * 1024, headers: 64 };

/// Decodes one body from a connection's buffer.
#[derive(Debug)]
pub(crate) enum Decoder {
    /// The body is complete.
    Done,
    /// This many octets remain; never 0.
    Exact(u64),
    /// Chunked transfer coding.
    Chunked(Chunk, Blanks),
    /// All octets until the peer closes: a response as in HTTP/1.0.
    UntilClose,
    /// All octets until the peer closes: a WebSocket. The peer may close its half before ours.
    Tunnel,
}

/// The decoder's position in a chunked body (RFC 9112 §7.1).
#[derive(Debug)]
pub(crate) enum Chunk {
    Size,
    Data(u64),
    End,
    Trailers(HeadScanner),
}

/// Whether spaces and tabs around a chunk's size are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Blanks {
    /// Rejected, as in requests: two recipients could read them differently.
    Rejected,
    /// Accepted, as in responses: some servers pad the size to a fixed width. Nothing is forwarded
    /// of them, since chunks are encoded again.
    Accepted,
}

/// The result of [`Decoder::decode`].
#[derive(Debug)]
pub(crate) enum Decoded {
    Frame(Frame),
    /// More octets are needed.
    More,
    /// The body is complete.
    End,
}

/// Encodes the framing of one body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Encoder {
    /// No body, or a complete one.
    Done,
    /// This many octets remain to be sent.
    Exact(u64),
    /// Chunked transfer coding.
    Chunked,
    /// Without framing: the body ends with the connection.
    Raw,
}

// === impl Decoder ===

impl Decoder {
    /// Creates a decoder for a body of `length` octets.
    pub(crate) fn exact(length: u64) -> Self {
        if length == 0 { Self::Done } else { Self::Exact(length) }
    }

    /// Creates a decoder for a chunked body.
    pub(crate) fn chunked(blanks: Blanks) -> Self {
        Self::Chunked(Chunk::Size, blanks)
    }

    /// Whether the body is complete.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Takes the next frame from `octets`.
    pub(crate) fn decode(&mut self, octets: &mut BytesMut) -> Result<Decoded, Broken> {
        match self {
            Self::Done => Ok(Decoded::End),
            Self::UntilClose | Self::Tunnel if octets.is_empty() => Ok(Decoded::More),
            Self::UntilClose | Self::Tunnel => {
                Ok(Decoded::Frame(Frame::Data(octets.split().freeze())))
            }
            Self::Exact(left) => {
                let Some((data, rest)) = take(octets, *left) else { return Ok(Decoded::More) };
                *self = Self::exact(rest);
                Ok(Decoded::Frame(Frame::Data(data)))
            }
            Self::Chunked(state, blanks) => match state.decode(octets, *blanks)? {
                Chunked::More => Ok(Decoded::More),
                Chunked::Data(data) => Ok(Decoded::Frame(Frame::Data(data))),
                Chunked::End(None) => {
                    *self = Self::Done;
                    Ok(Decoded::End)
                }
                Chunked::End(Some(trailers)) => {
                    *self = Self::Done;
                    Ok(Decoded::Frame(Frame::Trailers(trailers)))
                }
            },
        }
    }

    /// Handles the end of the peer's half of the connection.
    ///
    /// # Errors
    /// The body is incomplete.
    pub(crate) fn end_of_input(&mut self) -> Result<(), Broken> {
        match self {
            Self::Done => Ok(()),
            Self::UntilClose | Self::Tunnel => {
                *self = Self::Done;
                Ok(())
            }
            Self::Exact(_) | Self::Chunked(..) => Err(Broken::Closed),
        }
    }
}

/// Takes up to `limit` octets, and returns them with the remaining limit; `None` if there are none.
fn take(octets: &mut BytesMut, limit: u64) -> Option<(Bytes, u64)> {
    if octets.is_empty() {
        return None;
    }
    let length = usize::try_from(limit).unwrap_or(usize::MAX).min(octets.len());
    let data = octets.split_to(length).freeze();
    Some((data, limit - length as u64))
}

enum Chunked {
    More,
    Data(Bytes),
    End(Option<http::HeaderMap>),
}

// === impl Chunk ===

impl Chunk {
    fn decode(&mut self, octets: &mut BytesMut, blanks: Blanks) -> Result<Chunked, Broken> {
        loop {
            match self {
                Self::Size => match chunk_line(octets, blanks)? {
                    None => return Ok(Chunked::More),
                    Some(0) => *self = Self::Trailers(HeadScanner::default()),
                    Some(size) => *self = Self::Data(size),
                },
                Self::Data(left) => {
                    let Some((data, rest)) = take(octets, *left) else { return Ok(Chunked::More) };
                    *self = if rest == 0 { Self::End } else { Self::Data(rest) };
                    return Ok(Chunked::Data(data));
                }
                Self::End => match octets.get(..2) {
                    None if octets.first().is_some_and(|octet| *octet != b'\r') => {
                        return Err(Broken::Malformed("bad_chunk_end"));
                    }
                    None => return Ok(Chunked::More),
                    Some(b"\r\n") => {
                        octets.advance(2);
                        *self = Self::Size;
                    }
                    Some(_) => return Err(Broken::Malformed("bad_chunk_end")),
                },
                Self::Trailers(scanner) => return trailers(scanner, octets),
            }
        }
    }
}

/// Reads a chunk's size; extensions are ignored, as RFC 9112 §7.1.1 requires.
fn chunk_line(octets: &mut BytesMut, blanks: Blanks) -> Result<Option<u64>, Broken> {
    const BAD: Broken = Broken::Malformed("bad_chunk_size");
    let Some(end) = memchr::memchr(b'\n', octets) else {
        return if octets.len() > MAX_CHUNK_LINE {
            Err(Broken::Malformed("chunk_line_too_long"))
        } else {
            Ok(None)
        };
    };
    if end > MAX_CHUNK_LINE {
        return Err(Broken::Malformed("chunk_line_too_long"));
    }
    let line = octets.split_to(end + 1);
    let line = line.strip_suffix(b"\r\n").ok_or(Broken::Malformed("bare_line_feed"))?;
    let line = blanks.skip(line);
    let digits = line.iter().take_while(|octet| octet.is_ascii_hexdigit()).count();
    let (size, extension) = line.split_at_checked(digits).ok_or(BAD)?;
    // 15 digits cannot overflow. An extension is `;` and visible text; whitespace before it (the
    // "BWS" of RFC 9112) is rejected in requests.
    let extension = blanks.skip(extension);
    let is_extension = matches!(extension.first(), None | Some(b';'));
    let is_text = extension.iter().all(|octet| matches!(octet, b'\t' | 0x20..=0x7e));
    if size.is_empty() || size.len() > 15 || !is_extension || !is_text {
        return Err(BAD);
    }
    let size = size
        .iter()
        .fold(0, |sum, digit| sum << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or(0)));
    Ok(Some(size))
}

fn trailers(scanner: &mut HeadScanner, octets: &mut BytesMut) -> Result<Chunked, Broken> {
    if octets.starts_with(b"\r\n") {
        octets.advance(2);
        return Ok(Chunked::End(None));
    }
    let end = match scanner.scan(octets, TRAILERS.bytes) {
        Ok(Some(end)) => end,
        Ok(None) => return Ok(Chunked::More),
        Err(HeadFault::BareLineFeed) => return Err(Broken::Malformed("bare_line_feed")),
        Err(HeadFault::TooLong { .. }) => return Err(Broken::Malformed("trailers_too_large")),
    };
    let section = octets.split_to(end).freeze();
    let mut fields = [httparse::EMPTY_HEADER; TRAILERS.headers];
    match httparse::parse_headers(&section, &mut fields) {
        Ok(httparse::Status::Complete((length, fields))) if length == section.len() => {
            head::header_map(&section, fields, TRAILERS.headers)
                .map(|trailers| Chunked::End(Some(trailers)))
                .map_err(|_| Broken::Malformed("bad_trailer"))
        }
        _ => Err(Broken::Malformed("bad_trailer")),
    }
}

// === impl Blanks ===

impl Blanks {
    /// Skips leading blanks, if they are accepted.
    fn skip(self, line: &[u8]) -> &[u8] {
        let is_blank = |octet: &&u8| self == Self::Accepted && matches!(octet, b' ' | b'\t');
        let blanks = line.iter().take_while(is_blank).count();
        line.get(blanks..).unwrap_or_default()
    }
}

// === impl Encoder ===

impl Encoder {
    /// Writes what precedes `length` octets of data. Returns `false` if that exceeds the announced
    /// length.
    pub(crate) fn before_data(&mut self, length: usize, out: &mut BytesMut) -> bool {
        match self {
            Self::Done => false,
            Self::Raw => true,
            Self::Exact(left) => match left.checked_sub(length as u64) {
                Some(rest) => {
                    *left = rest;
                    true
                }
                None => false,
            },
            Self::Chunked => {
                put_hex(length, out);
                out.put_slice(b"\r\n");
                true
            }
        }
    }

    /// Writes what follows data.
    pub(crate) fn after_data(self, out: &mut BytesMut) {
        if self == Self::Chunked {
            out.put_slice(b"\r\n");
        }
    }

    /// Ends the body. Returns `false` if it is shorter than announced.
    pub(crate) fn finish(
        &mut self,
        trailers: Option<&http::HeaderMap>,
        out: &mut BytesMut,
    ) -> bool {
        let is_whole = match self {
            Self::Exact(left) => *left == 0,
            Self::Chunked => {
                out.put_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    super::outbound::put_field(name, value, out);
                }
                out.put_slice(b"\r\n");
                true
            }
            Self::Done | Self::Raw => true,
        };
        *self = Self::Done;
        is_whole
    }
}

fn put_hex(number: usize, out: &mut BytesMut) {
    let mut digits = [0_u8; 16];
    let mut rest = number;
    let mut length = 0;
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef".get(rest & 0xf).copied().unwrap_or(b'0');
        rest >>= 4;
        length += 1;
        if rest == 0 {
            break;
        }
    }
    out.put_slice(digits.get(digits.len() - length..).unwrap_or_default());
}

#[cfg(test)]
mod tests;
