//! Request heads, from h2 to the form that both versions of HTTP share.

use bytes::Bytes;
use h2::RecvStream;
use h2::ext::Protocol;
use http::uri::{self, Scheme};
use http::{HeaderMap, HeaderValue, Method, Version, header, request};

use crate::exchange::{BodyLength, PathAndQuery, Refusal, RequestHead, Target, cookies};
use crate::normalize::refusals;

/// How much larger than `limits.requestHeadBytes` a header list may be before its cookies are
/// joined: it counts 32 octets a field (RFC 9113 §6.5.2), so that a crumb such as `a=b` counts 41,
/// and 5 in one `Cookie` field.
const CRUMBS: usize = 9;

/// Returns the limit of header lists for h2, which counts crumbs as fields.
pub(super) fn list_size(head_bytes: usize) -> u32 {
    u32::try_from(head_bytes.saturating_mul(CRUMBS)).unwrap_or(u32::MAX)
}

/// Converts a request's head for [`normalize`](crate::normalize), with its cookies joined. h2 has
/// rejected what RFC 9113 §8 calls malformed, except for what is rejected here. `path` is the path
/// if h2 got another one in its place (see [`http2`](crate::http2)), and `limit` the maximum size of a
/// head in octets, as HTTP/1.1 would write it.
///
/// h2 silently drops a `:scheme` without `:authority`, which reaches no backend.
pub(super) fn read(
    parts: request::Parts,
    body: &RecvStream,
    path: Option<Bytes>,
    limit: usize,
) -> Result<RequestHead, Refusal> {
    let request::Parts { method, uri, mut headers, mut extensions, .. } = parts;
    let protocol =
        extensions.remove::<Protocol>().map(|protocol| Bytes::copy_from_slice(protocol.as_ref()));
    let mut fields = Fields::of(&headers);
    if fields.has_outer_whitespace {
        return Err(refusals::FIELD_WHITESPACE);
    }
    if fields.cookies > 1 {
        cookies::join(&mut headers);
        fields = Fields::of(&headers);
    }
    let length = fields.body_length()?;
    let body = if body.is_end_stream() { BodyLength::None } else { length };
    let uri = uri.into_parts();
    if size(&method, &uri, &fields) > limit {
        return Err(refusals::HEAD_LARGE);
    }
    let target = match uri.path_and_query {
        Some(seen) if seen == "*" => Target::Asterisk,
        // The `http` crate accepts `?query` as if it followed a slash. Only such a path may stand
        // for another one.
        Some(seen) => path
            .filter(|_| seen.as_str().starts_with('?'))
            .or_else(|| Some(Bytes::copy_from_slice(seen.as_str().as_bytes())))
            .and_then(PathAndQuery::new)
            .map(Target::Path)
            .ok_or(refusals::PATH_MALFORMED)?,
        None if method == Method::CONNECT && protocol.is_none() => Target::Authority,
        None => return Err(refusals::PATH_MISSING),
    };
    Ok(RequestHead {
        method,
        version: Version::HTTP_2,
        authority: uri
            .authority
            .map(|authority| Bytes::copy_from_slice(authority.as_str().as_bytes())),
        scheme: uri.scheme.as_ref().map(copied_scheme),
        target,
        headers,
        body,
        protocol,
    })
}

/// Returns the size of a head as HTTP/1.1 would write it, which is what `limits.requestHeadBytes`
/// counts in both versions.
fn size(method: &Method, uri: &uri::Parts, fields: &Fields<'_>) -> usize {
    const LINE: usize = "  HTTP/1.1\r\n\r\n".len();
    let path = uri.path_and_query.as_ref().map_or(1, |path| path.as_str().len());
    let host =
        uri.authority.as_ref().map_or(0, |authority| field("host", authority.as_str().len()));
    LINE + method.as_str().len() + path + host + fields.octets
}

fn field(name: &str, value: usize) -> usize {
    name.len() + value + ": \r\n".len()
}

/// The result of one pass over the header fields.
#[derive(Default)]
struct Fields<'h> {
    has_outer_whitespace: bool,
    /// The number of `Cookie` fields.
    cookies: usize,
    length: Option<&'h HeaderValue>,
    is_length_repeated: bool,
    /// Their size as HTTP/1.1 would write them.
    octets: usize,
}

// === impl Fields ===

impl<'h> Fields<'h> {
    fn of(headers: &'h HeaderMap) -> Self {
        let mut fields = Self::default();
        for (name, value) in headers {
            fields.has_outer_whitespace |= has_outer_whitespace(value);
            fields.octets += field(name.as_str(), value.len());
            if *name == header::COOKIE {
                fields.cookies += 1;
            } else if *name == header::CONTENT_LENGTH {
                fields.is_length_repeated |= fields.length.replace(value).is_some();
            }
        }
        fields
    }

    fn body_length(&self) -> Result<BodyLength, Refusal> {
        let Some(length) = self.length else { return Ok(BodyLength::Unknown) };
        // h2 accepts several equal ones.
        if self.is_length_repeated {
            return Err(refusals::LENGTH_REPEATED);
        }
        // h2 has checked that it is a number, and checks the body against it.
        length
            .to_str()
            .ok()
            .and_then(|length| length.parse().ok())
            .map(BodyLength::Exact)
            .ok_or(refusals::LENGTH_MALFORMED)
    }
}

fn copied_scheme(scheme: &Scheme) -> Bytes {
    match scheme.as_str() {
        "https" => Bytes::from_static(b"https"),
        "http" => Bytes::from_static(b"http"),
        other => Bytes::copy_from_slice(other.as_bytes()),
    }
}

/// Whether a value starts or ends with whitespace. Such a field is malformed (RFC 9113 §8.2.1), and
/// an HTTP/1.1 backend would read another value than our rules.
fn has_outer_whitespace(value: &HeaderValue) -> bool {
    let is_space = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    is_space(value.as_bytes().first()) || is_space(value.as_bytes().last())
}
