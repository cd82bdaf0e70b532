//! Where somebody is taken after she has logged in: never to a place that is not the gateway's own.

use portcullis_config::model::Hostname;
use portcullis_config::snapshot::Snapshot;

use super::portal_origin::Place;
use crate::caller::{User, may_enter};

/// The longest that is remembered through a login, in octets; a longer one leads to the portal's
/// first page.
const MAX: usize = 1024;

/// A path on a host that browsers reach by HTTPS on the gateway's own port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) host: Box<str>,
    /// With its query; begins with `/`.
    pub(super) path: Box<str>,
}

// === impl Destination ===

impl Destination {
    /// Reads an `https` URL. It is written afresh wherever it is used, so what is understood here
    /// is where the browser goes.
    pub(super) fn parse(url: &str, place: &Place) -> Option<Self> {
        let rest = url.strip_prefix("https://").filter(|_| url.len() <= MAX)?;
        let end = rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at_checked(end)?;
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(decimal_port(port)?)),
            None => (authority, None),
        };
        let host: Hostname =
            host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase().parse().ok()?;
        if !place.is_port(port) {
            return None;
        }
        Some(Self {
            host: host.as_str().into(),
            path: local(if path.is_empty() { "/" } else { path })?.into(),
        })
    }

    /// Whether somebody may be taken there: anywhere in the zone, whether it exists or not, and
    /// wherever she may enter beyond it.
    pub(super) fn is_for(&self, user: &User, place: &Place, snapshot: &Snapshot) -> bool {
        if place.is_portal(&self.host) {
            return false;
        }
        let hosts =
            || snapshot.listeners.iter().filter_map(|listener| listener.hosts.find(&self.host));
        place.is_in_zone(&self.host)
            || hosts()
                .flat_map(|host| &host.routes)
                .any(|route| may_enter(&route.rule.policy.access, user))
    }

    /// The URL.
    pub(super) fn url(&self, place: &Place) -> String {
        place.url(&self.host, &self.path)
    }
}

/// A port as URLs have it: digits alone, no sign.
fn decimal_port(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// A path with its query, if it is one of printable ASCII without a fragment.
pub(super) fn local(path: &str) -> Option<&str> {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'\\' | b'#');
    (path.starts_with('/') && path.len() <= MAX && path.bytes().all(is_plain)).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::super::tests::portal_origin;
    use super::*;
    use crate::session::testing::user;

    fn read(url: &str) -> Option<(String, String)> {
        Destination::parse(url, &place()).map(|to| (to.host.into(), to.path.into()))
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
    fn nothing_else_is() {
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
        assert_eq!(read(&format!("https://shop.apps.example.com:8443/{}", "a".repeat(MAX))), None);
    }

    #[test]
    fn nobody_is_taken_out_of_the_zone() {
        let (snapshot, ann) = (Snapshot::default(), user("ann"));
        let is_for = |host: &str| {
            Destination { host: host.into(), path: "/".into() }.is_for(&ann, &place(), &snapshot)
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
