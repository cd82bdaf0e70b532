//! Which fields reach a backend, in heads and in trailers, and which trailers reach a client.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use crate::harness::{Gateway, Raw, Recording, Service, Step, WEB, World, client, echo};

const H2C: &str = "h2c--staging.apps.test";

/// Fields that only the gateway may send to backends, and some of their spellings.
const RESERVED: [&str; 30] = [
    "proxy",
    "client-cert",
    "client_cert",
    "client-cert-chain",
    "x-forwarded",
    "x_forwarded",
    "x-forwardedfor",
    "forwarded",
    "remote-user",
    "x-remote-user",
    "x-auth-user",
    "x-auth-request-user",
    "x_auth_request_user",
    "x.auth.request.groups",
    "x-portcullis-jwt-assertion",
    "x-forwarded-user",
    "x-forwarded-client-cert",
    "x-webauth-user",
    "x-goog-iap-jwt-assertion",
    "x-original-url",
    "client-ip",
    "client_ip",
    "shib-session-id",
    "ssl-client-subject-dn",
    "ssl_client_verify",
    "tailscale-user-login",
    "x-consumer-username",
    "x-envoy-original-path",
    "x-remote-extra-scopes",
    "x-vouch-user",
];

/// Fields that are forwarded in a head and must not be in trailers.
const ONLY_IN_HEADS: [&str; 7] =
    ["x-api-key", "x-user", "x-role", "authorization", "cookie", "content-type", "x-anything"];

/// The names that a backend has seen, of those in `names`.
fn seen(fields: &Value, names: &[&str]) -> Vec<String> {
    let fields: Vec<(String, String)> = serde_json::from_value(fields.clone()).unwrap();
    // The gateway sets some of them itself.
    let is_forged = |(name, value): &&(String, String)| {
        names.contains(&name.as_str()) && value.contains("forged")
    };
    fields.iter().filter(is_forged).map(|(name, _)| name.clone()).collect()
}

/// Sends all of `fields` in the head and in the trailers of a request; returns what the pod got.
async fn echoed(gateway: &Gateway, host: &str, is_http2: bool, names: &[&str]) -> Value {
    if is_http2 {
        let mut client = client::http2(gateway, host).await;
        let fields: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::try_from(*name).unwrap(), HeaderValue::from_static("forged")))
            .collect();
        let mut request = http::Request::post(format!("https://{host}/echo")).body(()).unwrap();
        *request.headers_mut() = fields.clone();
        let (response, mut body) = client.send_request(request, false).unwrap();
        body.send_data(Bytes::from_static(b"abc"), false).unwrap();
        body.send_trailers(fields).unwrap();
        let mut response = response.await.unwrap().into_body();
        let mut text = Vec::new();
        while let Some(data) = response.data().await {
            text.extend_from_slice(&data.unwrap());
        }
        return serde_json::from_slice(&text).unwrap();
    }
    let fields: String = names.iter().map(|name| format!("{name}: forged\r\n")).collect();
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: \
             chunked\r\n{fields}\r\n3\r\nabc\r\n0\r\n{fields}\r\n"
        ))
        .await;
    serde_json::from_slice(&client.response().await.unwrap().body).unwrap()
}

async fn world() -> (Gateway, Vec<portcullis_echo::Echo>) {
    let (http1, h2c) = (echo("pod-1").await, echo("pod-2").await);
    let service = Service::new("h2c").app_protocol("kubernetes.io/h2c").pod(&h2c);
    (Gateway::start(World::web(&http1).with(service)).await, vec![http1, h2c])
}

#[tokio::test]
async fn fields_of_the_gateway_reach_a_backend_neither_in_heads_nor_in_trailers() {
    let (gateway, _pods) = world().await;
    for (host, is_http2) in [(WEB, false), (WEB, true), (H2C, false), (H2C, true)] {
        let reported = echoed(&gateway, host, is_http2, &RESERVED).await;
        assert_eq!(reported["octets"], 3, "{reported}");
        assert_eq!(seen(&reported["headers"], &RESERVED), [""; 0], "{host}, HTTP/2: {is_http2}");
        assert_eq!(reported["trailers"], serde_json::json!([]), "{host}, HTTP/2: {is_http2}");
    }
}

#[tokio::test]
async fn only_checksums_reach_a_backend_in_trailers() {
    let (gateway, _pods) = world().await;
    for (host, is_http2) in [(WEB, false), (WEB, true), (H2C, false), (H2C, true)] {
        let reported = echoed(&gateway, host, is_http2, &ONLY_IN_HEADS).await;
        let mut names = seen(&reported["headers"], &ONLY_IN_HEADS);
        names.retain(|name| *name != "cookie");
        assert_eq!(names.len(), ONLY_IN_HEADS.len() - 1, "{names:?}");
        assert_eq!(reported["trailers"], serde_json::json!([]), "{host}, HTTP/2: {is_http2}");
        let reported = echoed(&gateway, host, is_http2, &["content-digest", "repr-digest"]).await;
        let digests = [["content-digest", "forged"], ["repr-digest", "forged"]];
        assert_eq!(reported["trailers"], serde_json::json!(digests), "{host}, HTTP/2: {is_http2}");
    }
}

#[tokio::test]
async fn client_keys_reach_no_backend_of_an_open_service() {
    const KEY: &str = "pck_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf1T7Jj1";
    let (gateway, _pods) = world().await;
    let basic = |text: &str| format!("Basic {}", BASE64_STANDARD.encode(text));
    let fields = [
        ("authorization", basic(&format!("{KEY}:"))),
        ("authorization", basic(&format!("api:{KEY}"))),
        ("authorization", format!("Digest username=\"{KEY}\"")),
        ("x_api_key", KEY.to_owned()),
        ("x-auth-token", KEY.to_owned()),
        ("x-anything", format!("key={KEY};")),
        ("cookie", format!("a=b; key={KEY}; c=d")),
    ];
    for (host, is_http2) in [(WEB, false), (WEB, true), (H2C, false), (H2C, true)] {
        let version = if is_http2 { "--http2" } else { "--http1.1" };
        for (name, value) in &fields {
            let answer =
                gateway.curl(host, "/echo").arg(version).header(&format!("{name}: {value}"));
            let answer = answer.run().await;
            assert_eq!(answer.status, 200, "{name}: {value}");
            let reported = answer.text();
            assert!(!reported.contains(KEY), "{reported}");
            assert!(!reported.contains(value), "{reported}");
            assert_eq!(reported.contains("a=b; c=d"), *name == "cookie", "{reported}");
        }
        let encoded = KEY.replace('_', "%5f");
        for target in [format!("/?key={KEY}"), format!("/a/{KEY}"), format!("/?k={encoded}")] {
            for host in [host, "nothing--staging.apps.test"] {
                let answer = gateway.curl(host, &target).arg(version).run().await;
                assert_eq!(answer.status, 400, "{host}{target}");
            }
        }
    }
}

#[tokio::test]
async fn trailers_of_a_response_are_forwarded_by_a_list_and_grpc_has_custom_ones() {
    let response = |kind: &str| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nTransfer-Encoding: \
             chunked\r\n\r\n2\r\nok\r\n0\r\nServer-Timing: db;dur=5\r\nX-Checksum: \
             21\r\nGrpc-Status: 0\r\nX-Cost: 7\r\nSet-Cookie: \
             __Host-portcullis=evil\r\nStrict-Transport-Security: max-age=0\r\nAlt-Svc: \
             h3=\":1\"\r\nX-Auth-Request-User: root\r\nX_Forwarded_User: root\r\nConnection: \
             close\r\nContent-Length: 3\r\nClient-Cert: :AA==:\r\n\r\n"
        )
    };
    for (kind, expected) in [
        ("text/plain", &["server-timing", "x-checksum", "grpc-status"][..]),
        ("application/grpc+proto", &["server-timing", "x-checksum", "grpc-status", "x-cost"]),
    ] {
        let steps = vec![Step::head(), Step::write(response(kind)), Step::Restart];
        let pod = Recording::script(steps).await.unwrap();
        let gateway = Gateway::start(World::web(&pod)).await;
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\nTE: trailers\r\n\r\n")).await;
        let trailers = client.response().await.unwrap().trailers;
        let names = trailers.lines().filter_map(|line| line.split(':').next());
        assert_eq!(names.collect::<Vec<_>>(), expected, "{kind}");

        let mut client = client::http2(&gateway, WEB).await;
        let request = http::Request::get(format!("https://{WEB}/")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        while let Some(data) = body.data().await {
            body.flow_control().release_capacity(data.unwrap().len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().unwrap();
        let mut names: Vec<_> = trailers.keys().map(HeaderName::as_str).collect();
        names.sort_by_key(|name| expected.iter().position(|other| other == name));
        assert_eq!(names, expected, "{kind}");
    }
}
