//! `Strict-Transport-Security` (RFC 6797): the same on every answer over TLS, or on none.
//!
//! Nothing of the route, of the host, or of what a backend says goes into it, so it tells nothing
//! of what is behind the gateway. What a backend says is replaced: the gateway answers for the same
//! hosts (to whoever is not let in, or when a pod is away), and a browser goes by what it heard
//! last.

use http::header::STRICT_TRANSPORT_SECURITY;
use http::{HeaderMap, HeaderValue};
use portcullis_config::settings::HstsSettings;

/// What all answers of a worker say.
pub(crate) struct Hsts(Option<HeaderValue>);

// === impl Hsts ===

impl Hsts {
    /// `None` leaves answers as they are, with what backends say.
    pub(crate) fn new(settings: Option<&HstsSettings>) -> Self {
        Self(settings.and_then(|settings| HeaderValue::try_from(directives(settings)).ok()))
    }

    /// Writes the field into an answer over TLS (`tls`). One over plain HTTP has none of ours (RFC
    /// 6797 §7.2); what a backend says there is left to whoever ends TLS in front.
    pub(crate) fn tell(&self, tls: bool, headers: &mut HeaderMap) {
        if tls && let Some(value) = &self.0 {
            headers.insert(STRICT_TRANSPORT_SECURITY, value.clone());
        }
    }
}

/// RFC 6797 §6.1; `preload` is browsers' own.
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

    fn told(settings: Option<&HstsSettings>, tls: bool, backend: &[&'static str]) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in backend {
            headers.append(STRICT_TRANSPORT_SECURITY, HeaderValue::from_static(value));
        }
        Hsts::new(settings).tell(tls, &mut headers);
        headers
            .get_all(STRICT_TRANSPORT_SECURITY)
            .iter()
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn what_is_told_is_what_the_settings_say() {
        let plain = HstsSettings { max_age: Duration::from_secs(3600), ..HstsSettings::default() };
        assert_eq!(told(Some(&plain), true, &[]), ["max-age=3600"]);
        let whole =
            HstsSettings { include_subdomains: true, preload: true, ..HstsSettings::default() };
        assert_eq!(told(Some(&whole), true, &[]), ["max-age=63072000; includeSubDomains; preload"]);
        let forget = HstsSettings { max_age: Duration::ZERO, ..HstsSettings::default() };
        assert_eq!(told(Some(&forget), true, &[]), ["max-age=0"]);
    }

    #[test]
    fn one_field_takes_the_place_of_all_that_a_backend_says() {
        let told = told(Some(&HstsSettings::default()), true, &["max-age=1", "max-age=2; preload"]);
        assert_eq!(told, ["max-age=63072000"]);
    }

    #[test]
    fn without_settings_and_without_tls_answers_stay_as_they_are() {
        let backend = ["max-age=1"];
        assert_eq!(told(None, true, &backend), backend);
        assert_eq!(told(Some(&HstsSettings::default()), false, &backend), backend);
        assert!(told(Some(&HstsSettings::default()), false, &[]).is_empty());
    }
}
