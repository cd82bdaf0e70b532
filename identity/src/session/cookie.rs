//! The gateway's cookies. All have the prefix `__Host-`: browsers accept them only over HTTPS, from
//! the host itself, for all paths (RFC 6265bis §4.1.3.2), so that a sibling host cannot set them.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

use crate::header_text::ascii;

/// A cookie by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie(&'static str);

/// The prefix of all names.
pub const PREFIX: &str = "__Host-portcullis";
/// A session on the host of a service.
pub const SESSION: Cookie = Cookie(PREFIX);
/// The session on the portal's own host.
pub const PORTAL: Cookie = Cookie("__Host-portcullis-portal");
/// The provider's refresh token, on the portal's own host.
pub const REFRESH: Cookie = Cookie("__Host-portcullis-refresh");
/// Binds a login in progress to its browser, on either kind of host.
pub const BROWSER: Cookie = Cookie("__Host-portcullis-browser");

// === impl Cookie ===

impl Cookie {
    /// Returns its value among the cookies of a request.
    pub fn find(self, headers: &HeaderMap) -> Option<&str> {
        self.find_in(headers.get_all(header::COOKIE))
    }

    /// Returns its value among these fields. A duplicate name has no value: a sibling host may have
    /// set the other one.
    pub fn find_in<'h>(self, fields: impl IntoIterator<Item = &'h HeaderValue>) -> Option<&'h str> {
        let pairs = fields.into_iter().filter_map(ascii).flat_map(|text| text.split(';'));
        let mut values = pairs
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == self.0)
            .map(|(_, value)| value);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    /// Returns the `Set-Cookie` for a value, which must be base64.
    pub fn set(self, value: &str, max_age: Duration) -> Option<HeaderValue> {
        let text = format!(
            "{}={value}; Path=/; Max-Age={}; Secure; HttpOnly; SameSite=Lax",
            self.0,
            max_age.as_secs()
        );
        let mut value = HeaderValue::from_str(&text).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// Returns the `Set-Cookie` that removes it.
    pub fn clear(self) -> Option<HeaderValue> {
        self.set("", Duration::ZERO)
    }
}

/// Splits a `Cookie` field at its semicolons.
pub fn pairs(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        let octets = rest?;
        let end = memchr::memchr(b';', octets);
        rest = end.and_then(|end| octets.get(end + 1..));
        octets.get(..end.unwrap_or(octets.len()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_have_all_protective_attributes() {
        let value = SESSION.set("abc", Duration::from_secs(60)).unwrap();
        assert_eq!(
            value,
            "__Host-portcullis=abc; Path=/; Max-Age=60; Secure; HttpOnly; SameSite=Lax"
        );
        assert_eq!(
            PORTAL.clear().unwrap(),
            "__Host-portcullis-portal=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Lax"
        );
    }

    #[test]
    fn duplicate_cookies_are_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::COOKIE,
            HeaderValue::from_static("a=b; __Host-portcullis=x; __Host-portcullis-portal=y"),
        );
        assert_eq!(
            (SESSION.find(&headers), PORTAL.find(&headers), BROWSER.find(&headers)),
            (Some("x"), Some("y"), None)
        );
        headers.append(header::COOKIE, HeaderValue::from_static("__Host-portcullis=z"));
        assert_eq!((SESSION.find(&headers), PORTAL.find(&headers)), (None, Some("y")));
    }
}
