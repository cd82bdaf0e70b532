//! Requests for the portal: gathered in whole, because they are small, and answered by the control
//! runtime.

use std::future::poll_fn;
use std::time::SystemTime;

use bytes::BytesMut;
use http::{HeaderValue, Method, StatusCode, header};
use portcullis_identity::fair_queue::Full;
use portcullis_identity::portal::{self, Ask, Reception};
use portcullis_identity::session::Session;

use super::context::{Call, Told};
use super::reply::Reply;
use crate::exchange::{Frame, Respond, ResponseHead, Source};
use crate::normalize::{Kind, Request};
use crate::proxy_headers;

static SEC_FETCH_MODE: http::HeaderName = http::HeaderName::from_static("sec-fetch-mode");
static SEC_FETCH_DEST: http::HeaderName = http::HeaderName::from_static("sec-fetch-dest");

/// Where somebody is sent whose session is to be looked at anew by the portal, if she can be sent
/// anywhere: she navigates, and comes back at once.
pub(super) fn detour(
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

// === impl Call ===

impl Call<'_> {
    pub(super) async fn portal<B: Source, R: Respond>(
        &self,
        reception: &Reception,
        request: &Request,
        body: &mut B,
        respond: &mut R,
    ) -> Reply {
        if !matches!(request.kind, Kind::Http) {
            return self.hide(request, None, respond);
        }
        let reading = tokio::time::timeout(self.worker.settings.timeouts.stream_idle, gather(body));
        let told = Told { request: Some(request), ..Told::default() };
        let body = match reading.await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => return self.fail(status, told, respond),
            Err(_late) => return self.fail(StatusCode::REQUEST_TIMEOUT, told, respond),
        };
        let ask = Ask {
            method: request.method.clone(),
            host: request.authority.host.as_str().into(),
            path: request.target.path().into(),
            query: request.target.query().unwrap_or_default().into(),
            headers: request.headers.clone(),
            body: body.freeze(),
        };
        let client = proxy_headers::client(&request.headers, self.peer, &self.worker.forwarding);
        match reception.ask(client.into(), ask).await {
            Ok(Some(reply)) => {
                let mut headers = reply.headers;
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
                headers.insert(header::DATE, self.date.clone());
                let told = Told { login: reply.outcome, ..told };
                let body =
                    if request.method == Method::HEAD { bytes::Bytes::new() } else { reply.body };
                self.answer((ResponseHead { status: reply.status, headers }, body), told, respond)
            }
            Ok(None) => self.hide(request, None, respond),
            Err(Full) => self.fail(StatusCode::SERVICE_UNAVAILABLE, told, respond),
        }
    }
}

/// The whole body.
///
/// # Errors
/// It is too large, or breaks off.
async fn gather<B: Source>(body: &mut B) -> Result<BytesMut, StatusCode> {
    let mut whole = BytesMut::new();
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        match frame {
            Ok(Frame::Data(data)) if whole.len() + data.len() > portal::MAX_BODY => {
                return Err(StatusCode::PAYLOAD_TOO_LARGE);
            }
            Ok(Frame::Data(data)) => whole.extend_from_slice(&data),
            Ok(Frame::Trailers(_)) => {}
            Err(_broken) => return Err(StatusCode::BAD_REQUEST),
        }
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use portcullis_identity::session::testing::{at, session};

    use super::*;
    use crate::normalize::tests::read;

    const NAVIGATION: &str = "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: document";

    fn taken(line: &str, headers: &str, session: Option<&Session>, now: u64) -> Option<String> {
        let request = read(&format!("{line} HTTP/1.1\n{headers}")).unwrap();
        detour(&request, session, at(now)).map(|location| location.to_str().unwrap().to_owned())
    }

    #[test]
    fn who_navigates_with_an_old_session_is_looked_at_by_the_portal_on_the_way() {
        let session = session("ann", 1000);
        let taken = |line, headers, now| taken(line, headers, Some(&session), now);
        assert_eq!(
            taken("GET /a?b=c", NAVIGATION, 1300).as_deref(),
            Some("/.well-known/portcullis/login?to=%2Fa%3Fb%3Dc")
        );
        assert_eq!(taken("GET /a?b=c", NAVIGATION, 1299), None);
        assert_eq!(taken("POST /a?b=c", NAVIGATION, 1300), None, "what is posted would be lost");
        for headers in [
            "Host: a",
            "Host: a\nsec-fetch-mode: cors\nsec-fetch-dest: empty",
            "Host: a\nsec-fetch-mode: navigate\nsec-fetch-dest: iframe",
        ] {
            assert_eq!(taken("GET /a?b=c", headers, 1300), None, "{headers}");
        }
    }

    #[test]
    fn who_has_no_session_is_not_sent_anywhere() {
        assert_eq!(taken("GET /", NAVIGATION, None, 1300), None);
    }
}
