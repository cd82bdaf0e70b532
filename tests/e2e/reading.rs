//! How one request is read, whatever carries it: limits, cookies, hosts, optional upgrades, targets.

use std::fmt::Write;

use serde_json::json;

use crate::harness::{Gateway, Raw, Recording, Response, WEB, World, echo};

/// Sends a request over HTTP/1.1.
async fn send(gateway: &Gateway, request: &str) -> Response {
    let mut client = Raw::connect(gateway.http()).await;
    client.send(request).await;
    client.response().await.expect("a response")
}

/// The requests that a pod received.
fn received(pod: &Recording) -> String {
    let all: Vec<_> = pod.received().concat();
    String::from_utf8(all).expect("requests are ASCII")
}

/// Fields `X-0: y` and so on.
fn fields(number: usize) -> String {
    (0..number).fold(String::new(), |mut fields, number| {
        let _ = write!(fields, "X-{number}: y\r\n");
        fields
    })
}

/// Arguments of curl for one field a crumb.
fn crumbs(number: usize, length: usize) -> Vec<String> {
    (0..number).map(|number| format!("c{number:04}={}", "v".repeat(length))).collect()
}

#[tokio::test]
async fn cookies_count_as_one_field_in_both_versions() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    // Far more crumbs than `limits.requestHeaders`; joined, they are within
    // `limits.requestHeadBytes`, which they exceed as separate fields.
    let crumbs = crumbs(1_200, 40);
    let joined = crumbs.join("; ");
    let lines: String = crumbs.iter().map(|crumb| format!("Cookie: {crumb}\r\n")).collect();
    let http1 = format!("GET /http1 HTTP/1.1\r\nHost: {WEB}\r\n{lines}\r\n");
    assert_eq!(send(&gateway, &http1).await.status, 200);
    let single = format!("GET /single HTTP/1.1\r\nHost: {WEB}\r\nCookie: {joined}\r\n\r\n");
    assert_eq!(send(&gateway, &single).await.status, 200);
    let mut request = http::Request::get(format!("https://{WEB}/http2")).body(()).unwrap();
    for crumb in &crumbs {
        request.headers_mut().append(http::header::COOKIE, crumb.parse().unwrap());
    }
    let mut client = crate::harness::client::http2(&gateway, WEB).await;
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    let received = received(&pod);
    for path in ["/http1", "/single", "/http2"] {
        assert!(received.contains(&format!("GET {path} HTTP/1.1\r\n")), "{path}");
    }
    assert_eq!(received.matches(&format!("cookie: {joined}\r\n")).count(), 3);
}

#[tokio::test]
async fn a_cookie_beyond_the_limit_of_a_head_is_431_in_both_versions() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    let crumbs = crumbs(1_500, 40);
    let lines: String = crumbs.iter().map(|crumb| format!("Cookie: {crumb}\r\n")).collect();
    let http1 = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{lines}\r\n");
    assert_eq!(send(&gateway, &http1).await.status, 431);
    let mut request = http::Request::get(format!("https://{WEB}/")).body(()).unwrap();
    for crumb in &crumbs {
        request.headers_mut().append(http::header::COOKIE, crumb.parse().unwrap());
    }
    let mut client = crate::harness::client::http2(&gateway, WEB).await;
    let (response, _) = client.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 431);
    assert!(received(&pod).is_empty());
}

#[tokio::test]
async fn the_limit_of_fields_holds_in_both_versions() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "limits": { "requestHeaders": 1000 } }))
        .start()
        .await;
    for (number, status) in [(300, 200), (999, 200), (1_000, 431)] {
        let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{}\r\n", fields(number));
        assert_eq!(send(&gateway, &request).await.status, status, "HTTP/1.1 with {number}");
        let mut request = http::Request::get(format!("https://{WEB}/")).body(()).unwrap();
        for number in 0..number {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            request.headers_mut().insert(name, http::HeaderValue::from_static("y"));
        }
        let mut client = crate::harness::client::http2(&gateway, WEB).await;
        let (response, _) = client.send_request(request, true).unwrap();
        assert_eq!(response.await.unwrap().status(), status, "HTTP/2 with {number}");
    }
}

#[tokio::test]
async fn an_optional_upgrade_is_ignored() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    // curl offers h2c with HTTP2-Settings over plain HTTP.
    let answer = gateway.curl_plain(WEB, "/whoami").arg("--http2").run().await;
    assert_eq!((answer.status, answer.version.as_str()), (200, "1.1"), "{answer:?}");
    for offer in [
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__",
        "Connection: Upgrade\r\nUpgrade: TLS/1.0",
        "Connection: Upgrade\r\nUpgrade: h2c, TLS/1.2, foo/2",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAAP__",
    ] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: {WEB}\r\n{offer}\r\nContent-Length: 5\r\n\r\nhello"
        );
        let response = send(&gateway, &request).await;
        assert_eq!(response.status, 200, "{offer}");
        let received = response.text().to_lowercase();
        assert!(received.contains("\"octets\":5"), "{offer}: {received}");
        assert!(!received.contains("upgrade") && !received.contains("http2-settings"), "{offer}");
    }
}

#[tokio::test]
async fn an_absolute_target_replaces_the_host() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    for (target, host, status) in [
        (format!("http://{WEB}/a"), "other.test", 200),
        (format!("http://{WEB}:80/b"), WEB, 200),
        (format!("http://{WEB}:8080"), "other.test:81", 200),
        ("http://other.test/".to_owned(), WEB, 404),
        (format!("http://{WEB}/"), "no host", 400),
        (format!("http://{WEB}/"), "", 400),
    ] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(send(&gateway, &request).await.status, status, "{target} {host}");
    }
    assert_eq!(send(&gateway, &format!("GET http://{WEB}/ HTTP/1.1\r\n\r\n")).await.status, 400);
    let received = received(&pod);
    for expected in [
        format!("GET /a HTTP/1.1\r\nhost: {WEB}\r\n"),
        format!("GET /b HTTP/1.1\r\nhost: {WEB}:80\r\n"),
        format!("GET / HTTP/1.1\r\nhost: {WEB}:8080\r\n"),
    ] {
        assert!(received.contains(&expected), "{expected}: {received}");
    }
    assert!(!received.contains("other.test"), "{received}");
}

#[tokio::test]
async fn a_query_passes_as_the_client_wrote_it() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    for target in ["/a?b=\"<c>\"", "/?\"<>^`{|}\\[]%", "/<a>?<b>", "/`\"{a}"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
        assert_eq!(send(&gateway, &request).await.status, 200, "{target}");
        let line = format!("GET {target} HTTP/1.1\r\n");
        assert!(received(&pod).contains(&line), "{target}: {}", received(&pod));
        // curl compresses paths with the Huffman code.
        let http2 =
            gateway.curl(WEB, "/").args(["--http2", "--request-target", target]).run().await;
        assert_eq!((http2.status, http2.version.as_str()), (200, "2"), "{target}");
        assert_eq!(received(&pod).matches(&line).count(), 2, "{target}: {}", received(&pod));
    }
}

#[tokio::test]
async fn a_fragment_is_refused_in_both_versions() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;
    for target in ["/a#b", "/a?b#c", "/#"] {
        let request = format!("GET {target} HTTP/1.1\r\nHost: {WEB}\r\n\r\n");
        assert_eq!(send(&gateway, &request).await.status, 400, "{target}");
        let http2 =
            gateway.curl(WEB, "/").args(["--http2", "--request-target", target]).run().await;
        assert_eq!((http2.status, http2.version.as_str()), (400, "2"), "{target}");
    }
    assert!(received(&pod).is_empty(), "{}", received(&pod));
}

/// A gateway behind a proxy that ends TLS, whose plain HTTP is redirected.
async fn behind_a_proxy(pod: &Recording, header: &str) -> Gateway {
    Gateway::of(World::web(pod))
        .settings(json!({
            "listeners": { "http": { "mode": "redirect" } },
            "trustedNetworks": ["127.0.0.0/8"],
            "trustedHeader": header,
        }))
        .start()
        .await
}

#[tokio::test]
async fn the_scheme_that_a_trusted_proxy_reports_counts() {
    let pod = Recording::start().await.unwrap();
    let gateway = behind_a_proxy(&pod, "x-forwarded").await;
    for (fields, is_https) in [
        ("", false),
        ("X-Forwarded-Proto: https\r\n", true),
        ("X-Forwarded-Proto: HTTPS\r\n", true),
        ("X-Forwarded-Proto: https,http\r\n", true),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-Proto: http\r\n", true),
        ("X-Forwarded-For: 192.0.2.9, 127.0.0.2\r\nX-Forwarded-Proto: https, http\r\n", true),
        ("X-Forwarded-For: 192.0.2.8, 192.0.2.9\r\nX-Forwarded-Proto: https, http\r\n", false),
        ("X-Forwarded-Proto: http\r\n", false),
        ("Forwarded: proto=https\r\n", false),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{fields}\r\n");
        let response = send(&gateway, &request).await;
        let expected = if is_https { 200 } else { 308 };
        assert_eq!(response.status, expected, "{fields}");
        let hsts = response.header("strict-transport-security");
        assert_eq!(hsts.is_some(), is_https, "{fields}: {}", response.head);
    }
    let received = received(&pod);
    assert_eq!(received.matches("x-forwarded-proto: https\r\n").count(), 5, "{received}");
    assert_eq!(received.matches("x-forwarded-port: 443\r\n").count(), 5, "{received}");
    let https = gateway.curl(WEB, "/").header("X-Forwarded-Proto: http").run().await;
    assert_eq!(https.status, 308, "the client itself used plain HTTP");
}

#[tokio::test]
async fn forwarded_describes_the_client_if_the_settings_say_so() {
    let pod = Recording::start().await.unwrap();
    let gateway = behind_a_proxy(&pod, "forwarded").await;
    for (fields, status) in [
        ("Forwarded: for=192.0.2.9;proto=https;host=shop.example\r\n", 200),
        ("Forwarded: for=192.0.2.9;proto=http\r\n", 308),
        ("X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\n", 308),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{fields}\r\n");
        assert_eq!(send(&gateway, &request).await.status, status, "{fields}");
    }
    let received = received(&pod);
    for expected in [
        "x-forwarded-for: 192.0.2.9, 127.0.0.1\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-host: shop.example\r\n",
        "x-real-ip: 192.0.2.9\r\n",
    ] {
        assert!(received.contains(expected), "{expected}: {received}");
    }
    gateway.has_written("\"client\":\"192.0.2.9\"").await;
}

#[tokio::test]
async fn an_untrusted_client_cannot_report_a_scheme() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "listeners": { "http": { "mode": "redirect" } } }))
        .start()
        .await;
    for field in ["X-Forwarded-Proto: https", "Forwarded: proto=https"] {
        let request = format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n{field}\r\n\r\n");
        assert_eq!(send(&gateway, &request).await.status, 308, "{field}");
    }
}

#[tokio::test]
async fn the_log_says_why_a_credential_was_not_read() {
    let pod = Recording::start().await.unwrap();
    let gateway = Gateway::start(
        World::web(&pod).with(crate::harness::Service::new("api").environment("closed").pod(&pod)),
    )
    .await;
    let long = "x".repeat(20_000);
    for (field, word) in [
        ("Cookie: __Host-portcullis=a; b=c; __Host-portcullis=d".to_owned(), "repeated"),
        (format!("Authorization: Bearer {long}"), "too_long"),
    ] {
        let request = format!("GET / HTTP/1.1\r\nHost: api--closed.apps.test\r\n{field}\r\n\r\n");
        assert_eq!(send(&gateway, &request).await.status, 404, "{word}");
        gateway.has_written(&format!("\"credential\":\"{word}\"")).await;
    }
}
