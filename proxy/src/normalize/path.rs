//! Rejects malformed paths and detects ambiguous ones.

use http::uri::PathAndQuery;

use super::refusals;
use crate::exchange::Refusal;

/// The maximum length of path and query, in octets.
pub(crate) const MAX_TARGET: usize = 16 * 1024;

/// Whether all parsers interpret a path alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All parsers interpret it alike.
    Plain,
    /// Some parsers decode, merge or truncate it: `%2f`, `%5c`, encoded unreserved characters,
    /// `//`, `;`. It could match different path rules.
    Several,
}

/// Validates path and query, and returns whether the path is ambiguous.
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
        if is_ambiguous(byte, encoded, previous) {
            reading = Reading::Several;
        }
        segment.push(byte)?;
        previous = byte;
    }
    segment.end()?;
    Ok(reading)
}

fn is_ambiguous(byte: u8, encoded: bool, previous: u8) -> bool {
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

/// The state of a segment, to detect `.` and `..`.
#[derive(Default)]
enum Segment {
    /// Only this number of dots so far.
    Dots(u8),
    /// Anything else, or a parameter.
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
                // Java servers remove parameters (`;`) before they resolve dot segments.
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
