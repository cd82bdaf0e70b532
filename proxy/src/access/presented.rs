//! Which credentials a request shows, and which of its header fields carried them.
//!
//! | field | what it may carry |
//! | --- | --- |
//! | `Authorization: Bearer` | a client key, or an issuer's token |
//! | `X-Api-Key` | a client key |
//! | the cookie `__Host-portcullis` | a login session |
//! | the TLS connection | a client certificate |
//!
//! gRPC metadata are header fields, so they are the same there.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use portcullis_identity::presented::{Bearer, Presented, is_client_key};
use smallvec::SmallVec;

use portcullis_identity::client_certificate::ClientCertificate;
use portcullis_identity::header_text::ascii;
use portcullis_identity::session::cookie::{self, SESSION};

static X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// How many fields may carry credentials.
pub(crate) const FIELDS: usize = 3;
/// The longest credential that is looked at, in octets.
pub(crate) const MAX_CREDENTIAL: usize = 16 * 1024;

/// The fields of a request that may carry credentials, as they came.
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
    /// It stands several times, or is too long: it is not read.
    Unread,
}

/// The credentials of a request, none of them judged yet. Cheap to keep: the values are shared, not
/// copied.
#[derive(Clone, Default)]
pub(crate) struct Shown {
    /// What follows `Bearer`.
    bearer: Option<Rc<str>>,
    api_key: Option<Rc<str>>,
    /// The session's sealed value.
    session: Option<Rc<str>>,
    certificate: Option<Rc<ClientCertificate>>,
    /// Which of the fields are there, whatever is in them.
    there: There,
}

#[derive(Clone, Copy, Default)]
struct There {
    authorization: bool,
    api_key: bool,
    cookie: bool,
}

// === impl Fields ===

impl<'h> Fields<'h> {
    pub(crate) fn of(headers: &'h HeaderMap) -> Self {
        let field = |name| Field::of(headers, name);
        Self {
            authorization: field(&header::AUTHORIZATION),
            api_key: field(&X_API_KEY),
            cookie: field(&header::COOKIE),
        }
    }

    /// Whether none of them is there.
    pub(crate) fn are_absent(&self) -> bool {
        self.all() == [Field::Absent; FIELDS]
    }

    /// What is in each; `None` where one is not read.
    pub(crate) fn words(&self) -> Option<[Option<&'h [u8]>; FIELDS]> {
        let is_read = !self.all().contains(&Field::Unread);
        is_read.then(|| self.all().map(|field| field.value().map(HeaderValue::as_bytes)))
    }

    fn all(&self) -> [Field<'h>; FIELDS] {
        [self.authorization, self.api_key, self.cookie]
    }
}

// === impl Field ===

impl<'h> Field<'h> {
    fn of(headers: &'h HeaderMap, name: &HeaderName) -> Self {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (None, _) => Self::Absent,
            (Some(value), None) if value.len() <= MAX_CREDENTIAL => Self::Single(value),
            _ => Self::Unread,
        }
    }

    fn value(self) -> Option<&'h HeaderValue> {
        if let Self::Single(value) = self { Some(value) } else { None }
    }

    fn is_there(self) -> bool {
        self != Self::Absent
    }
}

// === impl Shown ===

impl Shown {
    /// What `fields` show, on a connection that showed `certificate`. Of a field that stands
    /// several times none counts.
    pub(crate) fn read(fields: &Fields<'_>, certificate: Option<Rc<ClientCertificate>>) -> Self {
        let Fields { authorization, api_key, cookie } = fields;
        Self {
            bearer: authorization.value().and_then(bearer).map(Rc::from),
            api_key: api_key
                .value()
                .and_then(credential)
                .filter(|key| is_client_key(key))
                .map(Rc::from),
            session: cookie.value().and_then(|value| SESSION.find_in([value])).map(Rc::from),
            certificate,
            there: There {
                authorization: authorization.is_there(),
                api_key: api_key.is_there(),
                cookie: cookie.is_there(),
            },
        }
    }

    /// As plain values.
    pub(crate) fn presented(&self) -> Presented<'_> {
        Presented {
            bearer: self.bearer.as_deref().map(Bearer::of),
            api_key: self.api_key.as_deref(),
            session: self.session.as_deref(),
            certificate: self.certificate.as_deref(),
        }
    }

    /// Takes from the headers that these were read from what must not reach a backend: session
    /// cookies always; client keys and, where it is `ours`, the bearer token, unless `pass`
    /// says that they go on.
    pub(crate) fn strip(&self, headers: &mut HeaderMap, ours: bool, pass: bool) {
        if self.there.cookie {
            strip_cookies(headers);
        }
        if pass {
            return;
        }
        let is_key = |value: &HeaderValue| credential(value).is_some_and(is_client_key);
        if self.there.api_key && headers.get_all(&X_API_KEY).iter().any(is_key) {
            headers.remove(&X_API_KEY);
        }
        if !self.there.authorization {
            return;
        }
        let is_consumed = |bearer: Bearer<'_>| ours || matches!(bearer, Bearer::ClientKey(_));
        let goes = match self.presented().bearer {
            Some(bearer) => is_consumed(bearer),
            // None was read of several: each is looked at.
            None => headers
                .get_all(header::AUTHORIZATION)
                .iter()
                .filter_map(bearer)
                .map(Bearer::of)
                .any(is_consumed),
        };
        if goes {
            headers.remove(header::AUTHORIZATION);
        }
    }
}

/// Every cookie of the gateway's own goes, whatever is in it; the others stay as they were written.
fn strip_cookies(headers: &mut HeaderMap) {
    let is_ours = |pair: &[u8]| pair.trim_ascii_start().starts_with(cookie::PREFIX.as_bytes());
    let Some(value) = headers.get(header::COOKIE) else { return };
    let (mut others, mut has_ours) = (SmallVec::<[&[u8]; 8]>::new(), false);
    for pair in cookie::pairs(value.as_bytes()) {
        if is_ours(pair) {
            has_ours = true;
        } else {
            others.push(pair.trim_ascii());
        }
    }
    if !has_ours {
        return;
    }
    let joined = others.join(&b"; "[..]);
    drop(others);
    match HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        Ok(value) if !value.is_empty() => drop(headers.insert(header::COOKIE, value)),
        _ => drop(headers.remove(header::COOKIE)),
    }
}

/// Takes from an answer the cookies that would take the place of the gateway's own: a backend must
/// not sign anybody in as somebody else.
pub(crate) fn strip_set_cookies(headers: &mut HeaderMap) {
    // A cookie without a name is sent back as its value alone.
    let is_nothing = |byte: &u8| matches!(byte, b' ' | b'\t' | b'=');
    let is_ours = |value: &HeaderValue| {
        let start = value.as_bytes().iter().position(|byte| !is_nothing(byte)).unwrap_or_default();
        value
            .as_bytes()
            .get(start..)
            .is_some_and(|rest| rest.starts_with(cookie::PREFIX.as_bytes()))
    };
    if !headers.get_all(header::SET_COOKIE).iter().any(is_ours) {
        return;
    }
    let kept: Vec<HeaderValue> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .filter(|value| !is_ours(value))
        .cloned()
        .collect();
    headers.remove(header::SET_COOKIE);
    for value in kept {
        headers.append(header::SET_COOKIE, value);
    }
}

fn credential(value: &HeaderValue) -> Option<&str> {
    ascii(value).map(str::trim)
}

/// What follows `Bearer` (RFC 6750 §2.1); the scheme is compared without case (RFC 9110 §11.1).
pub(crate) fn bearer(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = credential(value)?.split_at_checked("bearer ".len())?;
    let token = token.trim();
    let is_one = !token.is_empty() && memchr::memchr(b' ', token.as_bytes()).is_none();
    (scheme.eq_ignore_ascii_case("bearer ") && is_one).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "pck_x";

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap())
            })
            .collect()
    }

    fn read(fields: &[(&'static str, &str)]) -> Shown {
        Shown::read(&Fields::of(&headers(fields)), None)
    }

    fn strip(headers: &mut HeaderMap, ours: bool, pass: bool) {
        Shown::read(&Fields::of(headers), None).strip(headers, ours, pass);
    }

    #[test]
    fn credentials_are_found_where_they_belong() {
        let shown = read(&[
            ("authorization", "bearer  abc"),
            ("x-api-key", KEY),
            ("cookie", "a=b; __Host-portcullis=s; c=d"),
        ]);
        assert_eq!(shown.presented().bearer, Some(Bearer::Token("abc")));
        assert_eq!(shown.presented().api_key, Some(KEY));
        assert_eq!(shown.presented().session, Some("s"));
        let shown = read(&[("authorization", "Bearer pck_x")]);
        assert_eq!(shown.presented().bearer, Some(Bearer::ClientKey(KEY)));
    }

    #[test]
    fn what_is_doubtful_is_not_shown() {
        for fields in [
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")][..],
            &[("authorization", "Basic YTpi")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer a b")],
            &[("x-api-key", "somebody-elses")],
            &[("x-api-key", KEY), ("x-api-key", KEY)],
            &[("cookie", "__Host-portcullis=a; __Host-portcullis=b")],
            &[("cookie", "portcullis=a; __host-portcullis=b; x__Host-portcullis=c")],
        ] {
            assert!(read(fields).presented().is_empty(), "{fields:?}");
        }
        let long = format!("Bearer {}", "a".repeat(MAX_CREDENTIAL));
        assert!(read(&[("authorization", &long)]).presented().is_empty());
    }

    #[test]
    fn credentials_end_here() {
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
        assert_eq!(passed, headers(&[all[0], all[1], ("cookie", "a=b; c=d")]));

        let mut only_ours = headers(&[("cookie", "__Host-portcullis=s")]);
        strip(&mut only_ours, false, false);
        assert!(only_ours.is_empty());
    }

    #[test]
    fn a_backend_sets_its_own_cookies_and_none_of_the_gateways() {
        let mut answer = headers(&[
            ("set-cookie", "a=b; Path=/"),
            ("set-cookie", "__Host-portcullis=evil; Path=/; Secure"),
            ("set-cookie", " =__Host-portcullis-browser=evil"),
            ("set-cookie", ""),
            ("set-cookie", "c=__Host-portcullis"),
        ]);
        strip_set_cookies(&mut answer);
        assert_eq!(
            answer,
            headers(&[
                ("set-cookie", "a=b; Path=/"),
                ("set-cookie", ""),
                ("set-cookie", "c=__Host-portcullis")
            ])
        );
    }

    #[test]
    fn what_was_not_for_the_gateway_goes_on() {
        let foreign =
            [("authorization", "Bearer other"), ("x-api-key", "other"), ("cookie", "a=b;c=d")];
        let mut kept = headers(&foreign);
        strip(&mut kept, false, false);
        assert_eq!(kept, headers(&foreign));
        strip(&mut kept, true, false);
        assert!(!kept.contains_key("authorization"), "a token of ours does not");
        let mut basic = headers(&[("authorization", "Basic YTpi")]);
        strip(&mut basic, true, false);
        assert!(basic.contains_key("authorization"));
    }
}
