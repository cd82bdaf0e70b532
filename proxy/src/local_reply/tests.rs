use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::*;
use crate::hidden;
use crate::normalize::tests::{head, read};

const DATE: HeaderValue = HeaderValue::from_static("Sat, 21 Nov 2026 10:00:00 GMT");

/// Returns status, header lines in order, and body.
fn parts((head, body): (ResponseHead, Bytes)) -> (u16, Vec<String>, String) {
    let headers = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    (head.status.as_u16(), headers, String::from_utf8(body.to_vec()).unwrap())
}

fn reply_to(
    text: &str,
    reply: impl FnOnce(&ReplyContext<'_>) -> (ResponseHead, Bytes),
) -> (u16, Vec<String>, String) {
    let id = RequestId::new(0, 0);
    parts(reply(&ReplyContext { client: &ClientFormat::of(&head(text)), id: &id, date: &DATE }))
}

#[test]
fn replies_are_short_and_have_the_request_id() {
    let (status, headers, body) =
        reply_to("GET / HTTP/1.1\nHost: a", |context| error(StatusCode::BAD_GATEWAY, context));
    assert_eq!(status, 502);
    assert_eq!(
        body,
        "502 Bad Gateway\nThe service did not answer properly.\nRequest \
         00000000-0000-7000-8000-000000000000\n"
    );
    let length = format!("content-length: {}", body.len());
    let expected = [
        "content-type: text/plain; charset=utf-8",
        &length,
        "cache-control: no-store",
        "x-content-type-options: nosniff",
        "date: Sat, 21 Nov 2026 10:00:00 GMT",
        "referrer-policy: no-referrer",
        "cross-origin-opener-policy: same-origin",
    ];
    assert_eq!(headers, expected);
}

#[test]
fn the_format_is_negotiated_by_accept() {
    for (accept, media_type) in [
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "text/html"),
        ("*/*", "text/plain"),
        ("", "text/plain"),
        ("application/json", "application/json"),
        ("application/problem+json", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("text/plain, application/json", "text/plain"),
        ("text/html;q=0.5, application/json;q=0.6", "application/json"),
        ("text/html;q=0, */*", "text/plain"),
        ("text/plain;q=0, text/html;q=0, */*;q=0.1", "application/json"),
        ("TEXT/HTML", "text/html"),
        ("text/*;q=0.3, text/html;q=0.7, */*;q=0.5", "text/html"),
        ("application/*", "application/json"),
        ("text/html;q=x, application/json;q=0.1", "application/json"),
        ("image/png", "text/plain"),
        ("\\xe9", "text/plain"),
    ] {
        let (_, headers, body) =
            reply_to(&format!("GET / HTTP/1.1\nAccept: {accept}"), |context| {
                hidden::answer(context, None)
            });
        assert!(
            headers[0].starts_with(&format!("content-type: {media_type}")),
            "{accept}: {headers:?}"
        );
        assert!(body.contains("00000000-0000-7000-8000-000000000000"));
        let policy = headers
            .iter()
            .any(|line| line.starts_with("content-security-policy: default-src 'none'"));
        assert_eq!(policy, media_type == "text/html");
        assert!(
            media_type != "application/json"
                || serde_json::from_str::<serde_json::Value>(&body).unwrap()["status"] == 404
        );
    }
}

#[test]
fn head_gets_the_length_and_no_body() {
    let (_, get, body) = reply_to("GET / HTTP/1.1", |context| hidden::answer(context, Some("/a")));
    let (_, head, nothing) =
        reply_to("HEAD / HTTP/1.1", |context| hidden::answer(context, Some("/a")));
    assert_eq!((get, nothing.as_str()), (head, ""));
    assert!(!body.is_empty());
}

#[test]
fn grpc_clients_receive_a_trailers_only_response() {
    for (status, transport, code) in [
        (StatusCode::BAD_GATEWAY, 200, "14"),
        (StatusCode::SERVICE_UNAVAILABLE, 200, "14"),
        (StatusCode::GATEWAY_TIMEOUT, 200, "4"),
        (StatusCode::PAYLOAD_TOO_LARGE, 200, "8"),
        (StatusCode::REQUEST_TIMEOUT, 200, "4"),
        (StatusCode::NOT_FOUND, 404, "12"),
        (StatusCode::BAD_REQUEST, 400, "13"),
        (StatusCode::NOT_IMPLEMENTED, 501, "12"),
    ] {
        let text = "POST /a/b HTTP/2\ncontent-type: application/grpc+proto\naccept: text/html";
        let (received, headers, body) = reply_to(text, |context| error(status, context));
        assert_eq!((received, body.as_str()), (transport, ""));
        assert_eq!(headers[0], "content-type: application/grpc");
        assert_eq!(headers[1], format!("grpc-status: {code}"));
    }
}

#[test]
fn the_hidden_reply_depends_only_on_the_format() {
    // It must not depend on host, path, method or credentials.
    for form in ["", "\nAccept: text/html", "\ncontent-type: application/grpc"] {
        let first = reply_to(
            &format!("GET /a HTTP/1.1\nHost: shop--staging.apps.example.com{form}"),
            |context| hidden::answer(context, Some("/a")),
        );
        let second = reply_to(
            &format!(
                "POST /b?c HTTP/2\n:authority: nothing.example\nauthorization: Bearer x{form}"
            ),
            |context| hidden::answer(context, Some("/a")),
        );
        assert_eq!(first, second, "{form}");
    }
}

#[test]
fn with_login_the_hidden_page_links_to_it() {
    let html = "GET / HTTP/1.1\nAccept: text/html";
    let (_, _, body) =
        reply_to(html, |context| hidden::answer(context, Some("/a?b=\"><script>&c=%2e")));
    let link = "<a class=\"button\" href=\"/.well-known/portcullis/login?to=%2Fa%3Fb%3D%22%3E%3Cscript%3E%26c%3D%\
                252e\">Sign in</a>";
    assert!(body.contains(link), "{body}");
    let (_, _, body) = reply_to(html, |context| hidden::answer(context, Some("*")));
    assert!(body.contains("login?to=%2F\""), "{body}");
    let (_, _, body) = reply_to(html, |context| {
        hidden::answer(context, Some("/.well-known/portcullis/session?code=secret"))
    });
    assert!(body.contains("login?to=%2F\"") && !body.contains("secret"), "{body}");
    let (_, _, body) = reply_to(html, |context| hidden::answer(context, None));
    assert!(!body.contains("href"), "{body}");
    let (_, _, body) = reply_to(html, |context| error(StatusCode::BAD_GATEWAY, context));
    assert!(!body.contains("href"), "{body}");
}

#[test]
fn pages_allow_only_their_own_style() {
    let html = "GET / HTTP/1.1\nAccept: text/html";
    let hidden = reply_to(html, |context| hidden::answer(context, Some("/")));
    let errors = [400, 403, 413, 431, 501, 502, 503, 504]
        .map(|code| reply_to(html, |context| error(StatusCode::from_u16(code).unwrap(), context)));
    for (status, headers, body) in errors.into_iter().chain([hidden]) {
        let (_, rest) = body.split_once("<style>").unwrap();
        let (style, main) = rest.split_once("</style>").unwrap();
        let hash = digest(&SHA256, style.as_bytes());
        let policy = format!(
            "content-security-policy: default-src 'none'; style-src 'sha256-{}'; form-action \
             'none'; base-uri 'none'; frame-ancestors 'none'",
            STANDARD.encode(hash)
        );
        assert!(headers.contains(&policy), "{headers:?}");
        assert!(style.contains("prefers-color-scheme:dark"));
        for foreign in ["http:", "https:", "url(", "src=", "@import", "<script", "<link"] {
            assert!(!body.contains(foreign), "{status}: {foreign} in {body}");
        }
        for part in [
            &*format!("<p class=\"dim\">{status} "),
            "<h1>",
            "<code>00000000-0000-7000-8000-000000000000</code>",
        ] {
            assert_eq!(main.matches(part).count(), 1, "{status}: {part} in {main}");
        }
    }
}

#[test]
fn unavailable_services_have_retry_after() {
    let (_, headers, _) =
        reply_to("GET / HTTP/1.1", |context| error(StatusCode::SERVICE_UNAVAILABLE, context));
    assert!(headers.contains(&"retry-after: 1".to_owned()));
}

#[test]
fn plain_http_is_redirected_to_the_same_url_with_https() {
    for (line, host, port, expected) in [
        ("GET /a?b=c", "a.example", 443, "https://a.example/a?b=c"),
        ("GET /a?b=c", "A.example.:80", 443, "https://a.example/a?b=c"),
        ("GET /", "a.example:8080", 8443, "https://a.example:8443/"),
        ("GET //evil.example/x", "a", 443, "https://a//evil.example/x"),
        ("OPTIONS *", "[::1]", 443, "https://[::1]/"),
    ] {
        let request = read(&format!("{line} HTTP/1.1\nHost: {host}")).unwrap();
        let location = https_location(&request.authority, request.target.as_str(), port);
        let (status, headers, _) = reply_to("GET / HTTP/1.1", |context| {
            redirect(StatusCode::PERMANENT_REDIRECT, location, context)
        });
        assert_eq!(status, 308);
        assert!(headers.contains(&format!("location: {expected}")), "{headers:?}");
    }
}
