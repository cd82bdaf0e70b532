use http::HeaderName;
use portcullis_config::snapshot::filter::Rewrite;
use portcullis_config::snapshot::rule::PathPrefix;

use super::*;
use crate::normalize::tests::read;

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(PathPrefix::new(path).unwrap())
}

fn rewritten(target: &str, matched: &PathMatch, change: PathChange) -> String {
    let mut request = read(&format!("GET {target} HTTP/1.1\nHost: a:8443")).unwrap();
    let filters = [Filter::Rewrite(Rewrite {
        hostname: Some("b.example".parse().unwrap()),
        path: Some(change),
    })];
    rewrite(&filters, matched, &mut request);
    format!("{}{}", request.authority.to_value().to_str().unwrap(), request.target)
}

#[test]
fn rewrites_change_host_and_path_and_keep_the_query() {
    for (matched, by, target, expected) in [
        ("/foo", "/xyz", "/foo/bar?q=1", "/xyz/bar?q=1"),
        ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
        ("/foo/", "/xyz", "/foo/bar", "/xyz/bar"),
        ("/foo", "/xyz", "/foo", "/xyz"),
        ("/foo", "/xyz", "/foo/", "/xyz/"),
        ("/foo", "/", "/foo", "/"),
        ("/foo", "/", "/foo/", "/"),
        ("/foo", "/", "/foo/bar", "/bar"),
        ("/foo", "/", "/foo//bar", "/bar"),
        ("/", "/xyz", "/bar?q", "/xyz/bar?q"),
    ] {
        assert_eq!(
            rewritten(target, &prefix(matched), PathChange::Prefix(by.into())),
            format!("b.example{expected}"),
            "{matched} {by} {target}"
        );
    }
    assert_eq!(
        rewritten("/foo?q=1", &prefix("/"), PathChange::Full("/all".into())),
        "b.example/all?q=1"
    );
    assert_eq!(
        rewritten("/foo", &PathMatch::Exact("/foo".into()), PathChange::Prefix("/xyz".into())),
        "b.example/foo"
    );
}

#[test]
fn redirects_keep_the_unchanged_parts_of_the_url() {
    let plain = Redirect {
        scheme: None,
        hostname: None,
        port: None,
        path: None,
        status: StatusCode::FOUND,
    };
    let host = Some("b.example".parse().unwrap());
    for (filter, tls, expected) in [
        (plain.clone(), true, "https://a.example:8443/foo/bar?q=1"),
        (
            Redirect { scheme: Some("https"), ..plain.clone() },
            false,
            "https://a.example/foo/bar?q=1",
        ),
        (
            Redirect {
                scheme: Some("http"),
                port: std::num::NonZeroU16::new(8080),
                ..plain.clone()
            },
            true,
            "http://a.example:8080/foo/bar?q=1",
        ),
        (
            Redirect { port: std::num::NonZeroU16::new(443), ..plain.clone() },
            true,
            "https://a.example/foo/bar?q=1",
        ),
        (Redirect { hostname: host, ..plain.clone() }, false, "http://b.example:8443/foo/bar?q=1"),
        (
            Redirect { path: Some(PathChange::Prefix("/new".into())), ..plain.clone() },
            true,
            "https://a.example:8443/new/bar?q=1",
        ),
        (
            Redirect { path: Some(PathChange::Full("/new".into())), ..plain },
            true,
            "https://a.example:8443/new?q=1",
        ),
    ] {
        let request = read("GET /foo/bar?q=1 HTTP/1.1\nHost: a.example:8443").unwrap();
        let (status, location) =
            redirect(&[Filter::Redirect(filter)], &prefix("/foo"), &request, tls).unwrap();
        assert_eq!((status, location.to_str().unwrap()), (StatusCode::FOUND, expected));
    }
}

#[test]
fn headers_are_modified_except_framing_and_host() {
    let name = HeaderName::from_static;
    let value = HeaderValue::from_static;
    let changes = HeaderChanges {
        set: vec![
            (name("x-set"), value("new")),
            (name("content-length"), value("0")),
            (name("host"), value("b")),
        ],
        add: vec![(name("x-add"), value("2")), (name("transfer-encoding"), value("chunked"))],
        remove: vec![name("x-remove"), name("connection")],
    };
    let mut headers = HeaderMap::new();
    for (name, value) in
        [("x-set", "old"), ("x-add", "1"), ("x-remove", "1"), ("content-length", "3")]
    {
        headers.insert(name, HeaderValue::from_static(value));
    }
    request_headers(
        &[
            Filter::RequestHeaders(changes.clone()),
            Filter::ResponseHeaders(HeaderChanges::default()),
        ],
        &mut headers,
    );
    let mut lines: Vec<String> = headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    assert_eq!(lines, ["content-length: 3", "x-add: 1", "x-add: 2", "x-set: new"]);
    let before = headers.clone();
    response_headers(&[Filter::RequestHeaders(changes)], &mut headers);
    assert_eq!(headers, before);
}
