//! `Forwarded` (RFC 7239).

use std::net::IpAddr;

use http::{HeaderMap, header};
use smallvec::SmallVec;

use super::client::{Scheme, parse_address};

/// The parameters that one proxy has added.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Element<'h> {
    /// The address of the proxy's client; `None` if it is hidden, unknown or absent.
    pub(super) address: Option<IpAddr>,
    pub(super) scheme: Option<Scheme>,
    pub(super) host: Option<&'h [u8]>,
}

/// The elements of all fields, in order. A malformed list is empty: what it says is in doubt.
pub(super) fn elements(headers: &HeaderMap) -> SmallVec<[Element<'_>; 2]> {
    let mut elements = SmallVec::new();
    for value in headers.get_all(header::FORWARDED) {
        let mut rest = Rest(value.as_bytes());
        loop {
            match rest.element() {
                Ok(Some(element)) => elements.push(element),
                Ok(None) => {}
                Err(Malformed) => return SmallVec::new(),
            }
            match rest.next() {
                Some(b',') => {}
                None => break,
                Some(_) => return SmallVec::new(),
            }
        }
    }
    elements
}

struct Malformed;

/// The unread part of a field.
struct Rest<'h>(&'h [u8]);

// === impl Rest ===

impl<'h> Rest<'h> {
    /// Reads `[ pair ] *( ";" [ pair ] )` (RFC 7239 §4); `None` if there is no pair.
    fn element(&mut self) -> Result<Option<Element<'h>>, Malformed> {
        let mut element = None::<Element<'h>>;
        loop {
            self.skip_blanks();
            if !matches!(self.0.first(), None | Some(b',' | b';')) {
                let (name, value) = self.pair()?;
                element.get_or_insert_default().set(name, value)?;
                self.skip_blanks();
            }
            if self.0.first() != Some(&b';') {
                return Ok(element);
            }
            self.next();
        }
    }

    fn pair(&mut self) -> Result<(&'h [u8], &'h [u8]), Malformed> {
        let name = self.token();
        if name.is_empty() || self.next() != Some(b'=') {
            return Err(Malformed);
        }
        let value = if self.0.first() == Some(&b'"') { self.quoted()? } else { self.token() };
        if value.is_empty() { Err(Malformed) } else { Ok((name, value)) }
    }

    fn token(&mut self) -> &'h [u8] {
        // IPv6 addresses and ports must be quoted, which not every proxy does.
        let is_token =
            |octet: &u8| octet.is_ascii_graphic() && !matches!(octet, b',' | b';' | b'=' | b'"');
        let length = self.0.iter().position(|octet| !is_token(octet)).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at_checked(length).unwrap_or_default();
        self.0 = rest;
        token
    }

    /// Reads a quoted string. No address, scheme or host has an escaped character.
    fn quoted(&mut self) -> Result<&'h [u8], Malformed> {
        self.next();
        let length = memchr::memchr2(b'"', b'\\', self.0).ok_or(Malformed)?;
        let (text, rest) = self.0.split_at_checked(length).ok_or(Malformed)?;
        self.0 = rest;
        if self.next() == Some(b'"') { Ok(text) } else { Err(Malformed) }
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }
}

// === impl Element ===

impl<'h> Element<'h> {
    /// Names are compared without case, and occur once (RFC 7239 §4).
    fn set(&mut self, name: &[u8], value: &'h [u8]) -> Result<(), Malformed> {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        let is_repeated = if is(b"for") {
            std::mem::replace(&mut self.address, parse_address(value)).is_some()
        } else if is(b"proto") {
            std::mem::replace(&mut self.scheme, Scheme::parse(value)).is_some()
        } else if is(b"host") {
            self.host.replace(value).is_some()
        } else {
            false
        };
        if is_repeated { Err(Malformed) } else { Ok(()) }
    }
}
