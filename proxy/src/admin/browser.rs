//! Protection from web pages for listeners without authentication: a page can make any browser on
//! the machine, or in its network, send requests to them.
//!
//! With DNS rebinding a page points its own name at the listener, to read the responses: then
//! `Host` has that name. Without it, a page can send requests but not read the responses: then
//! `Origin` (RFC 6454) or `Sec-Fetch-Site` (W3C Fetch Metadata) identifies it.

use std::net::IpAddr;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, HeaderName, Method, Request};

const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Why a request is rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Foreign {
    /// It is for another host.
    Host,
    /// A page of another site sent it.
    Page,
}

/// The hosts that a listener accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hosts {
    /// `localhost` and loopback addresses.
    Loopback,
    /// `localhost` and all IP addresses: no page can have an address as its name.
    Addresses,
}

/// Rejects requests that a foreign web page may have sent. The port of `Host` is ignored:
/// `kubectl port-forward` may use another one.
pub(super) fn check<B>(request: &Request<B>, hosts: Hosts) -> Result<(), Foreign> {
    let named = request.uri().authority().is_none_or(|authority| hosts.has(authority));
    if !named || !host(request.headers()).is_some_and(|host| hosts.has(&host)) {
        return Err(Foreign::Host);
    }
    let is_command = !matches!(*request.method(), Method::GET | Method::HEAD);
    let site = request.headers().get_all(SEC_FETCH_SITE).iter().all(|site| {
        // Sent from the address bar, or by the page that this opened; but never a command.
        !is_command && matches!(site.as_bytes(), b"none" | b"same-origin")
    });
    if !site || request.headers().contains_key(ORIGIN) { Err(Foreign::Page) } else { Ok(()) }
}

/// The host of the request, if there is exactly one and it is valid.
fn host(headers: &HeaderMap) -> Option<Authority> {
    let mut fields = headers.get_all(HOST).iter();
    let host = fields.next().filter(|_| fields.next().is_none())?;
    host.to_str().ok()?.parse().ok()
}

// === impl Hosts ===

impl Hosts {
    fn has(self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let address = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host)
            .parse::<IpAddr>();
        match (self, address) {
            (Self::Addresses, Ok(_)) => true,
            (Self::Loopback, Ok(address)) => address.to_canonical().is_loopback(),
            (_, Err(_)) => host.eq_ignore_ascii_case("localhost"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(method: &str, target: &str, fields: &[(&str, &str)]) -> Request<()> {
        let request = Request::builder().method(method).uri(target);
        let request =
            fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        request.body(()).expect("a request")
    }

    fn with_host(host: &str, hosts: Hosts) -> Result<(), Foreign> {
        check(&request("GET", "/routes", &[("host", host)]), hosts)
    }

    #[test]
    fn only_names_of_this_machine_are_accepted() {
        for host in [
            "localhost",
            "LocalHost:9901",
            "127.0.0.1",
            "127.0.0.1:9901",
            "127.8.9.1:1",
            "[::1]",
            "[::1]:9901",
            "[::ffff:127.0.0.1]:9901",
        ] {
            assert_eq!(with_host(host, Hosts::Loopback), Ok(()), "{host}");
            assert_eq!(with_host(host, Hosts::Addresses), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "evil.example:9901",
            "localhost.evil.example",
            "localhost.",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "",
            "[::1",
            "::1",
            "0x7f000001",
            "2130706433",
            "127.1",
            "127.0.0.1:9901:1",
            "localhost,evil",
        ] {
            assert_eq!(with_host(host, Hosts::Loopback), Err(Foreign::Host), "{host}");
            assert_eq!(with_host(host, Hosts::Addresses), Err(Foreign::Host), "{host}");
        }
        for host in ["10.0.0.1:9903", "0.0.0.0", "[fd00::1]:9903", "169.254.169.254"] {
            assert_eq!(with_host(host, Hosts::Loopback), Err(Foreign::Host), "{host}");
            assert_eq!(with_host(host, Hosts::Addresses), Ok(()), "{host}");
        }
    }

    #[test]
    fn exactly_one_host_is_accepted() {
        let check_target = |target: &str, fields: &[(&str, &str)]| {
            check(&request("GET", target, fields), Hosts::Loopback)
        };
        assert_eq!(check_target("/", &[]), Err(Foreign::Host));
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(check_target("/", &twice), Err(Foreign::Host));
        let one = [("host", "localhost")];
        assert_eq!(check_target("http://evil.example/", &one), Err(Foreign::Host));
        assert_eq!(check_target("http://localhost:9901/", &one), Ok(()));
    }

    #[test]
    fn pages_can_neither_read_nor_send_commands() {
        let check = |method: &str, field: (&str, &str)| {
            check(&request(method, "/x", &[("host", "localhost:9901"), field]), Hosts::Loopback)
        };
        for origin in ["http://localhost:9901", "https://evil.example", "null"] {
            assert_eq!(check("GET", ("origin", origin)), Err(Foreign::Page));
            assert_eq!(check("POST", ("origin", origin)), Err(Foreign::Page));
        }
        for site in ["cross-site", "same-site", "Cross-Site", ""] {
            assert_eq!(check("GET", ("sec-fetch-site", site)), Err(Foreign::Page));
        }
        for site in ["none", "same-origin"] {
            assert_eq!(check("GET", ("sec-fetch-site", site)), Ok(()));
            assert_eq!(check("POST", ("sec-fetch-site", site)), Err(Foreign::Page));
        }
        assert_eq!(check("POST", ("user-agent", "curl")), Ok(()));
    }
}
