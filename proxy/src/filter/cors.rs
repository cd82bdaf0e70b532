//! Cross-origin resource sharing (Fetch standard, "CORS protocol"): which scripts may read a
//! response.
//!
//! Only responses to admitted requests get these fields. Preflights are answered before the host is
//! looked up, the same on every host, by the configuration alone: an `Origin` can be forged, so
//! that its answer must reveal nothing.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use portcullis_config::model::OriginSet;
use portcullis_config::snapshot::filter::Filter;

use crate::normalize::Request;

/// What backends may not set if the gateway does: above all, that cookies are sent.
static BACKEND: [HeaderName; 6] = [
    ACCESS_CONTROL_ALLOW_CREDENTIALS,
    ACCESS_CONTROL_ALLOW_HEADERS,
    ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS,
    ACCESS_CONTROL_MAX_AGE,
];

/// The origin of a request, if a rule has a CORS filter.
pub(crate) fn origin(filters: &[Filter], request: &HeaderMap) -> Option<HeaderValue> {
    let has_cors = filters.iter().any(|filter| matches!(filter, Filter::Cors(_)));
    if has_cors { single(request, &ORIGIN).cloned() } else { None }
}

/// Sets the fields of a response to a request from `origin`.
pub(crate) fn apply(filters: &[Filter], origin: Option<&HeaderValue>, headers: &mut HeaderMap) {
    for filter in filters {
        let Filter::Cors(cors) = filter else { continue };
        for name in &BACKEND {
            headers.remove(name);
        }
        // For other origins, too: a cache must not give them this response.
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin.filter(|origin| contains(&cors.allow_origins, origin)) {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            // All, because no cookies are sent.
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("*"));
        }
    }
}

/// The origin of a request that is a preflight of one of `origins`.
pub(crate) fn preflight(origins: &OriginSet, request: &Request) -> Option<HeaderValue> {
    if origins.is_empty() || request.method != Method::OPTIONS {
        return None;
    }
    single(&request.headers, &ACCESS_CONTROL_REQUEST_METHOD)?;
    single(&request.headers, &ORIGIN).filter(|origin| contains(origins, origin)).cloned()
}

/// The fields of the answer to a preflight: the same for every host, path, method and header. `*`
/// does not include `Authorization`.
pub(crate) fn allow(origin: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    let methods = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, *";
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(methods));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("Authorization, *"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    headers
}

fn contains(origins: &OriginSet, origin: &HeaderValue) -> bool {
    origin.to_str().is_ok_and(|origin| origins.contains(origin))
}

fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h HeaderValue> {
    let mut values = headers.get_all(name).iter();
    values.next().filter(|_| values.next().is_none())
}

#[cfg(test)]
mod tests {
    use portcullis_config::snapshot::filter::Cors;

    use super::*;
    use crate::normalize::tests::read;

    const ORIGIN: &str = "https://app.example.com";

    fn set(list: &[&str]) -> OriginSet {
        list.iter().map(|text| text.parse().unwrap()).collect::<Vec<_>>().into_iter().collect()
    }

    fn applied(origin: Option<&'static str>) -> HeaderMap {
        let filters = [Filter::Cors(Cors { allow_origins: set(&[ORIGIN]).into() })];
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        headers.insert(VARY, HeaderValue::from_static("Accept"));
        apply(&filters, origin.map(HeaderValue::from_static).as_ref(), &mut headers);
        headers
    }

    #[test]
    fn scripts_of_allowed_origins_may_read_the_response() {
        let headers = applied(Some(ORIGIN));
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_ORIGIN], ORIGIN);
        assert_eq!(headers[ACCESS_CONTROL_EXPOSE_HEADERS], "*");
        for origin in [None, Some("null"), Some("https://evil.example")] {
            let headers = applied(origin);
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), "{origin:?}");
        }
    }

    #[test]
    fn cookies_are_never_allowed_and_caches_are_warned() {
        for origin in [None, Some(ORIGIN), Some("https://evil.example")] {
            let headers = applied(origin);
            assert!(!headers.contains_key(ACCESS_CONTROL_ALLOW_CREDENTIALS), "{origin:?}");
            let vary: Vec<_> = headers.get_all(VARY).iter().collect();
            assert_eq!(vary, ["Accept", "Origin"], "{origin:?}");
        }
    }

    #[test]
    fn a_response_of_a_rule_without_the_filter_is_unchanged() {
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        let before = headers.clone();
        apply(&[], Some(&HeaderValue::from_static(ORIGIN)), &mut headers);
        assert_eq!(headers, before);
    }

    #[test]
    fn only_preflights_of_listed_origins_are_answered() {
        let found = |text: &str| {
            preflight(&set(&[ORIGIN]), &read(&format!("{text}\nHost: a")).unwrap()).is_some()
        };
        let asked = format!("Origin: {ORIGIN}\nAccess-Control-Request-Method: PUT");
        assert!(found(&format!("OPTIONS /a HTTP/1.1\n{asked}")));
        assert!(found(&format!("OPTIONS * HTTP/1.1\n{asked}")));
        for text in [
            format!("GET /a HTTP/1.1\n{asked}"),
            format!("OPTIONS /a HTTP/1.1\nOrigin: {ORIGIN}"),
            "OPTIONS /a HTTP/1.1\nAccess-Control-Request-Method: PUT".to_owned(),
            format!("OPTIONS /a HTTP/1.1\n{asked}\nOrigin: {ORIGIN}"),
            "OPTIONS / HTTP/1.1\nOrigin: null\nAccess-Control-Request-Method: PUT".to_owned(),
        ] {
            assert!(!found(&text), "{text}");
        }
    }
}
