//! `Strict-Transport-Security` (RFC 6797): the same on all responses over TLS, or on none.
//!
//! It does not depend on the route, host or backend, so it reveals nothing about them. It replaces
//! the backend's field: the gateway replies locally for the same hosts (to denied callers, or
//! without a ready pod), and browsers apply the last value they received.

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, HeaderValue};
use portcullis_config::settings::HstsSettings;

/// The field of all responses of a worker.
pub(crate) struct Hsts(Option<HeaderValue>);

// === impl Hsts ===

impl Hsts {
    /// Creates the field. Without settings, responses keep the field of the backend.
    pub(crate) fn new(settings: Option<&HstsSettings>) -> Self {
        Self(settings.and_then(|settings| HeaderValue::try_from(directives(settings)).ok()))
    }

    /// Sets the field of a response if it is sent over TLS (`tls`). Over plain HTTP, it must not be
    /// set (RFC 6797 §7.2); a backend's field is left to a TLS terminator in front.
    pub(crate) fn apply(&self, tls: bool, headers: &mut HeaderMap) {
        if tls && let Some(value) = &self.0 {
            headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
        }
    }

    /// Removes a backend's field from an interim response (1xx), where [`apply`](Self::apply) would
    /// replace it: the field belongs to the final one.
    pub(crate) fn remove(&self, tls: bool, headers: &mut HeaderMap) {
        if tls && self.0.is_some() {
            headers.remove(STRICT_TRANSPORT_SECURITY);
        }
    }
}

/// Formats the directives (RFC 6797 §6.1, and `preload` as browsers define it).
fn directives(settings: &HstsSettings) -> String {
    let mut directives = format!("max-age={}", settings.max_age.as_secs());
    if settings.include_subdomains {
        directives.push_str("; includeSubDomains");
    }
    if settings.preload {
        directives.push_str("; preload");
    }
    directives
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn values(settings: Option<&HstsSettings>, tls: bool, backend: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in backend {
            headers.append(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(value));
        }
        Hsts::new(settings).apply(tls, &mut headers);
        headers
            .get_all(STRICT_TRANSPORT_SECURITY)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn directives_follow_the_settings() {
        let plain = HstsSettings { max_age: Duration::from_secs(3600), ..HstsSettings::default() };
        assert_eq!(values(Some(&plain), true, &[]), ["max-age=3600"]);
        let whole =
            HstsSettings { include_subdomains: true, preload: true, ..HstsSettings::default() };
        assert_eq!(
            values(Some(&whole), true, &[]),
            ["max-age=63072000; includeSubDomains; preload"]
        );
        let forget = HstsSettings { max_age: Duration::ZERO, ..HstsSettings::default() };
        assert_eq!(values(Some(&forget), true, &[]), ["max-age=0"]);
    }

    #[test]
    fn fields_of_the_backend_are_replaced() {
        let backend = ["max-age=1", "max-age=2; preload"];
        let values = values(Some(&HstsSettings::default()), true, &backend);
        assert_eq!(values, ["max-age=63072000"]);
    }

    #[test]
    fn without_settings_or_tls_responses_are_unchanged() {
        let backend = ["max-age=1"];
        assert_eq!(values(None, true, &backend), backend);
        assert_eq!(values(Some(&HstsSettings::default()), false, &backend), backend);
        assert!(values(Some(&HstsSettings::default()), false, &[]).is_empty());
    }
}
