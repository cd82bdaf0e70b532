//! Sessions that the portal must revalidate at the provider.

use std::time::SystemTime;

use http::{HeaderName, HeaderValue, Method};
use portcullis_identity::portal;
use portcullis_identity::session::Session;

use crate::normalize::Request;

static SEC_FETCH_MODE: HeaderName = HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: HeaderName = HeaderName::from_static("sec-fetch-dest");

/// The redirect to the portal for a session that must be revalidated; `None` unless the request is
/// a browser navigation, which returns after the redirect.
pub(super) fn redirect(
    request: &Request,
    session: Option<&Session>,
    now: SystemTime,
) -> Option<HeaderValue> {
    if !session?.is_stale(now) {
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
    HeaderValue::try_from(portal::login_path(request.target.as_str())).ok()
}

#[cfg(test)]
mod tests {
    use portcullis_identity::session::testing::{at, session};

    use super::*;
    use crate::normalize::tests::read;

    const NAVIGATION: &str = "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: document";

    fn location(line: &str, headers: &str, session: Option<&Session>, now: u64) -> Option<String> {
        let request = read(&format!("{line} HTTP/1.1\n{headers}")).unwrap();
        redirect(&request, session, at(now)).map(|location| location.to_str().unwrap().to_owned())
    }

    #[test]
    fn navigations_with_a_stale_session_are_redirected_to_the_portal() {
        let session = session("ann", 1000);
        let location = |line, headers, now| location(line, headers, Some(&session), now);
        assert_eq!(
            location("GET /a?b=c", NAVIGATION, 1300).as_deref(),
            Some("/.well-known/portcullis/login?to=%2Fa%3Fb%3Dc")
        );
        assert_eq!(location("GET /a?b=c", NAVIGATION, 1299), None);
        assert_eq!(location("POST /a?b=c", NAVIGATION, 1300), None, "the body would be lost");
        for headers in [
            "Host: a",
            "Host: a\nsec-fetch-mode: cors\nsec-fetch-dest: empty",
            "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: iframe",
        ] {
            assert_eq!(location("GET /a?b=c", headers, 1300), None, "{headers}");
        }
    }

    #[test]
    fn requests_without_a_session_are_not_redirected() {
        assert_eq!(location("GET /", NAVIGATION, None, 1300), None);
    }
}
