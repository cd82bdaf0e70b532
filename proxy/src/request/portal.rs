//! Requests for the portal: buffered in whole, because they are small, and served by the control
//! runtime.

use std::future::poll_fn;
use std::time::SystemTime;

use bytes::BytesMut;
use http::{HeaderValue, Method, StatusCode, header};
use portcullis_identity::fair_queue::Full;
use portcullis_identity::portal::{self, PortalClient, PortalRequest};
use portcullis_identity::session::Session;

use super::context::{LogContext, RequestContext};
use super::reply::Reply;
use crate::exchange::{Frame, Respond, ResponseHead, Source};
use crate::normalize::{Kind, Request};
use crate::proxy_headers;

static SEC_FETCH_MODE: http::HeaderName = http::HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: http::HeaderName = http::HeaderName::from_static("sec-fetch-dest");

/// The redirect to the portal for a session that must be revalidated; `None` unless the request is
/// a browser navigation, which returns after the redirect.
pub(super) fn revalidation_redirect(
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

// === impl RequestContext ===

impl RequestContext<'_> {
    pub(super) async fn portal<B: Source, R: Respond>(
        &self,
        portal: &PortalClient,
        request: &Request,
        body: &mut B,
        respond: &mut R,
    ) -> Reply {
        if !matches!(request.kind, Kind::Http) {
            return self.hide(request, None, respond);
        }
        let reading =
            tokio::time::timeout(self.worker.settings.timeouts.stream_idle, read_body(body));
        let log = LogContext { request: Some(request), ..LogContext::default() };
        let body = match reading.await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => return self.fail(status, log, respond),
            Err(_late) => return self.fail(StatusCode::REQUEST_TIMEOUT, log, respond),
        };
        let portal_request = PortalRequest {
            method: request.method.clone(),
            host: request.authority.host.as_str().into(),
            path: request.target.path().into(),
            query: request.target.query().unwrap_or_default().into(),
            headers: request.headers.clone(),
            body: body.freeze(),
        };
        let client = proxy_headers::client(&request.headers, self.peer, &self.worker.proxy_headers);
        match portal.send(client.into(), portal_request).await {
            Ok(Some(reply)) => {
                let mut headers = reply.headers;
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
                headers.insert(header::DATE, self.date.clone());
                let log = LogContext { login: reply.outcome, ..log };
                let body =
                    if request.method == Method::HEAD { bytes::Bytes::new() } else { reply.body };
                self.reply((ResponseHead { status: reply.status, headers }, body), log, respond)
            }
            Ok(None) => self.hide(request, None, respond),
            Err(Full) => self.fail(StatusCode::SERVICE_UNAVAILABLE, log, respond),
        }
    }
}

/// Reads the whole body.
///
/// # Errors
/// The status to reply with if the body is too large or incomplete.
async fn read_body<B: Source>(body: &mut B) -> Result<BytesMut, StatusCode> {
    let mut body_bytes = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame {
            Ok(Frame::Data(data)) if body_bytes.len() + data.len() > portal::MAX_BODY => {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            Ok(Frame::Data(data)) => body_bytes.extend_from_slice(&data),
            Ok(Frame::Trailers(_)) => {}
            Err(_broken) => return Err(StatusCode::BAD_REQUEST),
        }
    }
    Ok(body_bytes)
}

#[cfg(test)]
mod tests {
    use portcullis_identity::session::testing::{at, session};

    use super::*;
    use crate::normalize::tests::read;

    const NAVIGATION: &str = "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: document";

    fn redirect(line: &str, headers: &str, session: Option<&Session>, now: u64) -> Option<String> {
        let request = read(&format!("{line} HTTP/1.1\n{headers}")).unwrap();
        revalidation_redirect(&request, session, at(now))
            .map(|location| location.to_str().unwrap().to_owned())
    }

    #[test]
    fn navigations_with_a_stale_session_are_redirected_to_the_portal() {
        let session = session("ann", 1000);
        let location = |line, headers, now| redirect(line, headers, Some(&session), now);
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
        assert_eq!(redirect("GET /", NAVIGATION, None, 1300), None);
    }
}
