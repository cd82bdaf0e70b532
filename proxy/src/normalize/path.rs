//! Which paths all parsers read alike.

use super::{characters, refusals};
use crate::exchange::{PathAndQuery, Refusal};

/// Maximum length of the path with its query, in octets.
pub(crate) const MAX_TARGET: usize = 16 * 1024;

/// Whether all servers read a path by its octets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// All read it alike.
    Plain,
    /// Some decode, merge, trim or truncate it: `docs/requests.md` lists the spellings. If path
    /// rules decide, it could be taken for a path of another rule.
    Several,
}

/// Checks path and query.
pub(super) fn check(target: &PathAndQuery) -> Result<Reading, Refusal> {
    if target.len() > MAX_TARGET {
        return Err(refusals::TARGET_LONG);
    }
    let path = target.path().as_bytes();
    let mut reader = Reader::default();
    let mut rest = path.iter();
    while let Some(octet) = rest.next() {
        let (octet, is_encoded) = match octet {
            b'%' => (decode(rest.next(), rest.next())?, true),
            b'\\' => return Err(refusals::PATH_BACKSLASH),
            octet => (*octet, false),
        };
        if octet.is_ascii_control() {
            return Err(refusals::PATH_CONTROL);
        }
        reader.push(octet, is_encoded)?;
    }
    let is_plain = reader.end()? && (!reader.is_beyond_ascii || characters::are_settled(path));
    Ok(if is_plain { Reading::Plain } else { Reading::Several })
}

fn decode(high: Option<&u8>, low: Option<&u8>) -> Result<u8, Refusal> {
    let digit = |octet: Option<&u8>| {
        octet
            .and_then(|octet| char::from(*octet).to_digit(16))
            .and_then(|digit| u8::try_from(digit).ok())
    };
    match (digit(high), digit(low)) {
        (Some(high), Some(low)) => Ok(high << 4 | low),
        _ => Err(refusals::PATH_MALFORMED),
    }
}

/// Reads the octets of a path, decoded once.
#[derive(Default)]
struct Reader {
    previous: u8,
    segment: Segment,
    /// Whether servers could differ on an ASCII character.
    is_ambiguous: bool,
    is_beyond_ascii: bool,
}

/// The part of a segment that determines whether it is `.` or `..`.
#[derive(Clone, Copy, Default)]
enum Segment {
    /// Only dots and blanks so far, this many.
    Dots { dots: u8, blanks: u8 },
    /// Something else, or the parameter of something else.
    #[default]
    Other,
}

// === impl Reader ===

impl Reader {
    fn push(&mut self, octet: u8, is_encoded: bool) -> Result<(), Refusal> {
        let is_ambiguous = match octet {
            b'/' => is_encoded || self.previous == b'/' || self.previous == b' ',
            // `;` begins a parameter, encoded or not. `?` and `#` are encoded here.
            b'\\' | b';' | b'?' | b'#' => true,
            // Windows and some frameworks trim segments.
            b' ' => self.previous == b'/',
            // Decoded twice, `%25` and two digits are another octet; `%25u` begins a form of IIS.
            b'u' | b'U' if !is_encoded => self.previous == b'%',
            b'-' | b'.' | b'_' | b'~' => is_encoded,
            _ if octet.is_ascii_alphanumeric() => {
                is_encoded || (self.previous == b'%' && octet.is_ascii_hexdigit())
            }
            _ => false,
        };
        self.is_ambiguous |= is_ambiguous | self.segment.push(octet)?;
        self.is_beyond_ascii |= !octet.is_ascii();
        self.previous = octet;
        Ok(())
    }

    /// Whether all servers read the ASCII characters alike.
    fn end(&self) -> Result<bool, Refusal> {
        Ok(!self.segment.end()? && !self.is_ambiguous && self.previous != b' ')
    }
}

// === impl Segment ===

impl Segment {
    const START: Self = Self::Dots { dots: 0, blanks: 0 };

    /// Whether servers could differ on a segment that ends here.
    fn push(&mut self, octet: u8) -> Result<bool, Refusal> {
        match (octet, &mut *self) {
            (b'/' | b'\\', _) => {
                let is_ambiguous = self.end()?;
                *self = Self::START;
                return Ok(is_ambiguous);
            }
            (b'.', Self::Dots { dots, .. }) => *dots = dots.saturating_add(1),
            (b' ' | b'+', Self::Dots { blanks, .. }) => *blanks = blanks.saturating_add(1),
            (b';', _) => {
                // Java servers truncate a segment at `;` before they resolve dots.
                self.end()?;
                *self = Self::Other;
            }
            _ => *self = Self::Other,
        }
        Ok(false)
    }

    /// Windows trims dots and blanks at the end of a segment; forms encode a space as `+`.
    fn end(self) -> Result<bool, Refusal> {
        match self {
            Self::Dots { dots: 1 | 2, blanks: 0 } => Err(refusals::PATH_DOTS),
            Self::Dots { dots, .. } => Ok(dots > 0),
            Self::Other => Ok(false),
        }
    }
}
