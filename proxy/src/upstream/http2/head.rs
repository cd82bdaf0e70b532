//! Heads as header blocks: a request's is written, a response's or its trailers are read.

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::access::identity_headers::Introduction;
use crate::exchange::{BodyLength, ResponseHead};
use crate::http1;
use crate::http2::hpack::{self, Decoder, Field, Name, Undecodable};
use crate::upstream::exchange::Message;

/// Places of pseudo-headers in the static table (RFC 7541 Appendix A).
mod index {
    pub(super) const AUTHORITY: u8 = 1;
    pub(super) const GET: u8 = 2;
    pub(super) const POST: u8 = 3;
    pub(super) const METHOD: u8 = 2;
    pub(super) const PATH: u8 = 4;
    pub(super) const HTTP: u8 = 6;
    pub(super) const HTTPS: u8 = 7;
}

/// A header block as it was read.
#[derive(Debug)]
pub(super) struct Block {
    status: Option<StatusCode>,
    fields: HeaderMap,
    /// What it counts for the limit on heads, in octets.
    octets: usize,
    is_malformed: bool,
}

/// Writes the head of a request (RFC 9113 §8.3.1); that of a WebSocket is an extended CONNECT (RFC
/// 8441 §4).
pub(super) fn write(message: &Message<'_>, tls: bool, out: &mut Vec<u8>) {
    let is_tunnel = message.body == BodyLength::Tunnel;
    match *message.method {
        _ if is_tunnel => {
            hpack::literal(index::METHOD, b"CONNECT", out);
            hpack::named(":protocol", b"websocket", out);
        }
        Method::GET => hpack::indexed(index::GET, out),
        Method::POST => hpack::indexed(index::POST, out),
        ref method => hpack::literal(index::METHOD, method.as_str().as_bytes(), out),
    }
    hpack::indexed(if tls { index::HTTPS } else { index::HTTP }, out);
    hpack::literal(index::AUTHORITY, message.host.as_bytes(), out);
    hpack::literal(index::PATH, message.target.as_str().as_bytes(), out);
    if let BodyLength::Exact(length) = message.body {
        hpack::field(&header::CONTENT_LENGTH, &HeaderValue::from(length), out);
    }
    if message.expects_continue {
        hpack::field(&header::EXPECT, &HeaderValue::from_static("100-continue"), out);
    }
    for (name, value) in message.headers {
        let is_meant = !is_of_connection(name) || *name == header::TE && value == "trailers";
        // RFC 8441 §5.1: what proves the handshake of HTTP/1.1 has no part in this one.
        if is_meant && !(is_tunnel && *name == header::SEC_WEBSOCKET_KEY) {
            hpack::field(name, value, out);
        }
    }
    for (name, value) in message.told.into_iter().flat_map(Introduction::fields) {
        hpack::field(name, value, out);
    }
}

/// What proves to a client of HTTP/1.1 that its handshake was understood (RFC 6455 §4.2.2).
pub(super) fn websocket_accept(headers: &HeaderMap) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(STANDARD.encode(digest.as_ref())).ok()
}

/// Writes trailers.
pub(super) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if !is_of_connection(name) {
            hpack::field(name, value, out);
        }
    }
}

/// What HTTP/2 has no use for (RFC 9113 §8.2.2), and `Host`, which is `:authority` there.
fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        *name,
        header::CONNECTION
            | header::TRANSFER_ENCODING
            | header::UPGRADE
            | header::TE
            | header::HOST
    ) || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

// === impl Block ===

impl Block {
    /// Reads a header block of at most `limit` octets, as RFC 9113 §6.5.2 counts them; what is
    /// beyond them is read, and not kept.
    ///
    /// # Errors
    /// It cannot be read: the connection is broken.
    pub(super) fn read(
        octets: &[u8],
        decoder: &mut Decoder,
        limit: usize,
    ) -> Result<Self, Undecodable> {
        let mut block = Self {
            status: None,
            fields: HeaderMap::with_capacity(12),
            octets: 0,
            is_malformed: false,
        };
        decoder.decode(octets, |field| block.take(field, limit))?;
        Ok(block)
    }

    fn take(&mut self, field: Field, limit: usize) {
        self.octets = self.octets.saturating_add(field.octets);
        if self.octets > limit {
            self.is_malformed = true;
            return;
        }
        match field.name {
            Name::Status if self.status.is_none() && self.fields.is_empty() => {
                self.status = StatusCode::from_bytes(field.value.as_bytes()).ok();
                self.is_malformed |= self.status.is_none();
            }
            Name::Field(name) if !is_of_connection(&name) || name == header::HOST => {
                self.is_malformed |= self.fields.try_append(name, field.value).is_err();
            }
            Name::Field(_) | Name::Status | Name::Pseudo | Name::Malformed => {
                self.is_malformed = true
            }
        }
    }

    /// As a response's head. `None` where it is none.
    pub(super) fn into_head(self) -> Option<ResponseHead> {
        let status = self.status.filter(|_| !self.is_malformed)?;
        Some(ResponseHead { status, headers: self.fields })
    }

    /// As trailers. `None` where they are none.
    pub(super) fn into_trailers(self) -> Option<HeaderMap> {
        (self.status.is_none() && !self.is_malformed).then_some(self.fields)
    }
}

/// What `content-length` says, if it is there; `Err` for what says nothing, or two things.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => http1::head::content_length(length).map(Some).ok_or(()),
        (Some(_), Some(_)) => Err(()),
    }
}
