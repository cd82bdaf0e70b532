//! Finds the end of a head.

use http::StatusCode;
use http::header::COOKIE;

use crate::exchange::{Broken, Refusal, cookies};

/// Finds the end of a head that arrives in pieces, without scanning any octet twice.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    scanned: usize,
    line_start: usize,
    lines: usize,
    cookies: usize,
}

/// Why octets cannot become a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadFault {
    /// A line ends with a bare LF.
    BareLineFeed,
    /// It exceeds the limit; the number of complete lines seen determines the status.
    TooLong { lines: usize },
}

// === impl HeadScanner ===

impl HeadScanner {
    /// Returns the head's length including its empty line; `None` while it is incomplete.
    ///
    /// # Errors
    /// RFC 9112 §2.2 lets a recipient accept a bare LF as a line end; one that does and one that
    /// does not would read two different requests, so it is rejected.
    pub(crate) fn scan(&mut self, octets: &[u8], limit: usize) -> Result<Option<usize>, HeadFault> {
        let fresh = octets.get(self.scanned..).unwrap_or_default();
        for offset in memchr::memchr_iter(b'\n', fresh) {
            let end = self.scanned + offset;
            let line = octets.get(self.line_start..).unwrap_or_default();
            let is_cookie = matches!(line.first(), Some(b'C' | b'c')) && is_cookie(line);
            let cookies = self.cookies + usize::from(is_cookie);
            if end > limit && end > limit + saved(cookies, limit) {
                return Err(HeadFault::TooLong { lines: self.lines });
            }
            if end == 0 || octets.get(end - 1) != Some(&b'\r') {
                return Err(HeadFault::BareLineFeed);
            }
            if end - 1 == self.line_start && self.lines > 0 {
                return Ok(Some(end + 1));
            }
            self.cookies = cookies;
            self.line_start = end + 1;
            self.lines += 1;
        }
        self.scanned = octets.len();
        // The incomplete line may be a further cookie.
        let is_too_long = octets.len() > limit + saved(self.cookies + 1, limit);
        if is_too_long { Err(HeadFault::TooLong { lines: self.lines }) } else { Ok(None) }
    }
}

/// Returns the octets that joining `cookies` fields saves, which do not count: at most as many as the
/// limit.
fn saved(cookies: usize, limit: usize) -> usize {
    const EACH: usize = "Cookie: \r\n".len() - cookies::SEPARATOR.len();
    (cookies.saturating_sub(1) * EACH).min(limit)
}

/// Whether a line is a `Cookie` field.
pub(super) fn is_cookie(line: &[u8]) -> bool {
    line.get(..COOKIE.as_str().len() + 1)
        .and_then(|start| start.strip_suffix(b":"))
        .is_some_and(|name| name.eq_ignore_ascii_case(COOKIE.as_str().as_bytes()))
}

// === impl HeadFault ===

impl HeadFault {
    /// The refusal to send to a client.
    pub(crate) fn refusal(self) -> Refusal {
        let (status, reason) = match self {
            Self::BareLineFeed => (StatusCode::BAD_REQUEST, "bare_line_feed"),
            Self::TooLong { lines: 0 } => (StatusCode::URI_TOO_LONG, "request_line_too_long"),
            Self::TooLong { .. } => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
        };
        Refusal { status, reason, close: true }
    }

    /// The error for a backend's response.
    pub(crate) fn broken(self) -> Broken {
        Broken::Malformed(match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::TooLong { .. } => "head_too_large",
        })
    }
}
