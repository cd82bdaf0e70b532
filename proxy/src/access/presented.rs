//! The credentials that a request presents, and the header fields that carry them.
//!
//! | field | credential |
//! | --- | --- |
//! | `Authorization: Bearer` | a client key, or an issuer's token |
//! | `X-Api-Key` | a client key |
//! | the cookie `__Host-portcullis` | a login session |
//! | the TLS connection | a client certificate |
//!
//! gRPC metadata are header fields, so the same holds for gRPC.

use std::rc::Rc;

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_identity::client_certificate::ClientCertificate;
use portcullis_identity::header_text::ascii;
use portcullis_identity::presented::{Bearer, Presented, is_client_key};
use portcullis_identity::rejected::Rejected;
use portcullis_identity::session::cookie::{Repeated, SESSION};

use super::credential_filter::{is_key, strip_client_keys, strip_cookies};
use crate::normalize::CREDENTIAL_FIELDS;

/// The number of fields that may carry credentials.
pub(crate) const FIELDS: usize = CREDENTIAL_FIELDS.len();
/// The longest credential that is read, in octets.
pub(crate) const MAX_CREDENTIAL: usize = 16 * 1024;

/// The fields of a request that may carry credentials, as received.
#[derive(Clone, Copy)]
pub(crate) struct Fields<'h> {
    authorization: Field<'h>,
    api_key: Field<'h>,
    cookie: Field<'h>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Field<'h> {
    Absent,
    Single(&'h HeaderValue),
    /// Ignored, and why. The value is the first one.
    Unreadable(&'h HeaderValue, Rejected),
}

/// The credentials of a request, not validated yet. Cheap to clone: the values are shared.
#[derive(Clone, Default)]
pub(crate) struct PresentedCredentials {
    /// The token after `Bearer`.
    bearer: Option<Rc<str>>,
    api_key: Option<Rc<str>>,
    /// The session's sealed value.
    session: Option<Rc<str>>,
    certificate: Option<Rc<ClientCertificate>>,
    /// Why another credential could not be read.
    unreadable: Option<Rejected>,
    /// Which of the fields are present, whatever their values.
    present: PresentFields,
}

#[derive(Clone, Copy, Default)]
struct PresentFields {
    authorization: bool,
    api_key: bool,
    cookie: bool,
}

// === impl Fields ===

impl<'h> Fields<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let field = |name, max| Field::of(headers, name, max);
        let [authorization, api_key, cookie] = &CREDENTIAL_FIELDS;
        Self {
            authorization: field(authorization, MAX_CREDENTIAL),
            api_key: field(api_key, MAX_CREDENTIAL),
            // It holds cookies of others, too; the limit of a head applies.
            cookie: field(cookie, usize::MAX),
        }
    }

    /// The value of each; `None` where one is ignored.
    pub(crate) fn values(&self) -> Option<[Option<&'h [u8]>; FIELDS]> {
        let is_usable = !self.all().iter().any(|field| matches!(field, Field::Unreadable(..)));
        is_usable.then(|| self.all().map(|field| field.value().map(HeaderValue::as_bytes)))
    }

    /// Why a credential could not be read from `Authorization` or `X-Api-Key`, if there is one.
    fn unreadable(&self) -> Option<Rejected> {
        let is_key = |value: &HeaderValue| credential(value).is_some_and(is_client_key);
        self.authorization
            .unreadable(|value| bearer(value).is_some())
            .or_else(|| self.api_key.unreadable(is_key))
    }

    fn all(&self) -> [Field<'h>; FIELDS] {
        [self.authorization, self.api_key, self.cookie]
    }
}

// === impl Field ===

impl<'h> Field<'h> {
    fn of(headers: &'h HeaderMap, name: &HeaderName, max: usize) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) if value.len() <= max => Self::Single(value),
            (Some(value), None) => Self::Unreadable(value, Rejected::TooLong),
            (Some(value), Some(_)) => Self::Unreadable(value, Rejected::Repeated),
        }
    }

    fn unreadable(self, is_credential: impl FnOnce(&HeaderValue) -> bool) -> Option<Rejected> {
        match self {
            Self::Unreadable(value, rejected) if is_credential(value) => Some(rejected),
            _ => None,
        }
    }

    fn value(self) -> Option<&'h HeaderValue> {
        if let Self::Single(value) = self { Some(value) } else { None }
    }

    fn is_present(self) -> bool {
        self != Self::Absent
    }
}

// === impl PresentedCredentials ===

impl PresentedCredentials {
    /// Reads credentials from `fields`, on a connection with the client's `certificate`. Repeated
    /// fields are ignored.
    pub(crate) fn read(fields: &Fields<'_>, certificate: Option<Rc<ClientCertificate>>) -> Self {
        let Fields { authorization, api_key, cookie } = fields;
        let session = SESSION.read(cookie.value());
        Self {
            bearer: authorization.value().and_then(bearer).map(Rc::from),
            api_key: api_key
                .value()
                .and_then(credential)
                .filter(|key| is_client_key(key))
                .map(Rc::from),
            unreadable: fields.unreadable().or(session.err().map(|Repeated| Rejected::Repeated)),
            session: session.ok().flatten().map(Rc::from),
            certificate,
            present: PresentFields {
                authorization: authorization.is_present(),
                api_key: api_key.is_present(),
                cookie: cookie.is_present(),
            },
        }
    }

    /// The credentials as plain values.
    pub(crate) fn presented(&self) -> Presented<'_> {
        Presented {
            bearer: self.bearer.as_deref().map(Bearer::of),
            api_key: self.api_key.as_deref(),
            session: self.session.as_deref(),
            certificate: self.certificate.as_deref(),
            unreadable: self.unreadable,
        }
    }

    /// Removes from `headers` the credentials that must not reach a backend: session cookies and
    /// client keys always, wherever they are, and the bearer token if it is `ours`, unless `pass` is
    /// set.
    pub(crate) fn strip(&self, headers: &mut HeaderMap, ours: bool, pass: bool) {
        if self.present.cookie {
            strip_cookies(headers);
        }
        let is_token =
            |value: &HeaderValue| ours && !pass && bearer(value).is_some() || is_key(value);
        let [authorization, api_key, _] = &CREDENTIAL_FIELDS;
        if self.present.authorization && headers.get_all(authorization).iter().any(is_token) {
            headers.remove(authorization);
        }
        if self.present.api_key && headers.get_all(api_key).iter().any(is_key) {
            headers.remove(api_key);
        }
        strip_client_keys(headers);
    }
}

/// The value of a field for credentials as text; `None` if it is not ASCII.
pub(super) fn credential(value: &HeaderValue) -> Option<&str> {
    ascii(value).map(str::trim)
}

/// The token after `Bearer` (RFC 6750 §2.1); the scheme is compared without case (RFC 9110 §11.1).
pub(crate) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = credential(value)?.split_at_checked("bearer ".len())?;
    let token = token.trim();
    let is_single = !token.is_empty() && memchr::memchr(b' ', token.as_bytes()).is_none();
    (scheme.eq_ignore_ascii_case("bearer ") && is_single).then_some(token)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const KEY: &str = "pck_x";

    pub(crate) fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
            })
            .collect()
    }

    fn read(fields: &[(&'static str, &str)]) -> PresentedCredentials {
        PresentedCredentials::read(&Fields::of(&headers(fields)), None)
    }

    pub(crate) fn strip(headers: &mut HeaderMap, ours: bool, pass: bool) {
        PresentedCredentials::read(&Fields::of(headers), None).strip(headers, ours, pass);
    }

    #[test]
    fn credentials_are_read_from_their_fields() {
        let presented = read(&[
            ("authorization", "bearer  abc"),
            ("x-api-key", KEY),
            ("cookie", "a=b; __Host-portcullis=s; c=d"),
        ]);
        assert_eq!(presented.presented().bearer, Some(Bearer::Token("abc")));
        assert_eq!(presented.presented().api_key, Some(KEY));
        assert_eq!(presented.presented().session, Some("s"));
        let presented = read(&[("authorization", "Bearer pck_x")]);
        assert_eq!(presented.presented().bearer, Some(Bearer::ClientKey(KEY)));
    }

    #[test]
    fn ambiguous_credentials_are_ignored() {
        for fields in [
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")][..],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer a b")],
            &[("x-api-key", "another-key")],
            &[("x-api-key", KEY), ("x-api-key", KEY)],
            &[("cookie", "__Host-portcullis=a; __Host-portcullis=b")],
            &[("cookie", "portcullis=a; __host-portcullis=b; x__Host-portcullis=c")],
        ] {
            assert!(read(fields).presented().is_empty(), "{fields:?}");
        }
    }

    #[test]
    fn why_a_credential_is_ignored_is_known() {
        let long = "a".repeat(MAX_CREDENTIAL);
        let (bearer, key) = (format!("Bearer {long}"), format!("{KEY}{long}"));
        for (fields, rejected) in [
            (
                &[("cookie", "__Host-portcullis=a; __Host-portcullis=b")][..],
                Some(Rejected::Repeated),
            ),
            (&[("x-api-key", KEY), ("x-api-key", KEY)], Some(Rejected::Repeated)),
            (&[("authorization", &bearer)], Some(Rejected::TooLong)),
            (&[("x-api-key", &key)], Some(Rejected::TooLong)),
            (&[("x-api-key", &long)], None),
            (&[("x-api-key", "other"), ("x-api-key", "other")], None),
            (&[("cookie", &long)], None),
            (&[("cookie", "a=b; a=b")], None),
        ] {
            let read = read(fields);
            assert!(read.presented().is_empty());
            assert_eq!(read.presented().unreadable, rejected);
        }
    }

    #[test]
    fn the_session_is_found_in_a_field_of_any_length() {
        let long = format!("a={}; __Host-portcullis=s; \u{e9}=b", "x".repeat(4 * MAX_CREDENTIAL));
        assert_eq!(read(&[("cookie", &long)]).presented().session, Some("s"));
    }

    #[test]
    fn consumed_credentials_are_stripped() {
        let all = [
            ("authorization", "Bearer pck_x"),
            ("x-api-key", KEY),
            ("cookie", "a=b; __Host-portcullis=s; __Host-portcullis-next=t; c=d"),
        ];
        let mut stripped = headers(&all);
        strip(&mut stripped, false, false);
        assert_eq!(stripped, headers(&[("cookie", "a=b; c=d")]));

        let mut passed = headers(&all);
        strip(&mut passed, false, true);
        assert_eq!(passed, headers(&[("cookie", "a=b; c=d")]), "keys never");
        for pass in [false, true] {
            let mut token = headers(&[("authorization", "Bearer a.b.c")]);
            strip(&mut token, true, pass);
            assert_eq!(token.contains_key("authorization"), pass);
        }

        let mut only_ours = headers(&[("cookie", "__Host-portcullis=s")]);
        strip(&mut only_ours, false, false);
        assert!(only_ours.is_empty());
    }

    #[test]
    fn foreign_credentials_are_forwarded() {
        let foreign =
            [("authorization", "Bearer other"), ("x-api-key", "other"), ("cookie", "a=b;c=d")];
        let mut forwarded = headers(&foreign);
        strip(&mut forwarded, false, false);
        assert_eq!(forwarded, headers(&foreign));
        strip(&mut forwarded, true, false);
        assert!(!forwarded.contains_key("authorization"), "the gateway consumed the token");
        let mut basic = headers(&[("authorization", "Basic YTpi")]);
        strip(&mut basic, true, false);
        assert!(basic.contains_key("authorization"));
    }
}
