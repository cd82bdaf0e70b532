//! Requests for the portal: buffered in whole, because they are small, and served by the control
//! runtime.

use std::future::poll_fn;

use bytes::BytesMut;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use portcullis_identity::fair_queue::Full;
use portcullis_identity::portal::{self, PortalClient, PortalRequest};

use super::context::{LogContext, RequestContext};
use super::reply::Reply;
use crate::exchange::{Frame, Respond, ResponseHead, Source};
use crate::normalize::Request;

// === impl RequestContext ===

impl RequestContext<'_> {
    pub(super) async fn portal<B: Source, R: Respond>(
        &self,
        portal: &PortalClient,
        request: &Request,
        body: &mut B,
        respond: &mut R,
    ) -> Reply {
        if request.expects_continue {
            // The client waits for it before it sends the body.
            let status = StatusCode::CONTINUE;
            respond.informational(ResponseHead { status, headers: HeaderMap::new() });
        }
        let reading = tokio::time::timeout(
            self.worker.settings.timeouts.stream_idle,
            read_body(body, respond),
        );
        let log = LogContext { request: Some(request), ..LogContext::default() };
        let body = match reading.await {
            Ok(Ok(body)) => body,
            Ok(Err(status)) => return self.fail_portal(status, request, respond),
            Err(_late) => return self.fail_portal(StatusCode::REQUEST_TIMEOUT, request, respond),
        };
        let portal_request = PortalRequest {
            client: self.client.address.into(),
            method: request.method.clone(),
            host: request.authority.host.as_str().into(),
            path: request.target.path().into(),
            query: request.target.query().unwrap_or_default().into(),
            headers: request.headers.clone(),
            body: body.freeze(),
        };
        match portal.send(portal_request).await {
            Ok(Some(reply)) => {
                let mut headers = reply.headers;
                headers.insert(header::CONTENT_LENGTH, HeaderValue::from(reply.body.len()));
                headers.insert(header::DATE, self.date.clone());
                let log = LogContext { login: reply.outcome, ..log };
                let body =
                    if request.method == Method::HEAD { bytes::Bytes::new() } else { reply.body };
                self.reply((ResponseHead { status: reply.status, headers }, body), log, respond)
            }
            Ok(None) => self.hide(request, respond),
            Err(Full) => self.fail_portal(StatusCode::SERVICE_UNAVAILABLE, request, respond),
        }
    }

    /// Replies with an error; to a URL with a code, by a redirect to one without.
    fn fail_portal<R: Respond>(
        &self,
        status: StatusCode,
        request: &Request,
        respond: &mut R,
    ) -> Reply {
        match self.worker.local_paths.without_code(request) {
            Some(location) => self.redirect_to_portal(location, request, respond),
            None => {
                let log = LogContext { request: Some(request), ..LogContext::default() };
                self.fail(status, log, respond)
            }
        }
    }
}

/// Reads the whole body.
///
/// # Errors
/// The status to reply with if the body is too large or incomplete.
async fn read_body<B: Source, R: Respond>(
    body: &mut B,
    respond: &mut R,
) -> Result<BytesMut, StatusCode> {
    let mut body_bytes = BytesMut::new();
    let mut next = async || {
        poll_fn(|cx| {
            // An interim response must not wait for the body; a client that is gone is noticed there.
            let _ = respond.poll_flush(cx);
            body.poll_frame(cx)
        })
        .await
    };
    while let Some(frame) = next().await {
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
