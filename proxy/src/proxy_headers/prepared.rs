//! The proxy headers that all requests of a client to one host have in common, cached so that they
//! are formatted once, not for each request.

use std::cell::RefCell;
use std::fmt;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::rc::Rc;

use bytes::{BufMut, BytesMut};
use foldhash::quality::RandomState;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    ClientFacts, ProxyHeaderSettings, RequestId, X_FORWARDED_FOR, X_FORWARDED_HOST,
    X_FORWARDED_PORT, X_FORWARDED_PROTO, X_REAL_IP, address, element, port, scheme,
};
use crate::http1::outbound::put_field;
use crate::http2::hpack;
use crate::normalize::Authority;

/// The number of entries on one worker. A new entry replaces the one in its slot.
const SLOTS: usize = 256;

/// The proxy headers of recent clients.
pub(crate) struct PreparedCache {
    hasher: RandomState,
    slots: RefCell<Box<[Option<Rc<PreparedHeaders>>]>>,
}

/// The proxy headers of one client, without a trusted proxy in between, for one host.
pub(crate) struct PreparedHeaders {
    client: IpAddr,
    tls: bool,
    authority: Authority,
    /// The value of `Host`.
    host: HeaderValue,
    fields: Vec<(HeaderName, HeaderValue)>,
    lines: BytesMut,
    block: Vec<u8>,
}

/// The proxy headers of one request.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProxyHeaders<'a> {
    pub(crate) prepared: &'a PreparedHeaders,
    pub(crate) id: &'a RequestId,
}

// === impl PreparedCache ===

impl PreparedCache {
    pub(crate) fn new() -> Self {
        let slots = std::iter::repeat_with(|| None).take(SLOTS).collect();
        Self { hasher: RandomState::default(), slots: RefCell::new(slots) }
    }

    /// The headers of `client`, which no trusted proxy describes, for `authority`.
    pub(crate) fn of(
        &self,
        client: ClientFacts,
        authority: &Authority,
        settings: &ProxyHeaderSettings,
    ) -> Rc<PreparedHeaders> {
        let host = (authority.host.as_bytes(), authority.port);
        let slot = self.hasher.hash_one((client.address, client.tls, host)) as usize % SLOTS;
        let mut slots = self.slots.borrow_mut();
        let entry = slots.get_mut(slot);
        if let Some(Some(cached)) = &entry
            && cached.is_of(client, authority)
        {
            return Rc::clone(cached);
        }
        let prepared = Rc::new(PreparedHeaders::new(client, authority, settings));
        if let Some(entry) = entry {
            *entry = Some(Rc::clone(&prepared));
        }
        prepared
    }
}

// === impl PreparedHeaders ===

impl PreparedHeaders {
    pub(super) fn new(
        client: ClientFacts,
        authority: &Authority,
        settings: &ProxyHeaderSettings,
    ) -> Self {
        let ClientFacts { address: ip, tls, .. } = client;
        let (host, from) = (authority.to_value(), address(ip));
        let mut fields = vec![
            (X_FORWARDED_FOR.clone(), from.clone()),
            (X_FORWARDED_PROTO.clone(), HeaderValue::from_static(scheme(tls))),
            (X_FORWARDED_HOST.clone(), host.clone()),
            (X_FORWARDED_PORT.clone(), port(authority.port, tls)),
            (X_REAL_IP.clone(), from),
        ];
        if settings.forwarded {
            fields.push((header::FORWARDED, element(ip, &host, scheme(tls))));
        }
        let (mut lines, mut block) = (BytesMut::new(), Vec::new());
        for (name, value) in &fields {
            put_field(name, value, &mut lines);
            hpack::field(name, value, &mut block);
        }
        Self { client: ip, tls, authority: authority.clone(), host, fields, lines, block }
    }

    /// The value of `Host`, and of `:authority`.
    pub(crate) fn host(&self) -> &HeaderValue {
        &self.host
    }

    fn is_of(&self, client: ClientFacts, authority: &Authority) -> bool {
        self.client == client.address && self.tls == client.tls && self.authority == *authority
    }
}

// === impl ProxyHeaders ===

impl ProxyHeaders<'_> {
    /// Sets the fields in `headers`.
    pub(crate) fn set(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.prepared.fields {
            headers.insert(name, value.clone());
        }
        self.id.set(headers);
    }

    /// Writes the fields as lines of HTTP/1.1.
    pub(crate) fn put_lines(&self, out: &mut BytesMut) {
        out.put_slice(&self.prepared.lines);
        self.id.put_line(out);
    }

    /// Writes the fields for HTTP/2.
    pub(crate) fn put_block(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.prepared.block);
        self.id.put_field(out);
    }
}

impl fmt::Debug for PreparedHeaders {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PreparedHeaders")
            .field("authority", &self.authority)
            .finish_non_exhaustive()
    }
}
