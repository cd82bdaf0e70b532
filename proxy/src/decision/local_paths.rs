//! What the gateway serves itself, on every host alike, known or not.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use portcullis_config::model::OriginSet;
use portcullis_config::settings::{HttpListenerSettings, PlainHttp, RedirectPorts, Settings};
use portcullis_identity::portal::PortalPaths;

use crate::access::assertion::JWKS_PATH;
use crate::certificates::acme::challenges::Challenges;
use crate::filter::cors;
use crate::local_reply;
use crate::normalize::{Authority, Kind, Request};

/// Finds what the gateway serves itself.
pub(crate) struct LocalPaths {
    challenges: Arc<Challenges>,
    /// The origins whose preflights are answered.
    cors_origins: OriginSet,
    /// The ports of HTTPS, if plain HTTP is redirected to them.
    redirect: Option<HttpsPorts>,
    /// `None` without login.
    portal: Option<PortalPaths>,
    /// Whether the key set of assertions is served.
    jwks: bool,
}

/// What the gateway serves itself.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum LocalPath {
    /// The response to an ACME challenge (RFC 8555 §8.3).
    Challenge(Bytes),
    /// Plain HTTP is redirected to this location.
    HttpsRedirect(HeaderValue),
    /// The answer to a preflight of this origin.
    Preflight(HeaderValue),
    /// A page or a step of the login portal.
    Portal,
    /// The key set that backends verify assertions with.
    Jwks,
    /// The hidden answer: the path is the gateway's, and has no such method or protocol.
    Hidden,
}

/// The public ports of HTTPS.
struct HttpsPorts {
    default: u16,
    /// For clients of other public ports of HTTP.
    others: Vec<RedirectPorts>,
}

// === impl HttpsPorts ===

impl HttpsPorts {
    fn new(http: &HttpListenerSettings) -> Self {
        Self { default: http.redirect_port, others: http.redirect_ports.clone() }
    }

    fn of(&self, authority: &Authority) -> u16 {
        let same = |ports: &&RedirectPorts| Some(ports.http.get()) == authority.port;
        self.others.iter().find(same).map_or(self.default, |ports| ports.https.get())
    }
}

// === impl LocalPaths ===

impl LocalPaths {
    pub(crate) fn new(settings: &Settings, challenges: Arc<Challenges>) -> Self {
        let http = &settings.listeners.http;
        let login = settings.access.login.as_ref();
        Self {
            challenges,
            cors_origins: settings.cors.origins.iter().cloned().collect(),
            redirect: (http.mode == PlainHttp::Redirect).then(|| HttpsPorts::new(http)),
            portal: login.map(|login| PortalPaths::new(&settings.zone, login)),
            jwks: settings.access.assertion.enabled,
        }
    }

    /// Returns what the gateway serves itself for a request; `None` if it is to be routed.
    pub(crate) fn find(&self, request: &Request, tls: bool) -> Option<LocalPath> {
        let (host, path) = (request.authority.host.as_str(), request.target.path());
        if !tls {
            if let Some(page) = self.challenges.page(path) {
                return Some(LocalPath::Challenge(page));
            }
            if let Some(ports) = &self.redirect {
                let target = request.target.as_str();
                let port = ports.of(&request.authority);
                let location = local_reply::https_location(&request.authority, target, port);
                return Some(LocalPath::HttpsRedirect(location));
            }
        }
        if let Some(origin) = cors::preflight(&self.cors_origins, request) {
            return Some(LocalPath::Preflight(origin));
        }
        let is_http = request.kind == Kind::Http;
        if self.portal.as_ref().is_some_and(|portal| portal.is_for(host, path)) {
            return Some(if is_http { LocalPath::Portal } else { LocalPath::Hidden });
        }
        if self.jwks && path == JWKS_PATH {
            let is_read = matches!(request.method, Method::GET | Method::HEAD);
            return Some(if is_read && is_http { LocalPath::Jwks } else { LocalPath::Hidden });
        }
        None
    }

    /// Returns where to redirect a request that the portal cannot serve, if its URL has a code.
    pub(crate) fn without_code(&self, request: &Request) -> Option<HeaderValue> {
        let (host, target) = (request.authority.host.as_str(), &request.target);
        let query = target.query().unwrap_or_default();
        self.portal.as_ref()?.without_code(host, target.path(), query).map(HeaderValue::from_static)
    }

    /// Returns what the portal does with a request and its status; `None` if it is not for the
    /// portal.
    pub(crate) fn preview_portal(&self, request: &Request) -> Option<(&'static str, u16)> {
        self.portal.as_ref()?.preview(request.authority.host.as_str(), request.target.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::tests::read;

    fn local_paths(mode: &str) -> LocalPaths {
        let settings = serde_json::json!({
            "zone": "example.com",
            "source": { "directory": "." },
            "listeners": { "http": { "mode": mode } },
            "access": { "login": { "issuer": "github", "clientId": "gateway" } },
        });
        let challenges = Arc::<Challenges>::default();
        challenges.open_http("token", "token.key");
        LocalPaths::new(&serde_json::from_value(settings).unwrap(), challenges)
    }

    fn found(paths: &LocalPaths, tls: bool, text: &str) -> Option<LocalPath> {
        paths.find(&read(text).unwrap(), tls)
    }

    #[test]
    fn the_gateway_s_own_paths_are_served_on_every_host() {
        let paths = local_paths("serve");
        let challenge = Some(LocalPath::Challenge("token.key".into()));
        for host in ["shop--dev.example.com", "nothing.example.com", "192.0.2.1"] {
            let get =
                |tls, path: &str| found(&paths, tls, &format!("GET {path} HTTP/1.1\nHost: {host}"));
            assert_eq!(get(false, "/.well-known/acme-challenge/token"), challenge);
            assert_eq!(get(true, "/.well-known/acme-challenge/token"), None);
            assert_eq!(get(false, "/.well-known/acme-challenge/other"), None);
            assert_eq!(get(true, "/.well-known/portcullis/login"), Some(LocalPath::Portal));
            assert_eq!(get(true, "/.well-known/portcullis/session?c=d"), Some(LocalPath::Portal));
            assert_eq!(get(true, JWKS_PATH), Some(LocalPath::Jwks));
            assert_eq!(get(true, "/.well-known/portcullis/other"), None);
            assert_eq!(get(true, "/"), None);
        }
    }

    #[test]
    fn other_methods_and_protocols_of_these_paths_get_the_hidden_answer() {
        let paths = local_paths("serve");
        for text in [
            "POST /.well-known/portcullis/jwks.json HTTP/1.1\nHost: a",
            "GET /.well-known/portcullis/jwks.json HTTP/1.1\nHost: a\nContent-Type: application/grpc",
            "POST /.well-known/portcullis/login HTTP/1.1\nHost: a\nContent-Type: application/grpc",
        ] {
            assert_eq!(found(&paths, true, text), Some(LocalPath::Hidden), "{text}");
        }
    }

    #[test]
    fn plain_http_is_redirected_except_for_challenges() {
        let paths = local_paths("redirect");
        let location = HeaderValue::from_static("https://a/b?c");
        let redirect = Some(LocalPath::HttpsRedirect(location));
        assert_eq!(found(&paths, false, "GET /b?c HTTP/1.1\nHost: a"), redirect);
        assert_eq!(found(&paths, true, "GET /b?c HTTP/1.1\nHost: a"), None);
        let challenge = "GET /.well-known/acme-challenge/token HTTP/1.1\nHost: a";
        assert!(matches!(found(&paths, false, challenge), Some(LocalPath::Challenge(_))));
    }
}
