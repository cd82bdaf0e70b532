//! The destination after login: only hosts of the gateway are allowed.

use portcullis_config::model::Hostname;
use portcullis_config::snapshot::host::HostEntry;
use portcullis_config::snapshot::{Listener, Snapshot};

use super::portal_origin::PortalOrigin;
use crate::caller::{User, granted_to_user, is_granted};

/// Maximum length of the path and query of a destination, in octets. Sealed into `state` it makes a
/// URL of 6 KB, of the 8 KB that providers accept.
const MAX: usize = 4096;

/// Why a text is not a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unusable {
    /// It would be one if it were shorter.
    TooLong,
    Invalid,
}

/// A path on a host that browsers reach by HTTPS on the gateway's port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: Box<str>,
    /// With its query; starts with `/`.
    pub(super) path: Box<str>,
}

// === impl Destination ===

impl Destination {
    /// Parses an `https` URL. It is always rebuilt from its parts, so the browser goes where this
    /// parser understood it to.
    ///
    /// # Errors
    /// It is too long, or not a URL of the gateway.
    pub(super) fn parse(url: &str, origin: &PortalOrigin) -> Result<Self, Unusable> {
        let (host, path) = Self::split(url, origin).ok_or(Unusable::Invalid)?;
        Ok(Self { host: host.as_str().into(), path: local(path)?.into() })
    }

    fn split<'u>(url: &'u str, origin: &PortalOrigin) -> Option<(Hostname, &'u str)> {
        let rest = url.strip_prefix("https://")?;
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(decimal_port(port)?)),
            None => (authority, None),
        };
        let host: Hostname =
            host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().parse().ok()?;
        origin.is_port(port).then_some((host, if path.is_empty() { "/" } else { path }))
    }

    /// Whether a user may be redirected there: anywhere in the zone, whether it exists or not, and
    /// to hosts outside it that grants allow.
    pub(super) fn is_for(&self, user: &User, origin: &PortalOrigin, snapshot: &Snapshot) -> bool {
        if origin.is_portal(&self.host) {
            return false;
        }
        let is_granted_by = |listener: &Listener| {
            // Before the host is looked up: hosts that exist take as long as those that do not.
            let granted = granted_to_user(listener.hosts.grants(), user);
            let mut routes =
                listener.hosts.entry(&self.host).into_iter().flat_map(HostEntry::routes);
            routes.any(|route| is_granted(route, &granted))
        };
        origin.is_in_zone(&self.host) || snapshot.listeners.iter().any(is_granted_by)
    }

    /// The URL.
    pub(super) fn url(&self, origin: &PortalOrigin) -> String {
        origin.url(&self.host, &self.path)
    }
}

/// Parses a port: digits only, no sign.
fn decimal_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Returns a path with its query, if it is printable ASCII without a fragment, and not too long.
pub(super) fn local(path: &str) -> Result<&str, Unusable> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#');
    if !path.starts_with('/') || !path.bytes().all(is_plain) {
        Err(Unusable::Invalid)
    } else if path.len() > MAX {
        Err(Unusable::TooLong)
    } else {
        Ok(path)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::portal_origin;
    use super::*;
    use crate::session::testing::user;

    fn read(url: &str) -> Option<(String, String)> {
        Destination::parse(url, &portal_origin()).ok().map(|to| (to.host.into(), to.path.into()))
    }

    #[test]
    fn a_url_of_the_gateway_s_port_is_a_destination() {
        for (url, host, path) in [
            (
                "https://shop--dev.apps.example.com:8443/a?b=c",
                "shop--dev.apps.example.com",
                "/a?b=c",
            ),
            ("https://SHOP.apps.example.com.:8443", "shop.apps.example.com", "/"),
            (
                "https://shop.apps.example.com:8443//evil.com/",
                "shop.apps.example.com",
                "//evil.com/",
            ),
        ] {
            assert_eq!(read(url), Some((host.to_owned(), path.to_owned())), "{url}");
        }
    }

    #[test]
    fn other_urls_are_not_destinations() {
        for url in [
            "http://shop.apps.example.com:8443/",
            "https://shop.apps.example.com/",
            "https://shop.apps.example.com:443/",
            "https://user@shop.apps.example.com:8443/",
            "https://shop.apps.example.com:8443@evil.com/",
            "https://evil.com\\@shop.apps.example.com:8443/",
            "https://shop.apps.example.com:8443\\.evil.com/",
            "https://shop.apps.example.com:8443/\\evil",
            "https://shop.apps.example.com:8443/a b",
            "https://shop.apps.example.com:8443/\r\nset-cookie:a=b",
            "https://shop.apps.example.com:8443?a",
            "https://shop.apps.example.com:8443#a",
            "//shop.apps.example.com:8443/",
            "/a",
            "javascript:alert(1)",
            " https://shop.apps.example.com:8443/",
            "HTTPS://shop.apps.example.com:8443/",
            "https:///evil.com",
            "https://",
            "",
        ] {
            assert_eq!(read(url), None, "{url:?}");
        }
    }

    #[test]
    fn a_url_that_is_too_long_is_reported_as_such() {
        let parse = |path: &str| {
            let url = format!("https://shop.apps.example.com:8443{path}");
            Destination::parse(&url, &portal_origin()).map(drop)
        };
        assert_eq!(parse(&format!("/{}", "a".repeat(MAX - 1))), Ok(()));
        assert_eq!(parse(&format!("/{}", "a".repeat(MAX))), Err(Unusable::TooLong));
        assert_eq!(parse(&format!("/#{}", "a".repeat(MAX))), Err(Unusable::Invalid));
    }

    #[test]
    fn hosts_outside_the_zone_are_not_destinations() {
        let (snapshot, ann) = (Snapshot::default(), user("ann"));
        let is_for = |host: &str| {
            Destination { host: host.into(), path: "/".into() }.is_for(
                &ann,
                &portal_origin(),
                &snapshot,
            )
        };
        assert!(is_for("shop--dev.apps.example.com"), "whether it exists or not");
        assert!(is_for("apps.example.com"));
        for host in [
            "evil.com",
            "evilapps.example.com",
            "example.com",
            "apps.example.com.evil.com",
            "login.apps.example.com",
            "127.0.0.1",
        ] {
            assert!(!is_for(host), "{host}");
        }
    }
}
