//! A client without a grant observes the same of a host that exists and of one that was never
//! configured.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

use bytes::Bytes;
use futures::StreamExt;
use http::{Request, Version};

use super::{Stage, api_key, bearer};
use crate::harness::{Gateway, Raw, Response, client, soon, without_ids};

/// Of the same length.
const EXISTS: &str = "web--closed.apps.test";
const ABSENT: &str = "web--absent.apps.test";
/// Exists too, without a pod.
const WITHOUT_PODS: &str = "down--closed.apps.test";
const ABSENT_AS_LONG: &str = "down--absent.apps.test";

#[derive(Debug, Clone, Copy)]
struct Shape {
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Http1,
    Http1Tls,
    Http2,
    Grpc,
}

const fn shape(
    method: &'static str,
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
) -> Shape {
    Shape { method, path, headers, body }
}

/// Requests of users, programs and scanners.
const SHAPES: [Shape; 46] = [
    shape("GET", "/", &[], ""),
    shape("GET", "/a/deep/path?with=a&query", &[], ""),
    shape("HEAD", "/", &[], ""),
    shape("POST", "/", &[], "a=b"),
    shape("POST", "/", &[("content-type", "application/json")], "{}"),
    shape("PUT", "/file", &[], "contents"),
    shape("PATCH", "/", &[], "x"),
    shape("DELETE", "/", &[], ""),
    shape("OPTIONS", "/", &[], ""),
    shape(
        "OPTIONS",
        "/",
        &[
            ("origin", "https://a.test"),
            ("access-control-request-method", "POST"),
            ("access-control-request-headers", "authorization"),
        ],
        "",
    ),
    shape("PROPFIND", "/", &[("depth", "1")], ""),
    shape("PURGE", "/", &[], ""),
    shape("GET", "/", &[("accept", "text/html,application/xhtml+xml;q=0.9")], ""),
    shape("GET", "/", &[("accept", "application/json")], ""),
    shape("GET", "/", &[("accept", "image/png")], ""),
    shape("GET", "/", &[("accept-encoding", "gzip, br")], ""),
    shape("GET", "/", &[("accept-language", "de")], ""),
    shape("GET", "/robots.txt", &[], ""),
    shape("GET", "/favicon.ico", &[], ""),
    shape("GET", "/.well-known/acme-challenge/token", &[], ""),
    shape("GET", "/.well-known/openid-configuration", &[], ""),
    shape("GET", "/.well-known/security.txt", &[], ""),
    shape("GET", "/.well-known/portcullis/jwks.json", &[], ""),
    shape("GET", "/.well-known/portcullis/session?code=x&to=/", &[], ""),
    shape("GET", "/.git/config", &[], ""),
    shape("GET", "/metrics", &[], ""),
    shape("GET", "/healthz", &[], ""),
    shape("GET", "/a%2Fb", &[], ""),
    shape("GET", "/a/../b", &[], ""),
    shape("GET", "//a", &[], ""),
    shape("GET", "/%00", &[], ""),
    shape("GET", "/a\\b", &[], ""),
    shape("GET", "/", &[("range", "bytes=0-0")], ""),
    shape("GET", "/", &[("if-none-match", "*")], ""),
    shape("GET", "/", &[("if-modified-since", "Sat, 21 Nov 2026 10:00:00 GMT")], ""),
    shape("POST", "/", &[("expect", "100-continue")], "x"),
    shape("POST", "/", &[("content-length", "100000")], "x"),
    shape("POST", "/", &[("content-length", "10000000000")], "x"),
    shape("GET", "/", &[("cookie", "a=b; c=d")], ""),
    shape("GET", "/", &[("cookie", "__Host-portcullis=abc")], ""),
    shape(
        "GET",
        "/",
        &[("x-forwarded-host", "web--staging.apps.test"), ("x-forwarded-for", "127.0.0.1")],
        "",
    ),
    shape("GET", "/", &[("x-auth-request-user", "ann@example.com")], ""),
    shape(
        "GET",
        "/",
        &[
            ("upgrade", "websocket"),
            ("connection", "upgrade"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        "",
    ),
    shape("POST", "/service/Method", &[("content-type", "application/grpc-web")], ""),
    shape(
        "POST",
        "/service/Method",
        &[("content-type", "application/grpc-web-text"), ("grpc-timeout", "1S")],
        "AAAA",
    ),
    shape("GET", "/", &[("connection", "close")], ""),
];

const TRANSPORTS: [Transport; 4] =
    [Transport::Http1, Transport::Http1Tls, Transport::Http2, Transport::Grpc];

/// The observations on one connection: each response, and whether the connection stayed open.
async fn seen(
    gateway: &Gateway,
    host: &str,
    shape: Shape,
    transport: Transport,
    credentials: &[String],
) -> String {
    let reported = match transport {
        Transport::Http1 => {
            http1(Raw::connect(gateway.http()).await, host, shape, credentials).await
        }
        Transport::Http1Tls => {
            http1(
                Raw::over(client::tls(gateway, host, &["http/1.1"]).await.expect("TLS")),
                host,
                shape,
                credentials,
            )
            .await
        }
        Transport::Http2 => http2(gateway, host, shape, credentials, None).await,
        Transport::Grpc => http2(gateway, host, shape, credentials, Some("application/grpc")).await,
    };
    let reported = without_dates(&without_ids(&reported));
    reported.replace(host, "HOST")
}

async fn http1(mut raw: Raw, host: &str, shape: Shape, credentials: &[String]) -> String {
    let mut request = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", shape.method, shape.path);
    for (name, value) in shape.headers {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    for line in credentials {
        request.push_str(&format!("{line}\r\n"));
    }
    if !shape.body.is_empty() && !shape.headers.iter().any(|(name, _)| *name == "content-length") {
        request.push_str(&format!("Content-Length: {}\r\n", shape.body.len()));
    }
    raw.send(format!("{request}\r\n{}", shape.body)).await;
    let first = raw.response_to(shape.method).await;
    raw.send(format!("GET /again HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await;
    let unfinished = first.as_ref().is_some_and(|first| first.header("connection").is_some());
    let second = if unfinished { None } else { raw.response().await };
    let rest = raw.rest().await;
    let reported = |answer: Option<Response>| {
        answer.map(|answer| format!("{}{}{}", answer.head, answer.text(), answer.trailers))
    };
    format!("{:?}\n{:?}\n{}", reported(first), reported(second), String::from_utf8_lossy(&rest))
}

async fn http2(
    gateway: &Gateway,
    host: &str,
    shape: Shape,
    credentials: &[String],
    content_type: Option<&str>,
) -> String {
    let mut sender = client::http2(gateway, host).await;
    let mut reported = String::new();
    for (path, shape) in [(shape.path, shape), ("/again", shape)] {
        let Ok(uri) = http::Uri::try_from(format!("https://{host}{path}")) else {
            return "no URI".to_owned();
        };
        let mut request = Request::builder().method(shape.method).uri(uri).version(Version::HTTP_2);
        let hop = ["connection", "upgrade", "content-length"];
        for (name, value) in shape.headers.iter().filter(|(name, _)| {
            !hop.contains(name) && (content_type.is_none() || *name != "content-type")
        }) {
            request = request.header(*name, *value);
        }
        for (name, value) in credentials.iter().filter_map(|line| line.split_once(": ")) {
            request = request.header(name.to_ascii_lowercase(), value);
        }
        if let Some(content_type) = content_type {
            request = request.header("content-type", content_type).header("te", "trailers");
        }
        let (answer, mut body) = match sender
            .send_request(request.body(()).expect("a request"), shape.body.is_empty())
        {
            Ok(sent) => sent,
            Err(error) => return format!("{reported}{error}"),
        };
        if !shape.body.is_empty() {
            let _ = body.send_data(Bytes::from_static(shape.body.as_bytes()), true);
        }
        match soon("an answer", answer).await {
            Err(error) => reported.push_str(&format!("{error}\n")),
            Ok(answer) => {
                let (head, mut body) = answer.into_parts();
                reported.push_str(&format!(
                    "{} {:?} {}\n",
                    head.status,
                    head.headers.iter().collect::<Vec<_>>(),
                    body.is_end_stream()
                ));
                while let Some(data) = body.data().await {
                    reported.push_str(&format!("{data:?}\n"));
                }
                reported.push_str(&format!("{:?}\n", body.trailers().await));
            }
        }
    }
    reported
}

/// `Date` differs only by the time.
fn without_dates(text: &str) -> String {
    let mut text = text.to_owned();
    let mut from = 0;
    while let Some(start) = text[from..].find("GMT").map(|place| place + from) {
        let begin = start.saturating_sub("Sat, 21 Nov 2026 10:00:00 ".len());
        text.replace_range(begin..start + 3, "DATE");
        from = begin + 4;
    }
    text
}

fn shuffled<T>(mut items: Vec<T>) -> Vec<T> {
    let random = RandomState::new();
    let mut keyed: Vec<(u64, T)> =
        items.drain(..).enumerate().map(|(place, item)| (random.hash_one(place), item)).collect();
    keyed.sort_by_key(|(key, _)| *key);
    keyed.into_iter().map(|(_, item)| item).collect()
}

/// The credentials of a caller without a grant.
fn credentials(stage: &Stage) -> Vec<(&'static str, Vec<String>)> {
    let mut claims = stage.partner.claims();
    claims["groups"] = serde_json::json!(["ops"]);
    let other = bearer(&stage.partner.token(&stage.partner.header(), &claims));
    let good = stage.ann();
    let bad = format!("{}AAAA", &good[..good.len() - 4]);
    vec![
        ("none", vec![]),
        ("bad", vec![bad]),
        ("another environment's", vec![other, api_key(&stage.crm)]),
    ]
}

#[tokio::test]
async fn existing_and_unknown_hosts_are_indistinguishable() {
    let stage = Stage::start().await;
    let before = stage.pod.counts().borrow().started;
    let credentials = credentials(&stage);
    let mut cases = Vec::new();
    for (place, shape) in SHAPES.into_iter().enumerate() {
        for transport in TRANSPORTS {
            for (shown, fields) in &credentials {
                // Every third shape is tried on the service without pods.
                let hosts =
                    if place % 3 == 0 { [WITHOUT_PODS, ABSENT_AS_LONG] } else { [EXISTS, ABSENT] };
                cases.extend(hosts.map(|host| {
                    ((place, transport as u8, *shown), host, shape, transport, fields)
                }));
            }
        }
    }
    let count = cases.len();
    let gateway = &stage.gateway;
    let seen: Vec<_> = futures::stream::iter(shuffled(cases))
        .map(|(case, host, shape, transport, fields)| async move {
            (case, host, seen(gateway, host, shape, transport, fields).await, shape, transport)
        })
        .buffer_unordered(8)
        .collect()
        .await;
    let mut pairs: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (case, host, reported, shape, transport) in seen {
        pairs.entry(case).or_default().push((host, reported, shape, transport));
    }
    for ((_, _, shown), pair) in &pairs {
        let [(one, first, shape, transport), (other, second, ..)] = &pair[..] else {
            panic!("two hosts")
        };
        assert_eq!(
            first, second,
            "{one} and {other} differ for {shown} credentials, {transport:?}, {shape:?}"
        );
    }
    assert_eq!(stage.pod.counts().borrow().started, before, "the pod was asked");
    println!("{} pairs of exchanges, {count} connections", pairs.len());
}

#[tokio::test]
async fn metrics_do_not_reveal_which_hosts_exist() {
    let stage = Stage::start().await;
    let credentials = credentials(&stage);
    let mut reported = Vec::new();
    for host in [EXISTS, ABSENT] {
        let before = counters(&stage).await;
        for shape in SHAPES.into_iter().step_by(3) {
            for (_, fields) in &credentials {
                seen(&stage.gateway, host, shape, Transport::Http1Tls, fields).await;
                seen(&stage.gateway, host, shape, Transport::Grpc, fields).await;
            }
        }
        let after = counters(&stage).await;
        let grown: BTreeMap<String, i64> = after
            .into_iter()
            .map(|(series, value)| {
                (series.clone(), value - before.get(&series).copied().unwrap_or(0))
            })
            .filter(|(_, grown)| *grown != 0)
            .collect();
        assert!(!grown.keys().any(|series| series.contains("closed")), "{grown:?}");
        reported.push(grown);
    }
    assert!(reported[0].len() > 5);
    assert_eq!(reported[0], reported[1]);
}

/// The counters that a request changes, except durations and those of requests of the test
/// itself.
async fn counters(stage: &Stage) -> BTreeMap<String, i64> {
    let page = stage.gateway.admin_page("/metrics").await.text();
    let lines = page.lines().filter(|line| {
        line.contains("_total")
            && !line.starts_with('#')
            && !line.contains("seconds")
            && !line.contains("bytes_total")
    });
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter_map(|(series, value)| Some((series.to_owned(), value.parse::<f64>().ok()? as i64)))
        .collect()
}
