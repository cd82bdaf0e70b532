//! Normalizes requests: rejects those that two parsers could interpret differently, and removes
//! framing and hop-by-hop fields.
//!
//! All later steps use the normalized [`Request`], from which the forwarded request is serialized.

mod characters;
mod client_keys;
mod fields;
mod host;
mod path;
pub(crate) mod refusals;
mod reserved;
#[cfg(test)]
pub(crate) mod tests;

use std::num::NonZeroUsize;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Version, header};
use smallvec::SmallVec;

pub(crate) use self::client_keys::has_client_key;
pub(crate) use self::fields::{Role, folded, is_reserved, role};
pub(crate) use self::host::{Authority, Host};
pub(crate) use self::path::Reading;
use crate::exchange::{BodyLength, PathAndQuery, Refusal, RequestHead, Target};

/// The fields that may carry credentials: `Authorization`, `X-Api-Key` and `Cookie`.
pub(crate) static CREDENTIAL_FIELDS: [HeaderName; 3] =
    [header::AUTHORIZATION, HeaderName::from_static("x-api-key"), header::COOKIE];

/// Maximum length of a method, in octets.
const MAX_METHOD: usize = 32;

/// A normalized request.
#[derive(Debug)]
pub(crate) struct Request {
    /// `GET` for a WebSocket, even if it was an extended CONNECT.
    pub(crate) method: Method,
    pub(crate) version: Version,
    /// Host and explicit port.
    pub(crate) authority: Authority,
    /// Path and query; `*` for `OPTIONS *`.
    pub(crate) target: PathAndQuery,
    /// Whether the path is ambiguous.
    pub(crate) reading: Reading,
    /// The end-to-end fields: without `Host`, `Content-Length`, `Expect`, `Upgrade` and hop-by-hop
    /// fields. `TE: trailers` is kept.
    pub(crate) headers: HeaderMap,
    /// Whether a field may carry credentials.
    pub(crate) may_identify: bool,
    pub(crate) body: BodyLength,
    pub(crate) kind: Kind,
    /// Whether the client waits for 100 (Continue) before it sends the body.
    pub(crate) expects_continue: bool,
}

/// The application protocol of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    #[default]
    Http,
    /// `Content-Type: application/grpc`, with or without a suffix.
    Grpc,
    /// `Content-Type: application/grpc-web`.
    GrpcWeb,
    /// A WebSocket handshake (RFC 6455, RFC 8441).
    WebSocket,
}

/// Normalizes a request.
///
/// `trusted` is whether forwarding headers of this client are trusted; if not, they are removed
/// before any rule can match them. `max_headers` is the maximum number of header fields.
///
/// # Errors
/// Returns one of [`refusals`], which depends on the request only.
pub(crate) fn request(
    head: RequestHead,
    trusted: bool,
    max_headers: NonZeroUsize,
) -> Result<Request, Refusal> {
    if !matches!(head.version, Version::HTTP_10 | Version::HTTP_11 | Version::HTTP_2) {
        return Err(refusals::VERSION);
    }
    check_number(&head, max_headers)?;
    check_scheme(head.scheme.as_deref())?;
    let tunnel = is_extended_connect(&head)?;
    check_method(&head.method, tunnel)?;
    let (target, reading) = check_target(head.target, &head.method)?;

    let fields = Fields::collect(&head.headers, head.version, trusted)?;
    let authority =
        fields.authority(head.version, head.authority.as_deref(), head.scheme.as_deref())?;
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
    let may_identify = fields.may_identify;
    let drop = fields.into_drop();

    let mut headers = head.headers;
    for name in drop {
        headers.remove(name);
    }
    Ok(Request {
        method,
        version: head.version,
        authority,
        target,
        reading,
        headers,
        may_identify,
        body,
        kind,
        expects_continue,
    })
}

/// Returns the protocol that a content type indicates.
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

/// The limit is the same in both versions of HTTP: `:authority` counts as `Host`.
fn check_number(head: &RequestHead, max_headers: NonZeroUsize) -> Result<(), Refusal> {
    let number = head.headers.len();
    let max = max_headers.get();
    let is_exceeded = number > max || (number == max && !head.headers.contains_key(header::HOST));
    if is_exceeded { Err(refusals::FIELDS_MANY) } else { Ok(()) }
}

fn check_scheme(scheme: Option<&[u8]>) -> Result<(), Refusal> {
    let is_http = |scheme: &[u8]| {
        scheme.eq_ignore_ascii_case(b"http") || scheme.eq_ignore_ascii_case(b"https")
    };
    if scheme.is_none_or(is_http) { Ok(()) } else { Err(refusals::SCHEME) }
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
    let unsupported = match *method {
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
            // Methods are case-sensitive (RFC 9110 §9.1), but not for every backend: reject `get`.
            name.len() > MAX_METHOD
                || !name.bytes().all(|byte| matches!(byte, b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_'))
        }
    };
    if unsupported { Err(refusals::METHOD) } else { Ok(()) }
}

fn check_target(target: Target, method: &Method) -> Result<(PathAndQuery, Reading), Refusal> {
    match target {
        Target::Path(target) => {
            let reading = path::check(&target)?;
            if client_keys::is_in_target(&target) {
                return Err(refusals::TARGET_KEY);
            }
            Ok((target, reading))
        }
        Target::Asterisk if *method == Method::OPTIONS => {
            Ok((PathAndQuery::asterisk(), Reading::Plain))
        }
        Target::Asterisk | Target::Authority => Err(refusals::TARGET),
    }
}

/// The result of one pass over the header fields.
#[derive(Default)]
struct Fields<'h> {
    host: Option<&'h HeaderValue>,
    content_type: Option<&'h HeaderValue>,
    expect: Option<&'h HeaderValue>,
    upgrade: SmallVec<[&'h HeaderValue; 1]>,
    connection: SmallVec<[&'h HeaderValue; 1]>,
    may_identify: bool,
    drop: SmallVec<[HeaderName; 8]>,
}

// === impl Fields ===

impl<'h> Fields<'h> {
    fn collect(headers: &'h HeaderMap, version: Version, trusted: bool) -> Result<Self, Refusal> {
        let mut fields = Self::default();
        let mut last = None;
        for (name, value) in headers {
            let repeated = last.replace(name) == Some(name);
            fields.add(name, value, repeated, version, trusted)?;
        }
        fields.drop_connection_options(headers);
        Ok(fields)
    }

    /// Adds a field. `repeated` is whether the previous field had the same name: a map iterates
    /// over all values of a name in sequence.
    fn add(
        &mut self,
        name: &HeaderName,
        value: &'h HeaderValue,
        repeated: bool,
        version: Version,
        trusted: bool,
    ) -> Result<(), Refusal> {
        self.may_identify |= CREDENTIAL_FIELDS.contains(name);
        let role = match folded(name.as_str()) {
            None => role(name.as_str()),
            Some(folded) => folded_role(&folded)?,
        };
        match role {
            Role::Free | Role::Kept | Role::Cookie => return Ok(()),
            Role::Single => {
                if *name == header::CONTENT_TYPE {
                    self.content_type = Some(value);
                }
                return if repeated { Err(refusals::FIELD_REPEATED) } else { Ok(()) };
            }
            Role::Te if value == "trailers" && !repeated => return Ok(()),
            Role::Host if repeated => return Err(refusals::HOST_REPEATED),
            Role::Expect if repeated => return Err(refusals::FIELD_REPEATED),
            Role::Connection | Role::Upgrade | Role::Http2Settings | Role::HopByHop
                if version == Version::HTTP_2 && !name.as_str().starts_with("proxy-auth") =>
            {
                return Err(refusals::FIELD_OF_CONNECTION);
            }
            Role::ProxyHeaderSettings if trusted => return Ok(()),
            Role::Host => self.host = Some(value),
            Role::Expect => self.expect = Some(value),
            Role::Connection => self.connection.push(value),
            Role::Upgrade => self.upgrade.push(value),
            Role::Te
            | Role::Http2Settings
            | Role::Length
            | Role::HopByHop
            | Role::Identity
            | Role::ProxyHeaderSettings => {}
        }
        if !self.drop.contains(name) {
            self.drop.push(name.clone());
        }
        Ok(())
    }

    /// Drops the fields that `Connection` lists (RFC 9110 §7.6.1), except those with a meaning to
    /// the gateway: clients must not remove fields that it sets or evaluates.
    fn drop_connection_options(&mut self, headers: &HeaderMap) {
        for option in self.connection.iter().flat_map(|value| tokens(value)) {
            if let Ok(name) = HeaderName::from_bytes(option)
                && role(name.as_str()) == Role::Free
                && headers.contains_key(&name)
            {
                self.drop.push(name);
            }
        }
    }

    /// Returns the host that the request is for.
    fn authority(
        &self,
        version: Version,
        target: Option<&[u8]>,
        scheme: Option<&[u8]>,
    ) -> Result<Authority, Refusal> {
        let host = self.host.map(|host| Authority::parse(host.as_bytes())).transpose()?;
        let target = target.map(Authority::parse).transpose()?;
        match (host, target) {
            // RFC 9112 §3.2: HTTP/1.1 requires `Host`, whatever the target.
            (None, None) => Err(refusals::HOST_MISSING),
            (None, Some(_)) if version == Version::HTTP_11 => Err(refusals::HOST_MISSING),
            (Some(only), None) | (None, Some(only)) => Ok(only),
            // RFC 9113 §8.3.1: both must identify the same entity.
            (Some(host), Some(target)) if version == Version::HTTP_2 => {
                if target.is_same(&host, default_port(scheme)) {
                    Ok(target)
                } else {
                    Err(refusals::HOST_MISMATCH)
                }
            }
            // RFC 9112 §3.2.2: the target replaces a valid `Host`.
            (Some(_), Some(target)) => Ok(target),
        }
    }

    /// Whether the request is a WebSocket handshake. Other protocols in `Upgrade` are optional
    /// offers, which a server may ignore (RFC 9110 §7.8).
    fn wants_websocket(&self, headers: &HeaderMap) -> Result<bool, Refusal> {
        let lists = |fields: &[&HeaderValue], wanted: &[u8]| {
            let mut tokens = fields.iter().flat_map(|value| tokens(value));
            tokens.any(|token| token.eq_ignore_ascii_case(wanted))
        };
        if !lists(&self.upgrade, b"websocket") {
            return Ok(false);
        }
        let is_valid = lists(&self.connection, b"upgrade") && has_key(headers);
        if is_valid { Ok(true) } else { Err(refusals::WEBSOCKET) }
    }

    /// Returns the names of the fields to drop.
    fn into_drop(self) -> SmallVec<[HeaderName; 8]> {
        self.drop
    }

    fn expects_continue(&self, version: Version) -> Result<bool, Refusal> {
        match self.expect {
            None => Ok(false),
            // RFC 9110 §10.1.1: servers ignore it in HTTP/1.0.
            Some(value) if value.as_bytes().eq_ignore_ascii_case(b"100-continue") => {
                Ok(version != Version::HTTP_10)
            }
            Some(_) => Err(refusals::EXPECT),
        }
    }
}

/// Returns the port that URLs of this scheme imply.
fn default_port(scheme: Option<&[u8]>) -> Option<u16> {
    let is = |other: &[u8]| scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(other));
    if is(b"https") {
        Some(443)
    } else if is(b"http") {
        Some(80)
    } else {
        None
    }
}

/// Returns the role of a field that some backends confuse with another one.
fn folded_role(folded: &[u8]) -> Result<Role, Refusal> {
    match std::str::from_utf8(folded).map_or(Role::Free, role) {
        Role::Identity | Role::ProxyHeaderSettings => Ok(Role::Identity),
        Role::Free => Ok(Role::Free),
        _ => Err(refusals::FIELD_SPELLING),
    }
}

/// Returns the non-empty elements of a comma-separated list (RFC 9110 §5.6.1.2).
pub(crate) fn tokens(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    value
        .as_bytes()
        .split(|byte| *byte == b',')
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
}

fn has_key(headers: &HeaderMap) -> bool {
    // 16 octets in base64 (RFC 6455 §4.1): 22 digits and padding.
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
