//! Heads: requests' and responses' first line and header fields (RFC 9112 §2 to §6).

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use crate::exchange::{BodyLength, Broken, Refusal, RequestHead, ResponseHead, Target};

/// Room for the fields that the gateway adds: what forwarded the request, and who calls.
const ADDED: usize = 16;
/// More header fields than this are refused whatever the configuration says: the table is on the
/// stack.
pub(crate) const MAX_HEADERS: usize = 256;

/// Bounds of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Octets from the first line to the empty line.
    pub(crate) bytes: usize,
    /// Header fields.
    pub(crate) headers: usize,
}

/// Finds the end of a head in octets that arrive bit by bit, without looking at any of them twice.
#[derive(Debug, Default)]
pub(crate) struct HeadScanner {
    scanned: usize,
    line_start: usize,
    lines: usize,
}

/// What is wrong with the line ends of a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadFault {
    /// A line ends with LF alone.
    BareLineFeed,
    /// It is longer than allowed; the number of whole lines seen tells which status that gives.
    TooLong { lines: usize },
}

/// A response's head with what its connection needs to know.
#[derive(Debug)]
pub(crate) struct ParsedResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: ResponseBody,
    /// Whether the connection may carry another request.
    pub(crate) keep_alive: bool,
}

/// How a response's body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseBody {
    None,
    Exact(u64),
    Chunked,
    UntilClose,
    Tunnel,
}

/// What of a request decides how the response to it is read (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) head: bool,
    pub(crate) upgrade: bool,
}

// === impl HeadScanner ===

impl HeadScanner {
    /// The head's length with its empty line; `None` where it has not ended yet.
    ///
    /// # Errors
    /// RFC 9112 §2.2 lets a recipient take LF alone for a line's end; one that does and one that
    /// doesn't read two different requests, so it is refused.
    pub(crate) fn scan(&mut self, octets: &[u8], limit: usize) -> Result<Option<usize>, HeadFault> {
        let fresh = octets.get(self.scanned..).unwrap_or_default();
        for offset in memchr::memchr_iter(b'\n', fresh) {
            let end = self.scanned + offset;
            if end > limit {
                break;
            }
            if end == 0 || octets.get(end - 1) != Some(&b'\r') {
                return Err(HeadFault::BareLineFeed);
            }
            if end - 1 == self.line_start && self.lines > 0 {
                return Ok(Some(end + 1));
            }
            self.line_start = end + 1;
            self.lines += 1;
        }
        self.scanned = octets.len();
        if octets.len() > limit { Err(HeadFault::TooLong { lines: self.lines }) } else { Ok(None) }
    }
}

// === impl HeadFault ===

impl HeadFault {
    /// What a client gets for it.
    pub(crate) fn refusal(self) -> Refusal {
        let (status, reason) = match self {
            Self::BareLineFeed => (StatusCode::BAD_REQUEST, "bare_line_feed"),
            Self::TooLong { lines: 0 } => (StatusCode::URI_TOO_LONG, "request_line_too_long"),
            Self::TooLong { .. } => (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
        };
        Refusal { status, reason, close: true }
    }

    /// What it is called in a backend's response.
    pub(crate) fn broken(self) -> Broken {
        Broken::Malformed(match self {
            Self::BareLineFeed => "bare_line_feed",
            Self::TooLong { .. } => "head_too_large",
        })
    }
}

/// Reads a request's head, whole as [`HeadScanner`] found it.
///
/// # Errors
/// Whatever RFC 9112 forbids or leaves to the recipient to repair.
pub(crate) fn request(octets: BytesMut, limits: HeadLimits) -> Result<RequestHead, Refusal> {
    let octets = octets.freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&octets, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == octets.len() => {}
        Ok(_) => return Err(Refusal::bad("bad_head")),
        Err(error) => return Err(refusal(error)),
    }
    let (Some(method), Some(target), Some(minor)) = (parsed.method, parsed.path, parsed.version)
    else {
        return Err(Refusal::bad("bad_request_line"));
    };
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| Refusal::bad("bad_method"))?;
    let headers =
        header_map(&octets, parsed.headers, limits.headers).map_err(|fault| match fault {
            FieldFault::TooMany => Refusal {
                status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                reason: "too_many_headers",
                close: true,
            },
            FieldFault::Malformed => Refusal::bad("bad_header"),
        })?;
    let body = request_length(&headers, version)?;
    let line = request_target(&octets, &method, target)?;
    Ok(RequestHead {
        method,
        version,
        authority: line.authority,
        scheme: line.scheme,
        target: line.target,
        headers,
        body,
        protocol: None,
    })
}

fn refusal(error: httparse::Error) -> Refusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            reason: "too_many_headers",
            close: true,
        },
        Error::Version => Refusal {
            status: StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            reason: "bad_version",
            close: true,
        },
        Error::HeaderName => Refusal::bad("bad_header_name"),
        Error::HeaderValue => Refusal::bad("bad_header_value"),
        Error::NewLine => Refusal::bad("bad_line_end"),
        Error::Status | Error::Token => Refusal::bad("bad_request_line"),
    }
}

struct RequestLine {
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    target: Target,
}

/// Reads the request target (RFC 9112 §3.2).
fn request_target(octets: &Bytes, method: &Method, target: &str) -> Result<RequestLine, Refusal> {
    const BAD: Refusal = Refusal::bad("bad_target");
    // A fragment is never sent (RFC 9110 §4.2.5), and the parser of paths would drop it without a
    // word.
    if !target.bytes().all(|octet| matches!(octet, 0x21..=0x7e) && octet != b'#') {
        return Err(BAD);
    }
    let slice = |text: &str| octets.slice_ref(text.as_bytes());
    let bare = |target| Ok(RequestLine { scheme: None, authority: None, target });
    if *method == Method::CONNECT {
        return Ok(RequestLine {
            scheme: None,
            authority: Some(slice(target)),
            target: Target::Authority,
        });
    }
    if target == "*" {
        return if *method == Method::OPTIONS { bare(Target::Asterisk) } else { Err(BAD) };
    }
    if target.starts_with('/') {
        return bare(Target::Path(
            PathAndQuery::from_maybe_shared(slice(target)).map_err(|_| BAD)?,
        ));
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at_checked(end).ok_or(BAD)?;
    let path = match path.as_bytes().first() {
        Some(b'/') => PathAndQuery::from_maybe_shared(slice(path)),
        Some(_) => PathAndQuery::try_from(format!("/{path}")),
        None => Ok(PathAndQuery::from_static("/")),
    };
    Ok(RequestLine {
        scheme: Some(slice(scheme)),
        authority: Some(slice(authority)),
        target: Target::Path(path.map_err(|_| BAD)?),
    })
}

/// How long a request's body is (RFC 9112 §6.1 to §6.3).
fn request_length(headers: &HeaderMap, version: Version) -> Result<BodyLength, Refusal> {
    match framing(headers, version) {
        Ok(Framing::None) => Ok(BodyLength::None),
        Ok(Framing::Exact(length)) => Ok(BodyLength::Exact(length)),
        Ok(Framing::Chunked) => Ok(BodyLength::Unknown),
        Err("unknown_transfer_coding") => Err(Refusal {
            status: StatusCode::NOT_IMPLEMENTED,
            reason: "unknown_transfer_coding",
            close: true,
        }),
        Err(reason) => Err(Refusal::bad(reason)),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Exact(u64),
    Chunked,
}

/// Reads `Content-Length` and `Transfer-Encoding`, of which a message has at most one, once.
fn framing(headers: &HeaderMap, version: Version) -> Result<Framing, &'static str> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::None),
        // RFC 9112 §6.1: a message with both is to be handled as an error.
        (Some(_), Some(_)) => Err("length_and_coding"),
        (Some(_), None) if version == Version::HTTP_10 => Err("coding_in_http10"),
        (Some(coding), None) => {
            if codings.next().is_some() {
                Err("two_transfer_codings")
            } else if coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
                Ok(Framing::Chunked)
            } else {
                Err("unknown_transfer_coding")
            }
        }
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err("two_content_lengths");
            }
            content_length(length).map(Framing::Exact).ok_or("bad_content_length")
        }
    }
}

/// Digits alone, and no more than fit (RFC 9110 §8.6); a list of equal lengths is refused as well.
pub(crate) fn content_length(value: &HeaderValue) -> Option<u64> {
    let text = value.as_bytes();
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}

/// Reads a response's head, whole as [`HeadScanner`] found it.
///
/// # Errors
/// As for requests; `asked` tells which request it answers.
pub(crate) fn response(
    octets: BytesMut,
    limits: HeadLimits,
    asked: Asked,
) -> Result<ParsedResponse, Broken> {
    let octets = octets.freeze();
    let mut fields = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &octets, &mut fields) {
        Ok(httparse::Status::Complete(length)) if length == octets.len() => {}
        _ => return Err(Broken::Malformed("bad_head")),
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Broken::Malformed("bad_status_line"));
    };
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = StatusCode::from_u16(code).map_err(|_| Broken::Malformed("bad_status"))?;
    let mut headers =
        header_map(&octets, parsed.headers, limits.headers).map_err(|fault| match fault {
            FieldFault::TooMany => Broken::Malformed("too_many_headers"),
            FieldFault::Malformed => Broken::Malformed("bad_header"),
        })?;
    let body = response_body(status, &mut headers, version, asked)?;
    let keep_alive = is_kept_alive(&headers, version) && body != ResponseBody::UntilClose;
    Ok(ParsedResponse { head: ResponseHead { status, headers }, body, keep_alive })
}

fn response_body(
    status: StatusCode,
    headers: &mut HeaderMap,
    version: Version,
    asked: Asked,
) -> Result<ResponseBody, Broken> {
    let framing = framing(headers, version).map_err(Broken::Malformed)?;
    if status == StatusCode::SWITCHING_PROTOCOLS {
        return if asked.upgrade {
            Ok(ResponseBody::Tunnel)
        } else {
            Err(Broken::Malformed("unasked_upgrade"))
        };
    }
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6: neither may have them. A backend that sends them has framed nothing, so
        // they are dropped.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        return Ok(ResponseBody::None);
    }
    if asked.head || status == StatusCode::NOT_MODIFIED {
        return Ok(ResponseBody::None);
    }
    Ok(match framing {
        Framing::None => ResponseBody::UntilClose,
        Framing::Exact(length) => ResponseBody::Exact(length),
        Framing::Chunked => ResponseBody::Chunked,
    })
}

/// Whether the connection may be used again (RFC 9112 §9.3).
pub(crate) fn is_kept_alive(headers: &HeaderMap, version: Version) -> bool {
    let says = |word: &str| {
        headers.get_all(http::header::CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|octet| *octet == b',')
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        })
    };
    if version == Version::HTTP_10 { says("keep-alive") && !says("close") } else { !says("close") }
}

/// What is wrong with header fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldFault {
    TooMany,
    Malformed,
}

/// The fields as a map whose values are slices of `octets`.
pub(crate) fn header_map(
    octets: &Bytes,
    fields: &[httparse::Header<'_>],
    limit: usize,
) -> Result<HeaderMap, FieldFault> {
    if fields.len() > limit {
        return Err(FieldFault::TooMany);
    }
    let mut headers = HeaderMap::with_capacity(fields.len() + ADDED);
    for field in fields {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| FieldFault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(octets.slice_ref(field.value))
            .map_err(|_| FieldFault::Malformed)?;
        headers.try_append(name, value).map_err(|_| FieldFault::TooMany)?;
    }
    Ok(headers)
}

#[cfg(test)]
mod tests;
