//! What a path may look like so that every parser reads it alike.

use http::uri::PathAndQuery;

use super::refusals;
use crate::exchange::Refusal;

/// The longest path with its query, in octets.
pub(crate) const MAX_TARGET: usize = 16 * 1024;

/// Whether some parsers read a path otherwise than by its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All parsers read it alike.
    Plain,
    /// Some decode, merge or cut it: `%2f`, `%5c`, encoded unreserved characters, `//`, `;`. Where
    /// path rules decide, it could be taken for a path of another rule.
    Several,
}

/// Checks path and query.
pub(super) fn check(target: &PathAndQuery) -> Result<Reading, Refusal> {
    if target.as_str().len() > MAX_TARGET {
        return Err(refusals::TARGET_LONG);
    }
    if target.query().is_some_and(|query| !query.bytes().all(|byte| byte.is_ascii_graphic())) {
        return Err(refusals::PATH_MALFORMED);
    }
    let path = target.path().as_bytes();
    if path.first() != Some(&b'/') || !path.iter().all(u8::is_ascii_graphic) {
        return Err(refusals::PATH_MALFORMED);
    }
    let mut segment = Segment::default();
    let mut reading = Reading::Plain;
    let mut rest = path.iter();
    let mut previous = 0;
    while let Some(byte) = rest.next() {
        let (byte, encoded) = match byte {
            b'%' => (decode(rest.next(), rest.next())?, true),
            b'\\' => return Err(refusals::PATH_BACKSLASH),
            byte => (*byte, false),
        };
        if byte.is_ascii_control() {
            return Err(refusals::PATH_CONTROL);
        }
        if differs(byte, encoded, previous) {
            reading = Reading::Several;
        }
        segment.push(byte)?;
        previous = byte;
    }
    segment.end()?;
    Ok(reading)
}

fn differs(byte: u8, encoded: bool, previous: u8) -> bool {
    match byte {
        b'/' | b'\\' => encoded || previous == b'/',
        b';' => !encoded,
        b'-' | b'.' | b'_' | b'~' => encoded,
        _ => encoded && byte.is_ascii_alphanumeric(),
    }
}

fn decode(high: Option<&u8>, low: Option<&u8>) -> Result<u8, Refusal> {
    let digit = |byte: Option<&u8>| {
        byte.and_then(|byte| char::from(*byte).to_digit(16))
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(refusals::PATH_MALFORMED),
    }
}

/// What of a segment decides whether it is `.` or `..`.
#[derive(Default)]
enum Segment {
    /// So far only that many dots.
    Dots(u8),
    /// Something else, or the parameter of something else.
    #[default]
    Other,
}

// === impl Segment ===

impl Segment {
    fn push(&mut self, byte: u8) -> Result<(), Refusal> {
        match (byte, &*self) {
            (b'/' | b'\\', _) => {
                self.end()?;
                *self = Self::Dots(0);
            }
            (b'.', Self::Dots(count)) => *self = Self::Dots(count.saturating_add(1)),
            (b';', _) => {
                // Servers of the Java world cut a segment at `;` before they look for dots.
                self.end()?;
                *self = Self::Other;
            }
            _ => *self = Self::Other,
        }
        Ok(())
    }

    fn end(&self) -> Result<(), Refusal> {
        if matches!(self, Self::Dots(1 | 2)) { Err(refusals::PATH_DOTS) } else { Ok(()) }
    }
}
