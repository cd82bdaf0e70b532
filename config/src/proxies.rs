//! Forward proxies for outgoing connections, from the environment.
//!
//! The variables are read as curl does: `HTTPS_PROXY`, else `ALL_PROXY`, and `NO_PROXY` with the
//! exceptions, each also in lower case; the first that is not empty counts. Loopback addresses are
//! always exceptions. There is no variable for plain HTTP, which is used for loopback only.

use std::net::IpAddr;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

/// Decides which connections go through a proxy.
#[derive(Debug)]
pub struct Proxies {
    matcher: Matcher,
    /// The variable that should name the proxy and does not.
    invalid: Option<&'static str>,
}

/// A variable does not hold the URL of a proxy. The value is not shown: it may contain a password.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not the URL of a proxy, such as `http://proxy.example.com:3128`")]
pub struct InvalidProxy(&'static str);

// === impl Proxies ===

impl Proxies {
    /// Reads the process's environment.
    pub fn from_environment() -> Self {
        Self::read(|name| std::env::var(name).ok())
    }

    /// Reads an environment in which variables have these values.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Self {
        let first = |names: &[&'static str]| {
            let set = |name: &&'static str| {
                variable(name).filter(|value| !value.is_empty()).map(|value| (*name, value))
            };
            names.iter().find_map(set).unwrap_or_default()
        };
        let (name, url) = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]);
        let (_, exceptions) = first(&["NO_PROXY", "no_proxy"]);
        let invalid = (!url.is_empty() && !is_proxy(&url)).then_some(name);
        // Any name works here: only whether the proxy would be used matters.
        let url = if invalid.is_some() { "invalid" } else { &*url };
        Self { matcher: Matcher::builder().https(url).no(exceptions).build(), invalid }
    }

    /// The proxy for an `https` URL, with its credentials; `None` for a direct connection.
    ///
    /// # Errors
    /// The environment requires a proxy for the URL, and its value is not valid.
    pub fn proxy(&self, url: &Uri) -> Result<Option<Intercept>, InvalidProxy> {
        let direct = url.host().is_none_or(is_loopback);
        let proxy = if direct { None } else { self.matcher.intercept(url) };
        match (self.invalid, proxy) {
            (Some(name), Some(_)) => Err(InvalidProxy(name)),
            (_, proxy) => Ok(proxy),
        }
    }
}

/// Whether a URL's host is this machine, by the name `localhost` or a loopback address.
pub fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// Whether this is the URL of an HTTP proxy, with or without a scheme. Nothing may follow its port:
/// part of a password with one of these characters would be parsed, and shown, as the host.
fn is_proxy(url: &str) -> bool {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let any = Uri::from_static("https://host");
    let proxy = Matcher::builder().https(url).build().intercept(&any);
    !rest.contains(['/', '?', '#'])
        && rest.matches('@').count() <= 1
        && proxy.is_some_and(|proxy| {
            let authority = proxy.uri().authority().map_or("", |authority| authority.as_str());
            let host = proxy.uri().host().unwrap_or_default();
            matches!(proxy.uri().scheme_str(), Some("http" | "https"))
                && !host.is_empty()
                && (proxy.uri().port_u16().is_some() || authority == host)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(https: &str, exceptions: &str) -> Proxies {
        Proxies::read(|name| match name {
            "HTTPS_PROXY" => Some(https.to_owned()),
            "NO_PROXY" => Some(exceptions.to_owned()),
            _ => None,
        })
    }

    fn proxy(proxies: &Proxies, url: &str) -> Option<String> {
        let proxy = proxies.proxy(&url.parse().unwrap()).unwrap();
        proxy.map(|proxy| proxy.uri().to_string())
    }

    #[test]
    fn https_goes_through_the_proxy_and_plain_http_does_not() {
        for url in ["http://proxy.test:3128", "http://proxy.test:3128/", "proxy.test:3128"] {
            let proxies = proxies(url, "");
            let expected = Some("http://proxy.test:3128/".to_owned());
            assert_eq!(proxy(&proxies, "https://id.test/keys"), expected);
            assert_eq!(proxy(&proxies, "http://id.test/keys"), None);
        }
        assert_eq!(proxy(&proxies("", ""), "https://id.test/"), None);
    }

    #[test]
    fn the_first_variable_that_is_not_empty_counts() {
        let of = |set: &[(&str, &str)]| {
            let proxies = Proxies::read(|name| {
                let found = set.iter().find(|(other, _)| *other == name);
                found.map(|(_, value)| (*value).to_owned())
            });
            proxy(&proxies, "https://id.test/")
        };
        let expected = Some("http://a/".to_owned());
        assert_eq!(of(&[("HTTPS_PROXY", "a"), ("https_proxy", "b"), ("ALL_PROXY", "c")]), expected);
        assert_eq!(of(&[("HTTPS_PROXY", ""), ("https_proxy", "a"), ("ALL_PROXY", "c")]), expected);
        assert_eq!(of(&[("all_proxy", "a"), ("HTTP_PROXY", "b")]), expected);
        assert_eq!(of(&[("HTTP_PROXY", "b")]), None);
        assert_eq!(of(&[("all_proxy", "a"), ("no_proxy", "id.test")]), None);
    }

    #[test]
    fn exceptions_are_domains_with_their_subdomains_addresses_and_networks() {
        let through = proxies("proxy.test:3128", ".svc, id.test,10.0.0.0/8,192.0.2.1,fd00::/8");
        for url in [
            "https://kubernetes.default.svc/",
            "https://id.test/",
            "https://eu.ID.test:8443/",
            "https://10.1.2.3/",
            "https://192.0.2.1:6443/",
            "https://[fd00::1]/",
        ] {
            assert_eq!(proxy(&through, url), None, "{url}");
        }
        for url in ["https://notid.test/", "https://192.0.2.2/", "https://[2001:db8::1]/"] {
            assert!(proxy(&through, url).is_some(), "{url}");
        }
        assert_eq!(proxy(&proxies("http://proxy.test", "*"), "https://id.test/"), None);
    }

    #[test]
    fn loopback_is_always_an_exception() {
        let proxies = proxies("http://proxy.test:3128", "");
        for url in ["https://localhost/", "https://127.1.2.3:8443/", "https://[::1]/"] {
            assert_eq!(proxy(&proxies, url), None, "{url}");
        }
    }

    #[test]
    fn credentials_are_read_and_never_shown() {
        let proxies = proxies("http://ann:s%40crt@proxy.test:3128", "");
        let found = proxies.proxy(&Uri::from_static("https://id.test/")).unwrap().unwrap();
        // RFC 7617 §2: `ann:s@crt`.
        assert_eq!(found.basic_auth().unwrap(), "Basic YW5uOnNAY3J0");
        assert!(found.basic_auth().unwrap().is_sensitive());
        for shown in [format!("{proxies:?}"), format!("{found:?}"), found.uri().to_string()] {
            assert!(!shown.contains("ann") && !shown.contains("crt"), "{shown}");
        }
    }

    #[test]
    fn with_an_invalid_proxy_only_exceptions_are_connected_to() {
        for url in [
            "ftp://proxy",
            "socks5://proxy:1080",
            "http://",
            "http://:3128",
            "http://proxy:port",
            "/proxy",
            "http://ann:1#crt@proxy:3128",
            "http://ann:1/crt@proxy:3128",
            "http://ann:1?crt@proxy:3128",
            "http://ann:1@crt@proxy:3128",
            "http://ann:s crt@proxy:3128",
        ] {
            let proxies = proxies(url, "id.test");
            let refused = proxies.proxy(&Uri::from_static("https://other.test/"));
            let message = refused.map(|_| url).unwrap_err().to_string();
            assert!(
                message.starts_with("HTTPS_PROXY is not the URL") && !message.contains("crt"),
                "{message}"
            );
            assert_eq!(proxy(&proxies, "https://id.test/"), None);
            assert_eq!(proxy(&proxies, "https://localhost/"), None);
        }
    }
}
