//! Bodies and queries of requests, and bodies of responses.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody};
use axum::extract::{FromRequest, FromRequestParts};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::request::Parts;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Frame, SizeHint};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::{App, Problem};
use crate::manifest::MAX_VALUES;

/// The largest body, in bytes.
pub(super) const MAX_BODY: usize = 1024 * 1024;
/// The most values of a body: those of a template, and of what stands beside it.
const MAX_BODY_VALUES: usize = MAX_VALUES + 1000;
/// How much of a larger body is read without being used, in bytes.
const MAX_DISCARD: usize = 64 * MAX_BODY;
/// How long it is read.
const DISCARD: Duration = Duration::from_secs(10);

/// A JSON body, with a hash of path and body that identifies the request.
pub(super) struct Json<T> {
    pub(super) value: T,
    pub(super) fingerprint: String,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request<Body>, app: &Arc<App>) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        let is_json = content_type.and_then(|value| value.to_str().ok()).is_some_and(|value| {
            let essence = value.split(';').next().unwrap_or_default().trim();
            essence.eq_ignore_ascii_case("application/json")
        });
        if !is_json {
            return Err(Problem::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "send the body as `Content-Type: application/json`",
            ));
        }
        let bytes = read(body).await?;
        if values(&bytes) > MAX_BODY_VALUES {
            return Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body has more than {MAX_BODY_VALUES} values"),
            ));
        }
        let value = serde_json::from_slice(&bytes).map_err(|error| {
            let status = match error.classify() {
                serde_json::error::Category::Data => StatusCode::UNPROCESSABLE_ENTITY,
                _ => StatusCode::BAD_REQUEST,
            };
            Problem::new(status, format!("the body is not valid: {error}"))
        })?;
        let mut hashed = format!("{} {}\n", parts.method, parts.uri.path()).into_bytes();
        hashed.extend_from_slice(&bytes);
        Ok(Self { value, fingerprint: app.keys.fingerprint(&hashed) })
    }
}

/// How many values a JSON text has at most: each but the first follows a bracket, a brace or a comma.
/// They are counted before any is decoded, as one takes more memory than it has octets.
fn values(text: &[u8]) -> usize {
    let (mut count, mut is_in_string, mut is_escaped) = (1, false, false);
    for octet in text {
        match octet {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_in_string => is_escaped = true,
            b'"' => is_in_string = !is_in_string,
            b'[' | b'{' | b',' if !is_in_string => count += 1,
            _ => {}
        }
    }
    count
}

pub(super) async fn read(mut body: Body) -> Result<Bytes, Problem> {
    match Limited::new(&mut body, MAX_BODY).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body, MAX_DISCARD).await;
            Err(Problem::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the body has more than {MAX_BODY} bytes"),
            ))
        }
        Err(_) => Err(Problem::bad_request("the body is incomplete")),
    }
}

/// Reads what the handler of a request has left of its body, before it is responded to. Most are
/// rejected by their head alone, while the client still writes.
pub(super) async fn read_on(request: Request<Body>, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let body = Arc::new(Mutex::new(body));
    let rest = Rest(Arc::clone(&body));
    let response = next.run(Request::from_parts(parts, Body::new(Rest(body)))).await;
    discard(Body::new(rest), MAX_BODY).await;
    response
}

/// What is left of a body, for whoever reads it.
struct Rest(Arc<Mutex<Body>>);

impl HttpBody for Rest {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Pin::new(&mut *body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).size_hint()
    }
}

/// Reads on for a while, so that the client can read the response: closing a connection with unread
/// octets resets it.
async fn discard(mut body: Body, limit: usize) {
    if body.is_end_stream() {
        return;
    }
    let all = async {
        let mut octets = 0;
        while let Some(Ok(frame)) = body.frame().await {
            octets += frame.data_ref().map_or(0, Bytes::len);
            if octets > limit {
                break;
            }
        }
    };
    // A client that is slower loses the response.
    let _ = timeout(DISCARD, all).await;
}

/// The parameters of a query, each at most once.
pub(super) struct Query(HashMap<String, String>);

// === impl Query ===

impl Query {
    /// A parameter of any type, if it is there.
    pub(super) fn get<T: std::str::FromStr>(&self, name: &str) -> Result<Option<T>, Problem> {
        let invalid = |_| Problem::bad_request(format!("the parameter `{name}` is not valid"));
        self.0.get(name).map(|value| value.parse().map_err(invalid)).transpose()
    }

    /// A parameter that must be there.
    pub(super) fn require<T: std::str::FromStr>(&self, name: &str) -> Result<T, Problem> {
        let missing = || Problem::bad_request(format!("the parameter `{name}` is missing"));
        self.get(name)?.ok_or_else(missing)
    }

    /// The size of a page.
    pub(super) fn limit(&self) -> Result<u32, Problem> {
        let limit: u32 = self.get("limit")?.unwrap_or(super::PAGE);
        if (1..=super::PAGE).contains(&limit) {
            Ok(limit)
        } else {
            Err(Problem::bad_request(format!("`limit` is not between 1 and {}", super::PAGE)))
        }
    }
}

impl FromRequestParts<Arc<App>> for Query {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> Result<Self, Problem> {
        let mut parameters = HashMap::new();
        let query = parts.uri.query().unwrap_or_default();
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            if parameters.insert(name.clone().into_owned(), value.into_owned()).is_some() {
                return Err(Problem::bad_request(format!("`{name}` is there more than once")));
            }
        }
        Ok(Self(parameters))
    }
}

/// A JSON body of a response.
pub(super) struct Answer<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => {
                tracing::error!(%error, "failed to write a response");
                StatusCode::INTERNAL_SERVER_ERROR.into_response()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_counted_outside_of_strings() {
        for (text, count) in [
            ("5", 1),
            ("[1,2]", 3),
            (r#"{"a":[{"b":1},2]}"#, 5),
            (r#"{"a":"[,{,\"[,","b":"\\","c":","}"#, 4),
        ] {
            assert_eq!(values(text.as_bytes()), count, "{text}");
        }
    }
}
