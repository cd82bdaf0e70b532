//! Heads: the first line and header fields of requests and responses (RFC 9112 §2 to §6).

mod scanner;
#[cfg(test)]
mod tests;

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};

use self::scanner::is_cookie;
pub(crate) use self::scanner::{HeadFault, HeadScanner};
use crate::exchange::{
    BodyLength, Broken, PathAndQuery, Refusal, RequestHead, ResponseHead, Target, cookies,
};

pub(crate) static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");

/// Capacity for the fields that the gateway adds to most heads. Those for backends are written
/// separately, unless a rule has filters for them.
const ADDED: usize = 4;
/// Fields of a table on the stack. A request with more gets a table on the heap.
const TABLE: usize = 256;
/// Maximum number of header fields of a response.
pub(crate) const MAX_RESPONSE_FIELDS: usize = TABLE;

const TOO_MANY: Refusal = Refusal {
    status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
    reason: "too_many_headers",
    close: true,
};

/// Limits of a head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeadLimits {
    /// Octets from the first line through the empty line.
    pub(crate) bytes: usize,
    /// Header fields.
    pub(crate) headers: usize,
}

/// A request's head, with connection persistence.
#[derive(Debug)]
pub(crate) struct ParsedRequest {
    pub(crate) head: RequestHead,
    /// Whether the client may send another request.
    pub(crate) keep_alive: bool,
}

/// A response's head, with its body framing and connection persistence.
#[derive(Debug)]
pub(crate) struct ParsedResponse {
    pub(crate) head: ResponseHead,
    pub(crate) body: ResponseBody,
    /// Whether the connection may carry another request.
    pub(crate) keep_alive: bool,
    /// Whether it has the field `Keep-Alive`.
    pub(crate) has_keep_alive: bool,
}

/// Which of the fields that concern the connection a head has: looking for one that is missing costs
/// as much as reading several.
#[derive(Debug, Clone, Copy, Default)]
struct ConnectionFields {
    length: bool,
    coding: bool,
    connection: bool,
    keep_alive: bool,
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

/// The properties of a request that determine how its response is read (RFC 9112 §6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ResponseContext {
    pub(crate) head: bool,
    pub(crate) upgrade: bool,
}

/// Parses a request's head, complete as [`HeadScanner`] found it, and joins its cookies.
///
/// # Errors
/// RFC 9112 forbids it, or leaves it to the recipient to repair.
pub(crate) fn request(octets: BytesMut, limits: HeadLimits) -> Result<ParsedRequest, Refusal> {
    let octets = octets.freeze();
    let mut table = [const { MaybeUninit::uninit() }; TABLE];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(&octets, &mut table) {
        Err(httparse::Error::TooManyHeaders) => many_fields(&octets, limits),
        result => request_head(&octets, &parsed, result, limits),
    }
}

/// Parses a head with more fields than the table on the stack has.
fn many_fields(octets: &Bytes, limits: HeadLimits) -> Result<ParsedRequest, Refusal> {
    let lines = || octets.split(|octet| *octet == b'\n');
    if counted(lines()) > limits.headers {
        return Err(TOO_MANY);
    }
    let mut table = vec![MaybeUninit::uninit(); lines().count()];
    let mut parsed = httparse::Request::new(&mut []);
    let result = parsed.parse_with_uninit_headers(octets, &mut table);
    request_head(octets, &parsed, result, limits)
}

/// Counts the fields in lines of a head, which may be malformed. Any number of `Cookie` fields counts
/// as one.
fn counted<'o>(lines: impl Iterator<Item = &'o [u8]>) -> usize {
    let (mut fields, mut has_cookie) = (0, false);
    // The first line is not a field, and the last one is followed by two line ends.
    for line in lines.skip(1).filter(|line| !matches!(line, [] | [b'\r'])) {
        if is_cookie(line) {
            has_cookie = true;
        } else {
            fields += 1;
        }
    }
    fields + usize::from(has_cookie)
}

fn request_head(
    octets: &Bytes,
    parsed: &httparse::Request<'_, '_>,
    result: httparse::Result<usize>,
    limits: HeadLimits,
) -> Result<ParsedRequest, Refusal> {
    match result {
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
    // Cookies beyond the limit are joined below.
    let usual = parsed.headers.len().min(limits.headers);
    let (mut headers, present) =
        fields(octets, parsed.headers.iter(), usual).map_err(request_fault)?;
    cookies::join(&mut headers);
    if headers.len() > limits.headers {
        return Err(TOO_MANY);
    }
    let body = request_length(&headers, present, version)?;
    let line = request_target(octets, &method, target)?;
    let keep_alive = is_kept_alive(&headers, present, version);
    let head = RequestHead {
        method,
        version,
        authority: line.authority,
        scheme: line.scheme,
        target: line.target,
        headers,
        body,
        protocol: None,
    };
    Ok(ParsedRequest { head, keep_alive })
}

fn request_fault(fault: FieldFault) -> Refusal {
    match fault {
        FieldFault::TooMany => TOO_MANY,
        FieldFault::Malformed => Refusal::bad("bad_header"),
    }
}

fn refusal(error: httparse::Error) -> Refusal {
    use httparse::Error;
    match error {
        Error::TooManyHeaders => TOO_MANY,
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

/// Parses the request target (RFC 9112 §3.2).
fn request_target(octets: &Bytes, method: &Method, target: &str) -> Result<RequestLine, Refusal> {
    const BAD: Refusal = Refusal::bad("bad_target");
    let slice = |text: &str| octets.slice_ref(text.as_bytes());
    let bare = |target| Ok(RequestLine { scheme: None, authority: None, target });
    // A fragment is never sent (RFC 9110 §4.2.5).
    let path = |octets: Bytes| PathAndQuery::new(octets).map(Target::Path).ok_or(BAD);
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
        return bare(path(slice(target))?);
    }
    let (scheme, rest) = target.split_once("://").ok_or(BAD)?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, rest) = rest.split_at_checked(end).ok_or(BAD)?;
    Ok(RequestLine {
        scheme: Some(slice(scheme)),
        authority: Some(slice(authority)),
        target: match rest.as_bytes().first() {
            Some(b'/') => path(slice(rest))?,
            Some(_) => path(format!("/{rest}").into())?,
            None => Target::Path(PathAndQuery::root()),
        },
    })
}

/// Determines the length of a request's body (RFC 9112 §6.1 to §6.3).
fn request_length(
    headers: &HeaderMap,
    present: ConnectionFields,
    version: Version,
) -> Result<BodyLength, Refusal> {
    match framing(headers, present, version) {
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

/// Parses `Content-Length` and `Transfer-Encoding`; a message may have only one of them, once.
fn framing(
    headers: &HeaderMap,
    present: ConnectionFields,
    version: Version,
) -> Result<Framing, &'static str> {
    match (present.coding, present.length) {
        (false, false) => Ok(Framing::None),
        // RFC 9112 §6.1: a message with both ought to be handled as an error.
        (true, true) => Err("length_and_coding"),
        (true, false) if version == Version::HTTP_10 => Err("coding_in_http10"),
        (true, false) => {
            let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
            match (codings.next(), codings.next()) {
                (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => {
                    Ok(Framing::Chunked)
                }
                (_, None) => Err("unknown_transfer_coding"),
                (_, Some(_)) => Err("two_transfer_codings"),
            }
        }
        (false, true) => {
            let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
            match (lengths.next(), lengths.next()) {
                (_, Some(_)) => Err("two_content_lengths"),
                (length, None) => {
                    length.and_then(content_length).map(Framing::Exact).ok_or("bad_content_length")
                }
            }
        }
    }
}

/// Parses `Content-Length`: digits only (RFC 9110 §8.6); a list of equal lengths is rejected.
pub(crate) fn content_length(value: &HeaderValue) -> Option<u64> {
    let text = value.as_bytes();
    if text.is_empty() || text.len() > 19 || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    value.to_str().ok()?.parse().ok()
}

/// Parses the head of the response to a request, complete as [`HeadScanner`] found it.
///
/// # Errors
/// As for requests.
pub(crate) fn response(
    octets: BytesMut,
    limits: HeadLimits,
    context: ResponseContext,
) -> Result<ParsedResponse, Broken> {
    let octets = octets.freeze();
    let mut table = [const { MaybeUninit::uninit() }; TABLE];
    let mut parsed = httparse::Response::new(&mut []);
    let config = httparse::ParserConfig::default();
    match config.parse_response_with_uninit_headers(&mut parsed, &octets, &mut table) {
        Ok(httparse::Status::Complete(length)) if length == octets.len() => {}
        _ => return Err(Broken::Malformed("bad_head")),
    }
    let (Some(code), Some(minor)) = (parsed.code, parsed.version) else {
        return Err(Broken::Malformed("bad_status_line"));
    };
    let version = if minor == 0 { Version::HTTP_10 } else { Version::HTTP_11 };
    let status = StatusCode::from_u16(code).map_err(|_| Broken::Malformed("bad_status"))?;
    if parsed.headers.len() > limits.headers {
        return Err(Broken::Malformed("too_many_headers"));
    }
    let kept = parsed.headers.iter().filter(|field| !is_default(field, version));
    let fields = fields(&octets, kept, parsed.headers.len());
    let (mut headers, present) = fields.map_err(|fault| match fault {
        FieldFault::TooMany => Broken::Malformed("too_many_headers"),
        FieldFault::Malformed => Broken::Malformed("bad_header"),
    })?;
    let body = response_body(status, &mut headers, present, version, context)?;
    let keep_alive = is_kept_alive(&headers, present, version) && body != ResponseBody::UntilClose;
    Ok(ParsedResponse {
        head: ResponseHead { status, headers },
        body,
        keep_alive,
        has_keep_alive: present.keep_alive,
    })
}

/// Whether a field says no more than its absence: `Connection: keep-alive` in HTTP/1.1 (RFC 9112
/// §9.3), which some servers send with each response.
fn is_default(field: &httparse::Header<'_>, version: Version) -> bool {
    version == Version::HTTP_11
        && field.name.eq_ignore_ascii_case(CONNECTION.as_str())
        && field.value.eq_ignore_ascii_case(b"keep-alive")
}

fn response_body(
    status: StatusCode,
    headers: &mut HeaderMap,
    present: ConnectionFields,
    version: Version,
    context: ResponseContext,
) -> Result<ResponseBody, Broken> {
    if status.is_informational() || status == StatusCode::NO_CONTENT {
        // RFC 9110 §8.6, RFC 9112 §6.1: neither status may have them. They frame no body, whatever
        // they say (RFC 9112 §6.3), so they are dropped.
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        return match status {
            StatusCode::SWITCHING_PROTOCOLS if context.upgrade => Ok(ResponseBody::Tunnel),
            StatusCode::SWITCHING_PROTOCOLS => Err(Broken::Malformed("unasked_upgrade")),
            _ => Ok(ResponseBody::None),
        };
    }
    let framing = framing(headers, present, version).map_err(Broken::Malformed)?;
    if context.head || status == StatusCode::NOT_MODIFIED {
        // `Content-Length` states what a GET would get; `Transfer-Encoding` frames nothing here.
        headers.remove(TRANSFER_ENCODING);
        return Ok(ResponseBody::None);
    }
    Ok(match framing {
        Framing::None => ResponseBody::UntilClose,
        Framing::Exact(length) => ResponseBody::Exact(length),
        Framing::Chunked => ResponseBody::Chunked,
    })
}

/// Whether the connection persists after this message (RFC 9112 §9.3).
fn is_kept_alive(headers: &HeaderMap, present: ConnectionFields, version: Version) -> bool {
    if !present.connection {
        return version != Version::HTTP_10;
    }
    let has_option = |option: &str| {
        headers.get_all(CONNECTION).iter().any(|value| {
            value
                .as_bytes()
                .split(|octet| *octet == b',')
                .any(|item| item.trim_ascii().eq_ignore_ascii_case(option.as_bytes()))
        })
    };
    !has_option("close") && (version != Version::HTTP_10 || has_option("keep-alive"))
}

/// Why header fields are rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FieldFault {
    TooMany,
    Malformed,
}

/// Converts the fields to a map whose values are slices of `octets`.
pub(crate) fn header_map(
    octets: &Bytes,
    parsed: &[httparse::Header<'_>],
    limit: usize,
) -> Result<HeaderMap, FieldFault> {
    if parsed.len() > limit {
        return Err(FieldFault::TooMany);
    }
    fields(octets, parsed.iter(), parsed.len()).map(|(headers, _)| headers)
}

/// The same, of any number; `usual` is the number for which capacity is reserved.
fn fields<'h>(
    octets: &Bytes,
    parsed: impl Iterator<Item = &'h httparse::Header<'h>>,
    usual: usize,
) -> Result<(HeaderMap, ConnectionFields), FieldFault> {
    let mut present = ConnectionFields::default();
    let mut headers =
        HeaderMap::try_with_capacity(usual + ADDED).map_err(|_| FieldFault::TooMany)?;
    for field in parsed {
        let name =
            HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| FieldFault::Malformed)?;
        let value = HeaderValue::from_maybe_shared(octets.slice_ref(field.value))
            .map_err(|_| FieldFault::Malformed)?;
        present.add(&name);
        headers.try_append(name, value).map_err(|_| FieldFault::TooMany)?;
    }
    Ok((headers, present))
}

// === impl ConnectionFields ===

impl ConnectionFields {
    fn add(&mut self, name: &HeaderName) {
        self.length |= *name == CONTENT_LENGTH;
        self.coding |= *name == TRANSFER_ENCODING;
        self.connection |= *name == CONNECTION;
        self.keep_alive |= *name == KEEP_ALIVE;
    }
}
