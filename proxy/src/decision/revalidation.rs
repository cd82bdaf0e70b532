//! Sessions that the portal must revalidate at the provider.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method};
use portcullis_identity::authenticator::Authenticated;
use portcullis_identity::portal;

use crate::normalize::Request;

static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The redirect to the portal for a session that must be revalidated; `None` unless the request is
/// a browser navigation, which returns after the redirect, to a path that is short enough for that.
pub(super) fn redirect(
    request: &Request,
    authenticated: &Authenticated,
    now: SystemTime,
) -> Option<HeaderValue> {
    if authenticated.revalidate_at? > now {
        return None;
    }
    let is = |name, value: &str| {
        request.headers.get(name).is_some_and(|found| found.as_bytes() == value.as_bytes())
    };
    let navigates = request.method == Method::GET
        && is(&SEC_FETCH_MODE, "navigate")
        && is(&SEC_FETCH_DEST, "document");
    if !navigates {
        return None;
    }
    HeaderValue::try_from(portal::revalidation_path(request.target.as_str())?).ok()
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::normalize::tests::read;

    const NAVIGATION: &str = "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: document";

    fn location(line: &str, headers: &str, is_due: bool) -> Option<String> {
        let request = read(&format!("{line} HTTP/1.1\n{headers}")).unwrap();
        let revalidate_at = Some(UNIX_EPOCH + Duration::from_secs(1000));
        let authenticated = Authenticated { revalidate_at, ..Authenticated::default() };
        let now = UNIX_EPOCH + Duration::from_secs(if is_due { 1000 } else { 999 });
        let location = redirect(&request, &authenticated, now);
        location.map(|location| location.to_str().unwrap().to_owned())
    }

    #[test]
    fn navigations_with_a_stale_session_are_redirected_to_the_portal() {
        assert_eq!(
            location("GET /a?b=c", NAVIGATION, true).as_deref(),
            Some("/.well-known/portcullis/login?to=%2Fa%3Fb%3Dc")
        );
        assert_eq!(location("GET /a?b=c", NAVIGATION, false), None);
        assert_eq!(location("POST /a?b=c", NAVIGATION, true), None, "the body would be lost");
        for headers in [
            "Host: a",
            "Host: a\nsec-fetch-mode: cors\nsec-fetch-dest: empty",
            "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: iframe",
        ] {
            assert_eq!(location("GET /a?b=c", headers, true), None, "{headers}");
        }
        let long = format!("GET /{}", "a".repeat(5000));
        assert_eq!(location(&long, NAVIGATION, true), None, "the user would not come back");
    }

    #[test]
    fn requests_without_a_session_are_not_redirected() {
        let request = read(&format!("GET / HTTP/1.1\n{NAVIGATION}")).unwrap();
        assert_eq!(redirect(&request, &Authenticated::default(), SystemTime::now()), None);
    }
}
