//! A request as a shadow gets it: without credentials, with memory of its own, and marked.

use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use http::header::InvalidHeaderValue;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::Original;
use super::budget::Share;
use crate::exchange::{BodyLength, PathAndQuery};
use crate::memory;
use crate::normalize::Kind;
use crate::proxy_headers::RequestId;
use crate::proxy_headers::prepared::PreparedHeaders;

/// Marks a copy. Clients cannot send it: the gateway removes fields of this prefix.
static X_PORTCULLIS_SHADOW: HeaderName = HeaderName::from_static("x-portcullis-shadow");

/// Parts of the names of fields that carry credentials, by their specification or by wide use: a
/// shadow is not to act in the name of callers. The gateway's signed assertion is one of them.
const CREDENTIALS: [&str; 15] = [
    "api-key",
    "apikey",
    "api_key",
    "authentication",
    "authorization",
    "bearer",
    "cookie",
    "credential",
    "jwt",
    "passphrase",
    "password",
    "secret",
    "session",
    "signature",
    "token",
];
/// Fields whose names end like those of keys that authenticate, such as
/// `Ocp-Apim-Subscription-Key`, and which are none.
const KEYS_OF_OTHER_KINDS: [&str; 2] = ["idempotency-key", "sec-websocket-key"];
/// What the gateway says about the caller. Other fields that begin with `X-Auth-` are credentials.
const IDENTITY: &str = "x-auth-request-";

/// The largest body that is copied, in octets.
const MAX_BODY: usize = 64 * 1024;

/// A copy of a request.
pub(super) struct CopiedRequest {
    pub(super) method: Method,
    pub(super) target: PathAndQuery,
    pub(super) host: HeaderValue,
    pub(super) fields: HeaderMap,
    pub(super) proxy: Option<Rc<PreparedHeaders>>,
    pub(super) id: RequestId,
    pub(super) is_grpc: bool,
    /// The whole body, without trailers.
    pub(super) body: Bytes,
    has_body: bool,
    /// What was read of the body.
    read: Vec<u8>,
    /// The size of all but the body, in octets.
    head: usize,
    memory: Share,
}

/// Whether a body of that length may be small enough to be copied.
pub(super) fn is_small(length: BodyLength) -> bool {
    !matches!(length, BodyLength::Exact(length) if length > MAX_BODY as u64)
}

// === impl CopiedRequest ===

impl CopiedRequest {
    /// Copies the head of a request; `memory` is charged for it. `None` if there is no room.
    pub(super) fn new(original: &Original<'_>, mut memory: Share) -> Option<Self> {
        let Original { request, fields, host, proxy, identity, id, .. } = *original;
        let identity_octets = identity.map_or(0, |identity| 2 * identity.lines().len());
        let head = request.target.len() + host.len() + memory::weight(fields) + identity_octets;
        if !memory.grow(head) {
            return None;
        }
        Some(Self {
            method: request.method.clone(),
            target: request.target.detached(),
            host: detached(host, &mut BytesMut::new()).ok()?,
            fields: copied_fields(original),
            proxy: proxy.cloned(),
            id: id.clone(),
            is_grpc: request.kind == Kind::Grpc,
            body: Bytes::new(),
            has_body: request.body != BodyLength::None,
            read: Vec::new(),
            head,
            memory,
        })
    }

    /// Adds a part of the body.
    ///
    /// # Errors
    /// Why the request is not copied: the body is too large, or there is no room.
    pub(super) fn extend(&mut self, data: &[u8]) -> Result<(), &'static str> {
        if self.read.len() + data.len() > MAX_BODY {
            return Err("body_too_large");
        }
        self.read.extend_from_slice(data);
        if self.memory.grow(self.head + self.read.capacity()) { Ok(()) } else { Err("memory") }
    }

    /// Ends the body.
    pub(super) fn finish(&mut self) {
        self.body = Bytes::from(std::mem::take(&mut self.read));
    }

    /// The length of the body, as the head of the copy declares it.
    pub(super) fn length(&self) -> BodyLength {
        if self.has_body { BodyLength::Exact(self.body.len() as u64) } else { BodyLength::None }
    }
}

/// The fields of a request for a shadow.
fn copied_fields(original: &Original<'_>) -> HeaderMap {
    let identity = original.identity.into_iter().flat_map(|identity| identity.fields());
    let identity = identity.map(|(name, value)| (*name, value));
    let all = || original.fields.iter().chain(identity.clone());
    let all = || all().filter(|(name, _)| !carries_credential(name));
    // One allocation for all values: they could be slices of a whole read buffer.
    let mut octets = BytesMut::with_capacity(all().map(|(_, value)| value.len()).sum());
    let mut fields = HeaderMap::with_capacity(original.fields.len() + 8);
    for (name, value) in all() {
        if let Ok(value) = detached(value, &mut octets) {
            fields.append(name, value);
        }
    }
    fields.insert(&X_PORTCULLIS_SHADOW, HeaderValue::from_static("1"));
    fields
}

/// A value with its octets at the end of `buffer`.
fn detached(value: &HeaderValue, buffer: &mut BytesMut) -> Result<HeaderValue, InvalidHeaderValue> {
    buffer.extend_from_slice(value.as_bytes());
    HeaderValue::from_maybe_shared(buffer.split().freeze())
}

fn carries_credential(name: &HeaderName) -> bool {
    let name = name.as_str();
    let is_key = name.ends_with("-key") || name.ends_with("_key");
    name == "dpop"
        || CREDENTIALS.iter().any(|part| name.contains(part))
        || is_key && !KEYS_OF_OTHER_KINDS.contains(&name)
        || name == "x-auth"
        || name.starts_with("x-auth-") && !name.starts_with(IDENTITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_credentials_are_known_and_others_are_copied() {
        for name in [
            "authorization",
            "proxy-authorization",
            "cookie",
            "dpop",
            "x-api-key",
            "x_api_key",
            "apikey",
            "x-auth-token",
            "private-token",
            "x-amz-security-token",
            "x-csrf-token",
            "x-portcullis-jwt-assertion",
            "x-session-id",
            "authentication",
            "ocp-apim-subscription-key",
            "x-functions-key",
            "x-access-key",
            "x_access_key",
            "x-auth",
            "x-auth-email",
            "signature-input",
            "x-hub-signature-256",
            "x-passphrase",
            "x-bearer",
        ] {
            assert!(carries_credential(&HeaderName::from_static(name)), "{name}");
        }
        for name in [
            "accept",
            "host",
            "idempotency-key",
            "sec-websocket-key",
            "x-auth-request-user",
            "x-author",
            "x-keyboard",
            "x-request-id",
        ] {
            assert!(!carries_credential(&HeaderName::from_static(name)), "{name}");
        }
    }
}
