//! Header blocks: encodes request heads, and decodes response heads and trailers.

use std::time::Instant;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use crate::exchange::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::exchange::{BodyLength, ResponseHead};
use crate::http1;
use crate::http2::hpack::{self, Decoder, Field, Name, Undecodable};
use crate::itoa::decimal_value;
use crate::upstream::exchange::Message;

/// Indices of pseudo-headers in the static table (RFC 7541 Appendix A).
mod index {
    pub(super) const AUTHORITY: u8 = 1;
    pub(super) const GET: u8 = 2;
    pub(super) const POST: u8 = 3;
    pub(super) const METHOD: u8 = 2;
    pub(super) const PATH: u8 = 4;
    pub(super) const HTTP: u8 = 6;
    pub(super) const HTTPS: u8 = 7;
}

/// A decoded header block.
#[derive(Debug)]
pub(super) struct Block {
    status: Option<StatusCode>,
    fields: HeaderMap,
    /// Its size in octets, as RFC 9113 §6.5.2 counts it.
    octets: usize,
    is_malformed: bool,
}

/// Writes a request's head (RFC 9113 §8.3.1). A WebSocket is an extended CONNECT (RFC 8441 §4).
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
        hpack::field(&header::CONTENT_LENGTH, &decimal_value(length), out);
    }
    if message.expects_continue {
        hpack::field(&header::EXPECT, &HeaderValue::from_static("100-continue"), out);
    }
    for (name, value) in message.headers {
        let is_replaced = message.call_deadline.is_some() && *name == GRPC_TIMEOUT;
        let is_forwarded = !is_replaced
            && (!is_connection_specific(name) || *name == header::TE && value == "trailers");
        // RFC 8441 §5.1: the key of the HTTP/1.1 handshake is not used in HTTP/2.
        if is_forwarded && !(is_tunnel && *name == header::SEC_WEBSOCKET_KEY) {
            hpack::field(name, value, out);
        }
    }
    if let Some(deadline) = message.call_deadline {
        let left = deadline.saturating_duration_since(Instant::now());
        hpack::field(&GRPC_TIMEOUT, &grpc_timeout::format(left), out);
    }
    message.added.put_block(out);
}

/// Computes `Sec-WebSocket-Accept` for an HTTP/1.1 client (RFC 6455 §4.2.2).
pub(super) fn websocket_accept(headers: &HeaderMap) -> Option<HeaderValue> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), GUID].concat());
    HeaderValue::try_from(STANDARD.encode(digest.as_ref())).ok()
}

/// Writes trailers.
pub(super) fn write_trailers(trailers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if !is_connection_specific(name) {
            hpack::field(name, value, out);
        }
    }
}

/// Whether HTTP/2 forbids the field (RFC 9113 §8.2.2), or it is `Host`, which becomes `:authority`.
fn is_connection_specific(name: &HeaderName) -> bool {
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
    /// Decodes a header block. Fields beyond `limit` octets, as RFC 9113 §6.5.2 counts them, are
    /// decoded and dropped, and make the block malformed.
    ///
    /// # Errors
    /// It cannot be decoded: the connection is unusable.
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
            Name::Field(name) if !is_connection_specific(&name) || name == header::HOST => {
                self.is_malformed |= self.fields.try_append(name, field.value).is_err();
            }
            Name::Field(_) | Name::Status | Name::Pseudo | Name::Malformed => {
                self.is_malformed = true
            }
        }
    }

    /// Converts the block to a response's head; `None` if it is malformed.
    pub(super) fn into_head(self) -> Option<ResponseHead> {
        let status = self.status.filter(|_| !self.is_malformed)?;
        Some(ResponseHead { status, headers: self.fields })
    }

    /// Converts the block to trailers; `None` if they are malformed.
    pub(super) fn into_trailers(self) -> Option<HeaderMap> {
        (self.status.is_none() && !self.is_malformed).then_some(self.fields)
    }
}

/// Parses `content-length`, if present.
///
/// # Errors
/// It is malformed, or occurs more than once.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, ()> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(None),
        (Some(length), None) => http1::head::content_length(length).map(Some).ok_or(()),
        (Some(_), Some(_)) => Err(()),
    }
}
