//! The admin listener's HTTP/1.1 server. Everything about it is bounded: whoever reaches it may
//! look. Orders are taken from this machine alone.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::Admin;
use super::certificates::NotRenewed;
use crate::explain::Question;

/// Connections at a time; further ones wait in the kernel's queue.
const CONNECTIONS: usize = 64;
/// Octets of a request's head, and of what is written at a time.
const BUFFER: usize = 16 * 1024;
/// For a request's head, and between two requests.
const HEAD: Duration = Duration::from_secs(30);
/// How long one connection may last.
const CONNECTION: Duration = Duration::from_secs(300);
/// After accepting failed.
const BACK_OFF: Duration = Duration::from_millis(100);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Serves forever; connections end with the task.
pub(crate) async fn serve(listener: TcpListener, admin: Arc<Admin>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let admin = Arc::clone(&admin);
                connections.spawn(async move {
                    // Late or broken, there is nobody to tell.
                    let _ = timeout(CONNECTION, connection(stream, peer.ip(), admin)).await;
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin listener cannot accept for now");
                sleep(BACK_OFF).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    peer: IpAddr,
    admin: Arc<Admin>,
) -> Result<(), hyper::Error> {
    let service = service_fn(move |request| {
        let admin = Arc::clone(&admin);
        async move { Ok::<_, Infallible>(answer(&request, peer, admin).await) }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service)
        .await
}

async fn answer(
    request: &Request<Incoming>,
    peer: IpAddr,
    admin: Arc<Admin>,
) -> Response<Full<Bytes>> {
    match *request.method() {
        Method::GET | Method::HEAD => tell(request, admin).await,
        Method::POST => order(request, peer, &admin).await,
        _ => not_allowed(),
    }
}

/// Does what it is told.
async fn order(request: &Request<Incoming>, peer: IpAddr, admin: &Admin) -> Response<Full<Bytes>> {
    let query = request.uri().query().unwrap_or_default();
    if !may_order(peer, request.headers()) {
        return text(
            StatusCode::FORBIDDEN,
            "that can only be asked for from the gateway's own machine, or by `kubectl exec` or \
             `kubectl port-forward`\n",
        );
    }
    match request.uri().path() {
        "/certificates/renew" => renew(query, admin).await,
        "/certificates/rollover" => done(admin.roll_over().await.map(|()| "asked")),
        "/sessions/rotate" => rotate(query, admin).await,
        _ => not_allowed(),
    }
}

/// From this machine alone: whoever can look need not be one who may change something. Neither may
/// a page in a browser on this machine.
fn may_order(peer: IpAddr, headers: &HeaderMap) -> bool {
    peer.to_canonical().is_loopback() && !headers.contains_key(header::ORIGIN)
}

fn not_allowed() -> Response<Full<Bytes>> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    response
}

async fn tell(request: &Request<Incoming>, admin: Arc<Admin>) -> Response<Full<Bytes>> {
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "ok\n"),
        "/readyz" => match admin.not_ready().as_slice() {
            [] => text(StatusCode::OK, "ok\n"),
            reasons => text(StatusCode::SERVICE_UNAVAILABLE, format!("{}\n", reasons.join("\n"))),
        },
        "/metrics" => aside(move || metrics(&admin)).await,
        "/certificates" => aside(move || json(&admin.certificate_list())).await,
        "/routes" => aside(move || json(&admin.table())).await,
        "/explain" => {
            let question = question(request.uri().query().unwrap_or_default());
            aside(move || match admin.explain(&question) {
                Ok(explanation) => json(&explanation),
                Err(invalid) => text(StatusCode::BAD_REQUEST, format!("{invalid}\n")),
            })
            .await
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "/livez\n/readyz\n/metrics\n/certificates\n/routes\n/explain?url=URL&method=GET&\
             header=NAME:VALUE\n",
        ),
    }
}

/// Has the certificate renewed that `name=…` names, by its own name or by a name that it is for.
async fn renew(query: &str, admin: &Admin) -> Response<Full<Bytes>> {
    let name = form_urlencoded::parse(query.as_bytes())
        .find(|(key, _)| key == "name")
        .map(|(_, name)| name.into_owned());
    done(admin.renew(&name.unwrap_or_default()).await)
}

/// Makes another session key; with `end=true` all that others have sealed ends.
async fn rotate(query: &str, admin: &Admin) -> Response<Full<Bytes>> {
    let end = form_urlencoded::parse(query.as_bytes())
        .any(|(key, value)| key == "end" && value == "true");
    match admin.rotate_sessions(end).await {
        Ok(rotated) => json(&rotated),
        Err(error) if error.is_passing() => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
        Err(error) => text(StatusCode::CONFLICT, format!("{error}\n")),
    }
}

fn done(outcome: Result<impl Serialize, NotRenewed>) -> Response<Full<Bytes>> {
    match outcome {
        Ok(answer) => json(&answer),
        Err(NotRenewed::Unknown) => {
            text(StatusCode::NOT_FOUND, "the gateway orders no such certificate\n")
        }
        Err(NotRenewed::Store(error)) => {
            text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))
        }
    }
}

/// Reads `url=…&method=…&header=name:value&…`, the values percent-encoded.
fn question(query: &str) -> Question {
    let mut question =
        Question { url: String::new(), method: "GET".to_owned(), headers: Vec::new() };
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "url" => question.url = value.into_owned(),
            "method" => question.method = value.into_owned(),
            "header" => {
                let (name, value) = value.split_once(':').unwrap_or((&value, ""));
                question.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            }
            _ => {}
        }
    }
    question
}

/// Makes a large answer on a thread where it holds nothing up.
async fn aside(
    make: impl FnOnce() -> Response<Full<Bytes>> + Send + 'static,
) -> Response<Full<Bytes>> {
    let made = tokio::task::spawn_blocking(make).await;
    made.unwrap_or_else(|_| {
        text(StatusCode::INTERNAL_SERVER_ERROR, "this is a defect of the gateway: see its log\n")
    })
}

fn metrics(admin: &Admin) -> Response<Full<Bytes>> {
    match admin.telemetry.metrics() {
        Ok(metrics) => response(StatusCode::OK, METRICS, metrics),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn json(value: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(value) {
        Ok(body) => response(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    response(status, TEXT, body)
}

fn response(
    status: StatusCode,
    kind: HeaderValue,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_taken_from_this_machine_alone_and_from_no_page() {
        let may = |peer: &str| may_order(peer.parse().unwrap(), &HeaderMap::new());
        assert!(may("127.0.0.1") && may("::1") && may("::ffff:127.0.0.1"));
        assert!(!may("192.0.2.1") && !may("2001:db8::1") && !may("::ffff:192.0.2.1"));
        let page = HeaderMap::from_iter([(
            header::ORIGIN,
            HeaderValue::from_static("http://localhost:9901"),
        )]);
        assert!(!may_order("127.0.0.1".parse().unwrap(), &page));
    }
}
