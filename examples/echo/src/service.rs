//! The HTTP service.
//!
//! | request | response |
//! | --- | --- |
//! | `/` | a greeting with the pod's name |
//! | `/whoami` | the pod's name only |
//! | `/echo` | what was received, as JSON: method, path, version, headers in order, length and SHA-1 of the body, trailers |
//! | `/status/503` | that status, without reading the request's body |
//! | `/delay/2s` | the greeting after that time; the request's body is not read |
//! | `/bytes/1000000` | this number of octets with a Content-Length |
//! | `/break/1000` | declares twice this number of octets, aborts after this number |
//! | `/stream/5?interval=100ms` | this number of lines, one at a time, without a Content-Length |
//! | `/events/5?interval=100ms` | this number of server-sent events |
//! | `/trailers` | a body and the trailers `x-checksum` and `x-pod` |
//! | `/close` | the greeting, then closes the connection |
//! | `/counts` | the number of exchanges, as JSON |
//! | `POST /record/7` | the pod's name, after writing `7` to the records |
//! | `/records` | the records, one a line |
//! | `/ready` | 200 or 503; `POST /ready/off` and `POST /ready/on` switch it |
//! | any path with a WebSocket handshake | echoes each message; responds to the text `whoami` with the pod's name |
//! | `/greet` with a WebSocket handshake | a greeting, then closes |
//! | `content-type: application/grpc` | the gRPC service of [`crate::grpc`] |

use std::convert::Infallible;
use std::fmt::Write;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, HeaderValue, TRAILER};
use http::{HeaderMap, Method, Request, Response, StatusCode, Version};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::json;
use sha1::{Digest, Sha1};

use crate::body::{self, ResponseBody};
use crate::count::{Counted, Exchange};
use crate::server::State;
use crate::{duration, grpc, websocket};

/// Creates the service for `state`.
pub(crate) fn of(
    state: Arc<State>,
) -> impl hyper::service::Service<
    Request<Incoming>,
    Response = Response<Counted<ResponseBody>>,
    Error = Infallible,
    Future: Send + 'static,
> + Send
+ 'static {
    hyper::service::service_fn(move |request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let is_probe = request.uri().path().starts_with("/ready");
            let exchange = (!is_probe).then(|| Exchange::start(&state.counts));
            let response = if is_probe {
                serve(&state, request).await
            } else {
                if !state.delay.is_zero() {
                    tokio::time::sleep(state.delay).await;
                }
                if state.fails() {
                    code(StatusCode::INTERNAL_SERVER_ERROR)
                } else {
                    serve(&state, request).await
                }
            };
            Ok(response.map(|body| Counted::new(body, exchange).settled()))
        }
    })
}

async fn serve(state: &Arc<State>, request: Request<Incoming>) -> Response<ResponseBody> {
    if is_grpc(request.headers()) {
        return grpc::serve(state, request)
            .await
            .map(|body| body.map_err(io::Error::other).boxed_unsync());
    }
    if websocket::is_handshake(&request) {
        return websocket::accept(state, request);
    }
    let path = request.uri().path().to_owned();
    let mut elements = path.trim_start_matches('/').splitn(2, '/');
    match (elements.next().unwrap_or_default(), elements.next()) {
        ("", None) => greeting(state),
        ("whoami", None) => name(state),
        ("echo", _) => echo(state, request).await,
        ("status", Some(code)) => status(code),
        ("delay", Some(time)) => delay(state, time).await,
        ("bytes", Some(count)) => {
            number(count).map_or_else(bad, |count| Response::new(body::octets(count)))
        }
        ("break", Some(count)) => {
            number(count).map_or_else(bad, |count| Response::new(body::broken(count)))
        }
        ("stream", Some(count)) => {
            number(count).map_or_else(bad, |count| stream(count, interval(&request)))
        }
        ("events", Some(count)) => {
            number(count).map_or_else(bad, |count| events(count, interval(&request)))
        }
        ("trailers", None) => trailers(state),
        ("close", None) => {
            with_header(greeting(state), CONNECTION, HeaderValue::from_static("close"))
        }
        ("counts", None) => counts(state),
        ("record", Some(id)) if request.method() == Method::POST => record(state, id),
        ("records", None) => records(state),
        ("ready", None) => ready(state),
        ("ready", Some(switch)) if request.method() == Method::POST => switch_ready(state, switch),
        _ => code(StatusCode::NOT_FOUND),
    }
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

fn greeting(state: &State) -> Response<ResponseBody> {
    Response::new(body::full(format!("Hello from {}\n", state.name)))
}

fn name(state: &State) -> Response<ResponseBody> {
    Response::new(body::full(format!("{}\n", state.name)))
}

fn record(state: &State, id: &str) -> Response<ResponseBody> {
    state.record.add(id).map_or_else(code, |()| name(state))
}

fn records(state: &State) -> Response<ResponseBody> {
    state.record.read().map_or_else(code, |records| Response::new(body::full(records)))
}

async fn echo(state: &State, request: Request<Incoming>) -> Response<ResponseBody> {
    let (head, mut received) = request.into_parts();
    let mut octets = 0;
    let mut digest = Sha1::new();
    let mut trailers = HeaderMap::new();
    while let Some(frame) = received.frame().await {
        let Ok(frame) = frame else { return code(StatusCode::BAD_REQUEST) };
        match frame.into_data() {
            Ok(data) => {
                octets += data.len();
                digest.update(&data);
            }
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    json(&json!({
        "pod": state.name,
        "method": head.method.as_str(),
        "path": head.uri.path_and_query().map_or("", |path| path.as_str()),
        "authority": head.uri.authority().map(|authority| authority.as_str()),
        "version": format!("{:?}", head.version),
        "headers": pairs(&head.headers),
        "octets": octets,
        "sha1": digest.finalize().iter().fold(String::new(), |mut text, octet| {
            let _ = write!(text, "{octet:02x}");
            text
        }),
        "trailers": pairs(&trailers),
    }))
}

fn pairs(headers: &HeaderMap) -> Vec<(&str, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (name.as_str(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        })
        .collect()
}

fn status(text: &str) -> Response<ResponseBody> {
    StatusCode::from_bytes(text.as_bytes())
        .ok()
        .filter(|status| !status.is_informational())
        .map_or_else(bad, code)
}

async fn delay(state: &State, time: &str) -> Response<ResponseBody> {
    let Some(time) = duration::parse(time) else { return bad() };
    tokio::time::sleep(time).await;
    greeting(state)
}

fn stream(count: u64, interval: Duration) -> Response<ResponseBody> {
    Response::new(body::pieces(count, interval, |number| Bytes::from(format!("line {number}\n"))))
}

fn events(count: u64, interval: Duration) -> Response<ResponseBody> {
    let events = body::pieces(count, interval, |number| {
        Bytes::from(format!("id: {number}\ndata: event {number}\n\n"))
    });
    with_header(Response::new(events), CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))
}

fn trailers(state: &State) -> Response<ResponseBody> {
    let data = Bytes::from_static(b"a body with trailers\n");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-checksum", HeaderValue::from(data.len()));
    if let Ok(name) = HeaderValue::from_str(&state.name) {
        trailers.insert("x-pod", name);
    }
    let response = Response::new(body::with_trailers(data, trailers));
    with_header(response, TRAILER, HeaderValue::from_static("x-checksum, x-pod"))
}

fn counts(state: &State) -> Response<ResponseBody> {
    let counts = *state.counts.borrow();
    json(
        &json!({ "pod": state.name, "started": counts.started, "finished": counts.finished, "cancelled": counts.cancelled }),
    )
}

fn ready(state: &State) -> Response<ResponseBody> {
    code(if state.ready.load(Ordering::Relaxed) {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    })
}

fn switch_ready(state: &State, switch: &str) -> Response<ResponseBody> {
    let ready = match switch {
        "on" => true,
        "off" => false,
        _ => return bad(),
    };
    state.ready.store(ready, Ordering::Relaxed);
    code(StatusCode::NO_CONTENT)
}

fn number(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// Returns the query's `interval=`; 100 ms by default.
fn interval<B>(request: &Request<B>) -> Duration {
    let query = request.uri().query().unwrap_or_default();
    let written = query.split('&').find_map(|parameter| parameter.strip_prefix("interval="));
    written.and_then(duration::parse).unwrap_or(Duration::from_millis(100))
}

fn bad() -> Response<ResponseBody> {
    code(StatusCode::BAD_REQUEST)
}

/// Creates a response with this status, and its number as the body if the status allows one.
pub(crate) fn code(status: StatusCode) -> Response<ResponseBody> {
    let bodiless = status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status == StatusCode::RESET_CONTENT;
    let mut response = Response::new(body::full(if bodiless {
        String::new()
    } else {
        format!("{}\n", status.as_u16())
    }));
    *response.status_mut() = status;
    response
}

fn json(value: &serde_json::Value) -> Response<ResponseBody> {
    with_header(
        Response::new(body::full(format!("{value}\n"))),
        CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    )
}

fn with_header(
    mut response: Response<ResponseBody>,
    name: http::HeaderName,
    value: HeaderValue,
) -> Response<ResponseBody> {
    response.headers_mut().insert(name, value);
    response
}

/// Returns whether `version` is HTTP/2, where WebSockets use extended CONNECT (RFC 8441).
pub(crate) fn is_http2(version: Version) -> bool {
    version == Version::HTTP_2
}
