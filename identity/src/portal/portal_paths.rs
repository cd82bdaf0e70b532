//! The requests that the portal serves.

use portcullis_config::settings::access::LoginSettings;

use super::portal_origin::PortalOrigin;
use super::{failure, handoff};

/// The portal's host, and its paths on every host.
#[derive(Debug)]
pub struct PortalPaths(PortalOrigin);

// === impl PortalPaths ===

impl PortalPaths {
    /// Reads the settings.
    #[must_use]
    pub fn new(zone: &str, login: &LoginSettings) -> Self {
        Self(PortalOrigin::new(zone, login))
    }

    /// Whether a request is for the portal, whether or not its host is known.
    #[must_use]
    pub fn is_for(&self, host: &str, path: &str) -> bool {
        self.0.is_portal(host) || handoff::is_everywhere(path)
    }

    /// Returns where to redirect a request that cannot be served, if its URL has a code, which must
    /// not become the URL of a page.
    #[must_use]
    pub fn without_code(&self, host: &str, path: &str, query: &str) -> Option<&'static str> {
        match path {
            _ if query.is_empty() => None,
            "/callback" | handoff::HANDOFF if self.0.is_portal(host) => {
                Some(failure::BEGUN_ELSEWHERE)
            }
            handoff::SESSION => Some(handoff::SESSION),
            _ => None,
        }
    }

    /// Returns what the portal does with a request and its status, as far as that does not depend
    /// on cookies and the provider; `None` if it is not for the portal.
    #[must_use]
    pub fn preview(&self, host: &str, path: &str) -> Option<(&'static str, u16)> {
        if self.0.is_portal(host) {
            return Some(match path {
                "/" | "/logout" => ("the login portal responds", 200),
                "/login" => ("the portal redirects users without a session to the provider", 303),
                "/callback" => ("the provider redirects users here, who are redirected on", 303),
                handoff::HANDOFF => ("hosts redirect users here, who are redirected on", 303),
                failure::PATH => ("the portal explains why a login failed", 400),
                "/backchannel-logout" => {
                    ("the portal accepts only requests from the provider here", 400)
                }
                _ => ("the portal has no such page", 404),
            });
        }
        match path {
            handoff::LOGIN => Some(("on every host, logins start here", 303)),
            handoff::SESSION => Some((
                "on every host, logins end here with a code of the portal; without one the \
                 response is the hidden answer, and with an invalid one a redirect to it",
                404,
            )),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{PORTAL_HOST, SHOP};
    use super::*;

    #[test]
    fn preview_returns_the_status_of_the_portal_s_requests() {
        let paths = PortalPaths::new("apps.example.com", &crate::session::testing::settings());
        for (host, path, status) in [
            (PORTAL_HOST, "/", Some(200)),
            (PORTAL_HOST, "/login", Some(303)),
            (PORTAL_HOST, "/nothing", Some(404)),
            (SHOP, "/.well-known/portcullis/login", Some(303)),
            ("nothing.example", "/.well-known/portcullis/session", Some(404)),
            (SHOP, "/login", None),
        ] {
            assert_eq!(paths.preview(host, path).map(|(_, status)| status), status, "{path}");
            assert_eq!(paths.is_for(host, path), status.is_some(), "{path}");
        }
    }
}
