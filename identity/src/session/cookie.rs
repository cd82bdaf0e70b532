//! The gateway's cookies. All have the prefix `__Host-`: browsers accept them only over HTTPS, from
//! the host itself, for all paths (RFC 6265bis §4.1.3.2), so that a sibling host cannot set them.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};

/// A cookie by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cookie(&'static str);

/// A cookie's name occurs more than once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repeated;

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

/// Identifies an anonymous browser on the host of a service.
pub const VISITOR: Cookie = Cookie("__Host-portcullis-visitor");

// === impl Cookie ===

impl Cookie {
    /// Returns its value among the cookies of a request; `None` if it is repeated.
    pub fn find(self, headers: &HeaderMap) -> Option<&str> {
        self.read(headers.get_all(header::COOKIE)).ok().flatten()
    }

    /// Returns its value among these fields, whatever the other cookies contain: a sibling host may
    /// have set them.
    ///
    /// # Errors
    /// The name is repeated: a sibling host may have set the other cookie.
    pub fn read<'h>(
        self,
        fields: impl IntoIterator<Item = &'h HeaderValue>,
    ) -> Result<Option<&'h str>, Repeated> {
        // No value of the gateway's cookies is beyond ASCII, so such a one is as invalid as none.
        let text = |value| std::str::from_utf8(value).unwrap_or_default();
        Ok(value(self.0, fields)?.map(text))
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

/// Returns the value of the cookie of this name among these fields.
///
/// # Errors
/// The name is repeated.
pub fn value<'h>(
    name: &str,
    fields: impl IntoIterator<Item = &'h HeaderValue>,
) -> Result<Option<&'h [u8]>, Repeated> {
    let pairs = fields.into_iter().flat_map(|field| pairs(field.as_bytes()));
    let mut values = pairs
        .filter_map(|pair| pair.trim_ascii().strip_prefix(name.as_bytes())?.strip_prefix(b"="));
    let first = values.next();
    if values.next().is_some() { Err(Repeated) } else { Ok(first) }
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

    #[test]
    fn other_cookies_do_not_hide_it() {
        let long = format!("a={}", "x".repeat(60_000));
        for other in ["caf\u{e9}=\u{e9}", "a=\"b;", "=", ";;", "__Host-portcullisx=y", "\t", &long]
        {
            for text in
                [format!("{other}; __Host-portcullis=v"), format!("__Host-portcullis=v;{other}")]
            {
                let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
                assert_eq!(SESSION.read([&value]), Ok(Some("v")), "{other}");
            }
        }
        let twice = HeaderValue::from_static("__Host-portcullis=v; __Host-portcullis=v");
        assert_eq!(SESSION.read([&twice]), Err(Repeated));
        let foreign = HeaderValue::from_bytes(b"__Host-portcullis=\xe9").unwrap();
        assert_eq!(SESSION.read([&foreign]), Ok(Some("")));
    }
}
