//! The one reading of a request: refuses what two parsers could read differently, and leaves of the
//! rest only what holds from end to end.
//!
//! All later steps decide on a [`Request`], and the forwarded request is written afresh from it.
//! What framed it or belonged to the client's connection is no longer among its headers.

mod fields;
mod host;
mod path;
pub(crate) mod refusals;
#[cfg(test)]
pub(crate) mod tests;

use std::num::NonZeroUsize;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use smallvec::SmallVec;

pub(crate) use self::fields::{Role, folded, role};
pub(crate) use self::host::Authority;
pub(crate) use self::path::Reading;
use crate::exchange::{BodyLength, Refusal, RequestHead, Target};

/// A request as everything after this step sees it.
#[derive(Debug)]
pub(crate) struct Request {
    /// `GET` for a WebSocket, also where it came as an extended CONNECT.
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Host and explicit port.
    pub(crate) authority: Authority,
    /// Path and query; `*` for `OPTIONS *`.
    pub(crate) target: PathAndQuery,
    /// Whether some parsers read the path otherwise than by its octets.
    pub(crate) reading: Reading,
    /// The end-to-end fields: without `Host`, `Content-Length`, `Expect`, `Upgrade` and all that
    /// is hop-by-hop. `TE` stays where it is `trailers`.
    pub(crate) headers: HeaderMap,
    pub(crate) body: BodyLength,
    pub(crate) kind: Kind,
    /// Whether the client waits for a 100 before it sends the body.
    pub(crate) expects_continue: bool,
}

/// What is spoken inside of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Http,
    /// `Content-Type: application/grpc`, with a suffix or without.
    Grpc,
    /// `Content-Type: application/grpc-web`.
    GrpcWeb,
    /// A WebSocket handshake (RFC 6455, RFC 8441).
    WebSocket,
}

/// Reads a request once and for all.
///
/// `trusted` says whether forwarding headers of this client are believed; where not, they are
/// dropped here, before any rule can look at them. `max_headers` is the limit on header fields.
///
/// # Errors
/// One of [`refusals`]; the answer depends on nothing but the request.
pub(crate) fn request(
    head: RequestHead,
    trusted: bool,
    max_headers: NonZeroUsize,
) -> Result<Request, Refusal> {
    if !matches!(head.version, Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2) {
        return Err(refusals::VERSION);
    }
    if head.headers.len() > max_headers.get() {
        return Err(refusals::FIELDS_MANY);
    }
    check_scheme(head.scheme.as_deref())?;
    let tunnel = is_extended_connect(&head)?;
    check_method(&head.method, tunnel)?;
    let (target, reading) = read_target(head.target, &head.method)?;

    let fields = Fields::gather(&head.headers, head.version, trusted)?;
    let authority = fields.authority(head.authority.as_deref())?;
    let upgrade =
        !tunnel && head.version == Version::HTTP_11 && fields.wants_websocket(&head.headers)?;
    let kind = match fields.content_type {
        _ if tunnel || upgrade => Kind::WebSocket,
        Some(value) => kind_of(value),
        None => Kind::Http,
    };
    let body = if kind == Kind::WebSocket {
        websocket_body(&head.headers, &head.method, head.body, upgrade)?
    } else {
        head.body
    };
    let expects_continue = fields.expects_continue(head.version)?;
    let method = if tunnel { Method::GET } else { head.method };
    let (drop, cookies) = fields.verdict();

    let mut headers = head.headers;
    for name in drop {
        headers.remove(name);
    }
    if cookies > 1 {
        join_cookies(&mut headers);
    }
    Ok(Request {
        method,
        version: head.version,
        authority,
        target,
        reading,
        headers,
        body,
        kind,
        expects_continue,
    })
}

/// What a content type says about what is spoken.
pub(crate) fn kind_of(content_type: &HeaderValue) -> Kind {
    let prefix = b"application/grpc";
    let bytes = content_type.as_bytes();
    match bytes.split_at_checked(prefix.len()) {
        Some((start, rest)) if start.eq_ignore_ascii_case(prefix) => match rest.first() {
            None | Some(b'+' | b';' | b' ' | b'\t') => Kind::Grpc,
            Some(b'-') if rest.get(..4).is_some_and(|rest| rest.eq_ignore_ascii_case(b"-web")) => {
                Kind::GrpcWeb
            }
            Some(_) => Kind::Http,
        },
        _ => Kind::Http,
    }
}

fn check_scheme(scheme: Option<&[u8]>) -> Result<(), Refusal> {
    let known = |scheme: &[u8]| {
        scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
    };
    if scheme.is_none_or(known) { Ok(()) } else { Err(refusals::SCHEME) }
}

fn is_extended_connect(head: &RequestHead) -> Result<bool, Refusal> {
    match head.protocol.as_deref() {
        None => Ok(false),
        // Protocol names are those of the upgrade token registry, which are compared without case
        // (RFC 8441 §4, RFC 9110 §16.7).
        Some(protocol)
            if protocol.eq_ignore_ascii_case(b"websocket") && head.method == Method::CONNECT =>
        {
            Ok(true)
        }
        Some(_) => Err(refusals::PROTOCOL),
    }
}

fn check_method(method: &Method, tunnel: bool) -> Result<(), Refusal> {
    let refused = match *method {
        Method::CONNECT => !tunnel,
        Method::TRACE => true,
        Method::GET
        | Method::POST
        | Method::HEAD
        | Method::PUT
        | Method::DELETE
        | Method::OPTIONS
        | Method::PATCH => false,
        _ => {
            let name = method.as_str();
            // Methods are compared with case (RFC 9110 §9.1), but not by every backend: `get` is
            // refused.
            name.len() > 32
                || !name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_'))
        }
    };
    if refused { Err(refusals::METHOD) } else { Ok(()) }
}

fn read_target(target: Target, method: &Method) -> Result<(PathAndQuery, Reading), Refusal> {
    match target {
        Target::Path(target) => {
            let reading = path::check(&target)?;
            Ok((target, reading))
        }
        Target::Asterisk if *method == Method::OPTIONS => {
            Ok((PathAndQuery::from_static("*"), Reading::Plain))
        }
        Target::Asterisk | Target::Authority => Err(refusals::TARGET),
    }
}

/// What one pass over the fields has found.
#[derive(Default)]
struct Fields<'h> {
    host: Option<&'h HeaderValue>,
    content_type: Option<&'h HeaderValue>,
    expect: Option<&'h HeaderValue>,
    upgrade: SmallVec<[&'h HeaderValue; 1]>,
    connection: SmallVec<[&'h HeaderValue; 1]>,
    cookies: usize,
    drop: SmallVec<[HeaderName; 8]>,
}

// === impl Fields ===

impl<'h> Fields<'h> {
    fn gather(headers: &'h HeaderMap, version: Version, trusted: bool) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut last = None;
        for (name, value) in headers {
            let again = last.replace(name) == Some(name);
            fields.take(name, value, again, version, trusted)?;
        }
        fields.drop_named(headers);
        Ok(fields)
    }

    /// `again` says that the field before had the same name: a map yields all values of a name in a
    /// row.
    fn take(
        &mut self,
        name: &HeaderName,
        value: &'h HeaderValue,
        again: bool,
        version: Version,
        trusted: bool,
    ) -> Result<(), Refusal> {
        let role = match folded(name.as_str()) {
            None => role(name.as_str()),
            Some(folded) => disguised(&folded)?,
        };
        match role {
            Role::Free | Role::Kept => return Ok(()),
            Role::Cookie => {
                self.cookies += 1;
                return Ok(());
            }
            Role::Single => {
                if *name == header::CONTENT_TYPE {
                    self.content_type = Some(value);
                }
                return if again { Err(refusals::FIELD_REPEATED) } else { Ok(()) };
            }
            Role::Te if value == "trailers" && !again => return Ok(()),
            Role::Host if again => return Err(refusals::HOST_REPEATED),
            Role::Expect if again => return Err(refusals::FIELD_REPEATED),
            Role::Http2Settings => return Err(refusals::UPGRADE_H2C),
            Role::Connection | Role::Upgrade | Role::HopByHop
                if version == Version::HTTP_2 && !name.as_str().starts_with("proxy-auth") =>
            {
                return Err(refusals::FIELD_OF_CONNECTION);
            }
            Role::Forwarding if trusted => return Ok(()),
            Role::Host => self.host = Some(value),
            Role::Expect => self.expect = Some(value),
            Role::Connection => self.connection.push(value),
            Role::Upgrade => self.upgrade.push(value),
            Role::Te | Role::Length | Role::HopByHop | Role::Identity | Role::Forwarding => {}
        }
        if !self.drop.contains(name) {
            self.drop.push(name.clone());
        }
        Ok(())
    }

    /// Drops what `Connection` names (RFC 9110 §7.6.1), unless it is a field that means something
    /// to the gateway: a client must not be able to take away what the gateway says or decides
    /// by.
    fn drop_named(&mut self, headers: &HeaderMap) {
        for option in self.connection.iter().flat_map(|value| tokens(value)) {
            if let Ok(name) = HeaderName::from_bytes(option)
                && role(name.as_str()) == Role::Free
                && headers.contains_key(&name)
            {
                self.drop.push(name);
            }
        }
    }

    fn authority(&self, target: Option<&[u8]>) -> Result<Authority, Refusal> {
        let host = self.host.map(|host| Authority::parse(host.as_bytes())).transpose()?;
        let target = target.map(Authority::parse).transpose()?;
        match (host, target) {
            (None, None) => Err(refusals::HOST_MISSING),
            (Some(only), None) | (None, Some(only)) => Ok(only),
            (Some(host), Some(target)) if host == target => Ok(host),
            (Some(_), Some(_)) => Err(refusals::HOST_MISMATCH),
        }
    }

    fn wants_websocket(&self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let mut upgrades = self.upgrade.iter().flat_map(|value| tokens(value));
        let (first, others) = (upgrades.next(), upgrades.count());
        let mut upgrades = self.upgrade.iter().flat_map(|value| tokens(value));
        if upgrades.any(|token| token.eq_ignore_ascii_case(b"h2c")) {
            return Err(refusals::UPGRADE_H2C);
        }
        let mut upgrades = self.upgrade.iter().flat_map(|value| tokens(value));
        if !upgrades.any(|token| token.eq_ignore_ascii_case(b"websocket")) {
            return Ok(false);
        }
        let connected = self
            .connection
            .iter()
            .flat_map(|value| tokens(value))
            .any(|token| token.eq_ignore_ascii_case(b"upgrade"));
        let alone = first.is_some() && others == 0;
        if alone && connected && has_key(headers) { Ok(true) } else { Err(refusals::WEBSOCKET) }
    }

    fn expects_continue(&self, version: Version) -> Result<bool, Refusal> {
        match self.expect {
            // RFC 9110 §10.1.1: a server that gets it from an HTTP/1.0 client ignores it.
            None => Ok(false),
            Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                Ok(version != Version::HTTP_10)
            }
            Some(_) => Err(refusals::EXPECT),
        }
    }

    /// The fields to drop, and how many cookie fields there are.
    fn verdict(self) -> (SmallVec<[HeaderName; 8]>, usize) {
        (self.drop, self.cookies)
    }
}

/// The role of a field that some backends take for another one.
fn disguised(folded: &[u8]) -> Result<Role, Refusal> {
    match std::str::from_utf8(folded).map_or(Role::Free, role) {
        Role::Identity | Role::Forwarding => Ok(Role::Identity),
        Role::Free => Ok(Role::Free),
        _ => Err(refusals::FIELD_SPELLING),
    }
}

/// The elements of a comma-separated list, without the empty ones (RFC 9110 §5.6.1.2).
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn has_key(headers: &HeaderMap) -> bool {
    // 16 octets in base64 (RFC 6455 §4.1): 22 digits and two paddings.
    let digit = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/');
    headers
        .get(header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.as_bytes().strip_suffix(b"=="))
        .is_some_and(|key| key.len() == 22 && key.iter().all(digit))
}

fn websocket_body(
    headers: &HeaderMap,
    method: &Method,
    body: BodyLength,
    upgrade: bool,
) -> Result<BodyLength, Refusal> {
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|version| version == "13");
    let empty =
        !upgrade || matches!(body, BodyLength::None | BodyLength::Exact(0) | BodyLength::Tunnel);
    let get = !upgrade || *method == Method::GET;
    if version && empty && get { Ok(BodyLength::Tunnel) } else { Err(refusals::WEBSOCKET) }
}

/// Makes one field of several: crumbs in HTTP/2 (RFC 9113 §8.2.3), which an HTTP/1.1 backend would
/// read as different lists.
fn join_cookies(headers: &mut HeaderMap) {
    let mut joined = Vec::new();
    for crumb in headers.get_all(header::COOKIE).iter().filter(|crumb| !crumb.is_empty()) {
        if !joined.is_empty() {
            joined.extend_from_slice(b"; ");
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(mut value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        value.set_sensitive(true);
        headers.insert(header::COOKIE, value);
    }
}
