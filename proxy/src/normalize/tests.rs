use super::refusals::*;
use super::*;
use crate::exchange::cookies;

/// Parses `METHOD target HTTP/version` and `name: value` lines as a codec would. `:authority`,
/// `:scheme` and `:protocol` are those of HTTP/2 or of an absolute form; `:body: n` is the body's
/// length.
pub(crate) fn head(text: &str) -> RequestHead {
    let mut lines = text.lines();
    let line: Vec<&str> = lines.next().unwrap().split(' ').collect();
    let [method, target, version] = line[..] else { panic!("{text}") };
    let mut head = RequestHead {
        method: method.parse().unwrap(),
        version: match version {
            "HTTP/1.0" => Version::HTTP_10,
            "HTTP/1.1" => Version::HTTP_11,
            "HTTP/2" => Version::HTTP_2,
            _ => Version::HTTP_3,
        },
        authority: None,
        scheme: None,
        target: match target {
            "*" => Target::Asterisk,
            target if target.starts_with('/') => {
                Target::Path(PathAndQuery::new(target.to_owned()).unwrap())
            }
            _ => Target::Authority,
        },
        headers: HeaderMap::new(),
        body: BodyLength::None,
        protocol: None,
    };
    for line in lines {
        let at = line[1..].find(':').unwrap() + 1;
        let (name, value) = (&line[..at], line[at + 1..].trim_start());
        let value = value.replace("\\xe9", "\u{e9}").into_bytes();
        match name {
            ":authority" => head.authority = Some(value.into()),
            ":scheme" => head.scheme = Some(value.into()),
            ":protocol" => head.protocol = Some(value.into()),
            ":body" => {
                head.body = BodyLength::Exact(std::str::from_utf8(&value).unwrap().parse().unwrap())
            }
            name => {
                head.headers.append(
                    HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    HeaderValue::from_bytes(&value).unwrap(),
                );
            }
        }
    }
    cookies::join(&mut head.headers);
    head
}

pub(crate) fn read(text: &str) -> Result<Request, Refusal> {
    request(head(text), false, NonZeroUsize::new(100).unwrap())
}

fn assert_rejected(table: &[(&str, Refusal)]) {
    for (text, refusal) in table {
        assert_eq!(read(text).map(|request| format!("{request:?}")), Err(*refusal), "{text}");
    }
}

fn headers(request: &Request) -> Vec<String> {
    let mut headers: Vec<String> = request
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    headers.sort();
    headers
}

#[track_caller]
fn assert_headers(text: &str, expected: &[&str]) {
    assert_eq!(headers(&read(text).unwrap()), expected, "{text}");
}

#[test]
fn ambiguous_hosts_are_rejected() {
    let hosts = [
        "",
        ".",
        "..",
        "a..example",
        ".a.example",
        "a.example..",
        "a example",
        "a.example:",
        "a.example:0",
        "a.example:65536",
        "a.example:080080",
        "a.example:-1",
        "a.example:+80",
        "a.example:80:80",
        "a.example:http",
        "user@a.example",
        "user:pass@a.example",
        "a%2eexample",
        "a.example/",
        "a.example?x",
        "a.example#x",
        "a.example\\b",
        "a.ex\\xe9mple",
        "a,b.example",
        "a.example, b.example",
        "a;b",
        "*.example",
        "a!b",
        "(a)",
        "a'b",
        "a=b",
        "a~b",
        "<a>",
        "\"a\"",
        "[::1",
        "::1",
        "[::1]x",
        "[::1]:",
        "[::1]:0",
        "[]",
        "[::1%eth0]",
        "[v1.a]",
        "[a.example]",
        "[127.0.0.1]",
        "http://a.example",
        "a.example:8 0",
        "a\tb",
    ];
    for host in hosts {
        assert_eq!(
            read(&format!("GET / HTTP/1.1\nHost: {host}")).err(),
            Some(HOST_MALFORMED),
            "Host: {host}"
        );
        assert_eq!(
            read(&format!("GET / HTTP/2\n:authority: {host}")).err(),
            Some(HOST_MALFORMED),
            ":authority: {host}"
        );
    }
    let long = format!("GET / HTTP/1.1\nHost: {}example", "a.".repeat(124));
    assert_eq!(read(&long).err(), Some(HOST_MALFORMED));
}

#[test]
fn hosts_are_normalized() {
    for (host, name, port) in [
        ("a.example", "a.example", None),
        ("A.Example", "a.example", None),
        ("a.example.", "a.example", None),
        ("A.EXAMPLE.:8443", "a.example", Some(8443)),
        ("a.example:80", "a.example", Some(80)),
        ("a.example:00080", "a.example", Some(80)),
        ("192.0.2.1:8080", "192.0.2.1", Some(8080)),
        ("[2001:DB8::1]:443", "[2001:db8::1]", Some(443)),
        ("[::1]", "[::1]", None),
        ("under_score.example", "under_score.example", None),
        ("localhost", "localhost", None),
    ] {
        let request = read(&format!("GET / HTTP/1.1\nHost: {host}")).unwrap();
        assert_eq!(
            (request.authority.host.as_str(), request.authority.port),
            (name, port),
            "{host}"
        );
        let afresh = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
        assert_eq!(request.authority.to_value(), afresh);
    }
}

#[test]
fn exactly_one_host_is_required() {
    assert_rejected(&[
        ("GET / HTTP/1.1", HOST_MISSING),
        ("GET / HTTP/1.0", HOST_MISSING),
        ("GET / HTTP/2", HOST_MISSING),
        ("GET / HTTP/1.1\nHost: a\nHost: a", HOST_REPEATED),
        ("GET / HTTP/1.1\nHost: a\nHost: b", HOST_REPEATED),
        ("GET / HTTP/1.1\nHost: a\nX: y\nhost: a", HOST_REPEATED),
        ("GET / HTTP/2\n:authority: a\nhost: a\nhost: a", HOST_REPEATED),
        ("GET / HTTP/1.1\n:authority: a", HOST_MISSING),
        ("GET / HTTP/1.1\n:authority: a\nHost: b\nHost: b", HOST_REPEATED),
        ("GET / HTTP/1.1\n:authority: a\nHost: b c", HOST_MALFORMED),
        ("GET / HTTP/1.1\n:authority: a\nHost:", HOST_MALFORMED),
        ("GET / HTTP/1.1\n:authority: u@a\nHost: a", HOST_MALFORMED),
        ("GET / HTTP/2\n:authority: a\nhost: b", HOST_MISMATCH),
        ("GET / HTTP/2\n:authority: a:443\nhost: a:444", HOST_MISMATCH),
        ("GET / HTTP/2\n:authority: a:443\nhost: a", HOST_MISMATCH),
        ("GET / HTTP/2\n:scheme: http\n:authority: a:443\nhost: a", HOST_MISMATCH),
        ("GET / HTTP/2\n:scheme: https\n:authority: a:80\nhost: a", HOST_MISMATCH),
        ("GET / HTTP/2\n:scheme: https\n:authority: a:443\nhost: b:443", HOST_MISMATCH),
        ("GET / HTTP/2\n:scheme: https\n:authority: a\nhost: a b", HOST_MALFORMED),
    ]);
    for text in [
        "GET / HTTP/1.1\n:authority: A.\nHost: a",
        "GET / HTTP/2\n:authority: a\nhost: A",
        "GET / HTTP/2\nhost: a",
        "GET / HTTP/1.0\nHost: a",
        "GET / HTTP/1.1\n:scheme: http\n:authority: a\nHost: b",
        "GET / HTTP/1.1\n:scheme: http\n:authority: a\nHost: b:8080",
        "GET / HTTP/1.0\n:scheme: http\n:authority: a",
        "GET / HTTP/2\n:scheme: https\n:authority: A.:443\nhost: a",
        "GET / HTTP/2\n:scheme: HTTPS\n:authority: a\nhost: A:443",
        "GET / HTTP/2\n:scheme: http\n:authority: a:80\nhost: a.",
    ] {
        assert_eq!(read(text).unwrap().authority.host.as_str(), "a", "{text}");
    }
    let request = read("GET / HTTP/1.1\n:authority: a:8080\nHost: b:81").unwrap();
    assert_eq!(request.authority.port, Some(8080), "the whole authority is the target's");
}

#[test]
fn malformed_paths_are_rejected() {
    for (refusal, paths) in [
        (
            PATH_DOTS,
            &[
                "/.",
                "/..",
                "/./",
                "/../",
                "/a/..",
                "/a/.",
                "/a/../b",
                "/a/./b",
                "/%2e",
                "/%2E%2e",
                "/.%2e/b",
                "/%2e./b",
                "/a/%2e%2e/b",
                "/a/..%2fb",
                "/a%2f..%2fb",
                "/a%2F%2e%2e",
                "/..%5cb",
                "/a%5c..",
                "/..;/b",
                "/a/..;x=y/b",
                "/a/.;/b",
                "/%2e%2e;x",
                "/a/..%3bx/b",
                "//..",
            ][..],
        ),
        (PATH_BACKSLASH, &["/a\\b"]),
        (PATH_CONTROL, &["/%00", "/a%00.html", "/%0d%0aX", "/%0A", "/%09", "/%1f", "/%7f"]),
        (
            PATH_MALFORMED,
            &["/%", "/%2", "/%g0", "/%0g", "/a%", "/%%30", "/%u002e", "/caf\u{e9}", "/?caf\u{e9}"],
        ),
    ] {
        for path in paths {
            // Codecs cannot produce what the type of a path rejects.
            if PathAndQuery::new((*path).to_owned()).is_some() {
                assert_eq!(
                    read(&format!("GET {path} HTTP/1.1\nHost: a")).err(),
                    Some(refusal),
                    "{path}"
                );
            }
        }
    }
    let long = format!("GET /{} HTTP/1.1\nHost: a", "a".repeat(path::MAX_TARGET));
    assert_eq!(read(&long).err(), Some(TARGET_LONG));
    assert_rejected(&[("GET * HTTP/1.1\nHost: a", TARGET), ("GET a HTTP/1.1\nHost: a", TARGET)]);
}

#[test]
fn paths_are_unchanged_and_ambiguous_ones_detected() {
    use Reading::{Plain, Several};
    for (target, reading) in [
        ("/", Plain),
        ("/a/b?c=d", Plain),
        ("/a?x=../..&y=%00", Plain),
        ("/a?b=c/../d\\e", Plain),
        ("/a?b=\"<>^`{|}", Plain),
        ("/\"<>^`{|}[]", Plain),
        ("/.well-known/x", Plain),
        ("/a..b/.c/d.", Plain),
        ("/a%20b", Plain),
        ("/caf%C3%A9", Plain),
        ("/A%E2%80%93B", Plain),
        ("/a/50%25", Plain),
        ("/50%25-off/%25", Plain),
        ("/c++/+", Plain),
        ("/a.+b", Plain),
        ("/user%40a.example", Plain),
        ("/shop.v1.Cart/Add", Plain),
        ("/a%2fb", Several),
        ("/a%2Fb", Several),
        ("/a%5cb", Several),
        ("//a", Several),
        ("/a//b", Several),
        ("/a;b=c", Several),
        ("/%61dmin", Several),
        ("/a%2dmin", Several),
        ("/%7Euser", Several),
        ("/a%3bb", Several),
        ("/a%3fb", Several),
        ("/a%23b", Several),
        ("/a%252e%252e/b", Several),
        ("/a%252fb", Several),
        ("/a%255cb", Several),
        ("/a%2500", Several),
        ("/a%25u002e", Several),
        ("/a%25U002e", Several),
        ("/a%25%32e", Several),
        ("/a%20", Several),
        ("/a%20/b", Several),
        ("/%20a", Several),
        ("/..%20/a", Several),
        ("/.%20./a", Several),
        ("/..+/a", Several),
        ("/+../a", Several),
        ("/...", Several),
        ("/.../a", Several),
        ("/%ff", Several),
        ("/%c0%ae%c0%ae/a", Several),
        ("/caf%e9", Several),
        ("/%ef%bc%8e%ef%bc%8e/a", Several),
        ("/a%ef%bc%8fb", Several),
    ] {
        let request = read(&format!("GET {target} HTTP/1.1\nHost: a")).unwrap();
        assert_eq!((request.target.as_str(), request.reading), (target, reading));
    }
    assert_eq!(read("OPTIONS * HTTP/1.1\nHost: a").unwrap().target.as_str(), "*");
}

#[test]
fn unsupported_methods_versions_schemes_and_protocols_are_rejected() {
    assert_rejected(&[
        ("TRACE / HTTP/1.1\nHost: a", METHOD),
        ("TRACE / HTTP/2\n:authority: a", METHOD),
        ("CONNECT a HTTP/1.1\nHost: a", METHOD),
        ("CONNECT / HTTP/2\n:authority: a", METHOD),
        ("get / HTTP/1.1\nHost: a", METHOD),
        ("Post / HTTP/1.1\nHost: a", METHOD),
        ("PO!ST / HTTP/1.1\nHost: a", METHOD),
        ("AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\nHost: a", METHOD),
        ("GET / HTTP/3\nHost: a", VERSION),
        ("GET / HTTP/1.1\n:scheme: ftp\n:authority: a", SCHEME),
        ("GET / HTTP/2\n:scheme: ws\n:authority: a", SCHEME),
        ("CONNECT / HTTP/2\n:authority: a\n:protocol: connect-udp", PROTOCOL),
        ("GET / HTTP/2\n:authority: a\n:protocol: websocket", PROTOCOL),
    ]);
    for method in [
        "GET",
        "HEAD",
        "POST",
        "PUT",
        "DELETE",
        "OPTIONS",
        "PATCH",
        "PROPFIND",
        "M-SEARCH",
        "VERSION-CONTROL",
    ] {
        assert_eq!(read(&format!("{method} / HTTP/1.1\nHost: a")).unwrap().method.as_str(), method);
    }
    for scheme in ["http", "https", "HTTPS"] {
        assert!(read(&format!("GET / HTTP/2\n:scheme: {scheme}\n:authority: a")).is_ok());
    }
}

#[test]
fn repeated_or_misspelled_framing_and_routing_fields_are_rejected() {
    for name in [
        "Content_Length",
        "content.length",
        "Transfer_Encoding",
        "transfer~encoding",
        "Proxy_Connection",
        "Keep_Alive",
        "HTTP2_Settings",
        "Content_Type",
        "Sec_WebSocket_Key",
        "Content_Encoding",
    ] {
        assert_eq!(
            read(&format!("GET / HTTP/1.1\nHost: a\n{name}: 1")).err(),
            Some(FIELD_SPELLING),
            "{name}"
        );
    }
    for name in
        ["Content-Type", "Authorization", "Expect", "Sec-WebSocket-Key", "Sec-WebSocket-Version"]
    {
        let text =
            format!("GET / HTTP/1.1\nHost: a\n{name}: 100-continue\nX: y\n{name}: 100-continue");
        assert_eq!(read(&text).err(), Some(FIELD_REPEATED), "{name}");
    }
    for (line, fields) in [("GET / HTTP/1.1\nHost: a", 99), ("GET / HTTP/2\n:authority: a", 99)] {
        let many: String = (0..fields).map(|index| format!("\nX-{index}: y")).collect();
        assert!(read(&format!("{line}{many}")).is_ok(), "{line}");
        assert_eq!(read(&format!("{line}{many}\nX: y")).err(), Some(FIELDS_MANY), "{line}");
    }
    let many: String = (0..100).map(|index| format!("\nX-{index}: y")).collect();
    assert_eq!(read(&format!("GET / HTTP/1.1\nHost: a{many}")).err(), Some(FIELDS_MANY));
}

#[test]
fn hop_by_hop_fields_are_rejected_in_http2() {
    for field in [
        "connection: close",
        "keep-alive: 5",
        "proxy-connection: close",
        "transfer-encoding: chunked",
        "upgrade: websocket",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAARAAAAAAAIAAAAA",
    ] {
        assert_eq!(
            read(&format!("GET / HTTP/2\n:authority: a\n{field}")).err(),
            Some(FIELD_OF_CONNECTION),
            "{field}"
        );
    }
}

#[test]
fn hop_by_hop_fields_are_removed() {
    let text = "POST / HTTP/1.1\nHost: a\nContent-Length: 3\n:body: 3\nConnection: close, X-Hop \
                ,, x-none\nConnection: Keep-Alive\nKeep-Alive: 5\nProxy-Connection: \
                close\nProxy-Authorization: Basic eA==\nTE: gzip\nUpgrade: tls/1.0\nX-Hop: \
                1\nX-End: 2\nTrailer: X-Sum";
    assert_headers(text, &["trailer: X-Sum", "x-end: 2"]);
    assert_eq!(read(text).unwrap().body, BodyLength::Exact(3));
    assert_headers("GET / HTTP/1.1\nHost: a\nTE: trailers", &["te: trailers"]);
    assert_headers("GET / HTTP/1.1\nHost: a\nTE: Trailers", &[]);
    assert_headers("GET / HTTP/1.1\nHost: a\nTE: trailers, gzip", &[]);
    assert_headers("GET / HTTP/1.1\nHost: a\nTE: trailers\nTE: gzip", &[]);
}

#[test]
fn connection_cannot_remove_fields_with_a_meaning() {
    let text = "GET / HTTP/1.1\nHost: a\nConnection: host, authorization, cookie, content-type, \
                x-forwarded-for, te, cache-control, sec-websocket-protocol\nAuthorization: Bearer \
                x\nCookie: a=b\nContent-Type: text/plain\nCache-Control: \
                no-cache\nSec-WebSocket-Protocol: p\nTE: trailers";
    let expected = [
        "authorization: Bearer x",
        "cache-control: no-cache",
        "content-type: text/plain",
        "cookie: a=b",
        "sec-websocket-protocol: p",
        "te: trailers",
    ];
    assert_headers(text, &expected);
}

#[test]
fn identity_headers_of_clients_are_removed() {
    for name in [
        "X-Forwarded-User",
        "X_Forwarded_User",
        "x-forwarded_user",
        "X.Forwarded.User",
        "X-Forwarded-Email",
        "X-Forwarded-Groups",
        "X-Forwarded-Preferred-Username",
        "X-Forwarded-Access-Token",
        "X-Forwarded-Client-Cert",
        "X-Auth-Request-User",
        "X_Auth_Request_Email",
        "x-auth-request-groups",
        "X-Portcullis-User",
        "x_portcullis_application",
        "Remote-User",
        "Remote_User",
        "X-Remote-User",
        "X-WebAuth-User",
    ] {
        for trusted in [false, true] {
            let head = head(&format!("GET / HTTP/1.1\nHost: a\n{name}: root\n{name}: root"));
            let request = request(head, trusted, NonZeroUsize::new(100).unwrap()).unwrap();
            assert!(request.headers.is_empty(), "{name} {trusted}");
        }
    }
}

#[test]
fn forwarding_headers_are_accepted_from_trusted_clients_only() {
    for name in [
        "X-Forwarded-For",
        "X-Forwarded-Proto",
        "X-Forwarded-Host",
        "X-Forwarded-Port",
        "X-Forwarded-Prefix",
        "X-Real-IP",
        "Forwarded",
        "X-Request-Id",
        "traceparent",
        "tracestate",
        "X-Original-URL",
        "X-Rewrite-URL",
        "True-Client-IP",
    ] {
        let text = format!("GET / HTTP/1.1\nHost: a\n{name}: x");
        assert!(read(&text).unwrap().headers.is_empty(), "{name}");
        assert_eq!(
            request(head(&text), true, NonZeroUsize::new(100).unwrap()).unwrap().headers.len(),
            1,
            "{name}"
        );
    }
    for name in ["X_Forwarded_For", "x_real_ip", "X_Request.Id", "X_Original_URL"] {
        let head = head(&format!("GET / HTTP/1.1\nHost: a\n{name}: x"));
        assert!(
            request(head, true, NonZeroUsize::new(100).unwrap()).unwrap().headers.is_empty(),
            "{name}"
        );
    }
    assert_headers(
        "GET / HTTP/1.1\nHost: a\nX_Custom: 1\nAccept: */*",
        &["accept: */*", "x_custom: 1"],
    );
}

#[test]
fn unknown_expectations_are_rejected() {
    assert_rejected(&[
        ("POST / HTTP/1.1\nHost: a\nExpect: 200-ok", EXPECT),
        ("POST / HTTP/1.1\nHost: a\nExpect: 100-continue, x", EXPECT),
        ("POST / HTTP/1.1\nHost: a\nExpect: ", EXPECT),
    ]);
    for (text, waits) in [
        ("POST / HTTP/1.1\nHost: a\nExpect: 100-Continue", true),
        ("POST / HTTP/2\n:authority: a\nexpect: 100-continue", true),
        ("POST / HTTP/1.0\nHost: a\nExpect: 100-continue", false),
        ("POST / HTTP/1.1\nHost: a", false),
    ] {
        let request = read(text).unwrap();
        assert_eq!((request.expects_continue, request.headers.len()), (waits, 0), "{text}");
    }
}

const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 13";

#[test]
fn both_websocket_handshakes_are_accepted() {
    for text in [
        format!("GET /ws HTTP/1.1\nHost: a\nUpgrade: websocket\nConnection: Upgrade\n{KEY}"),
        format!(
            "GET /ws HTTP/1.1\nHost: a\nUpgrade: WebSocket\nConnection: keep-alive, upgrade\n{KEY}"
        ),
        format!(
            "GET /ws HTTP/1.1\nHost: a\nUpgrade: h2c, websocket\nConnection: Upgrade, \
             HTTP2-Settings\nHTTP2-Settings: AA\n{KEY}"
        ),
        "CONNECT /ws HTTP/2\n:authority: a\n:protocol: websocket\n:scheme: \
         https\nsec-websocket-version: 13"
            .to_owned(),
        "CONNECT /ws HTTP/2\n:authority: a\n:protocol: WebSocket\nsec-websocket-version: 13"
            .to_owned(),
    ] {
        let request = read(&text).unwrap();
        assert_eq!(
            (request.kind, request.body, request.method.as_str()),
            (Kind::WebSocket, BodyLength::Tunnel, "GET"),
            "{text}"
        );
        assert!(
            !request.headers.contains_key(header::UPGRADE)
                && request.headers.contains_key(header::SEC_WEBSOCKET_VERSION)
        );
    }
}

#[test]
fn invalid_websocket_handshakes_are_rejected() {
    let with = |head: &str| format!("{head}\nHost: a\nUpgrade: websocket\nConnection: Upgrade");
    for text in [
        with("GET / HTTP/1.1"),
        format!("{}\n{KEY}", with("POST / HTTP/1.1")),
        format!("{}\n{KEY}\n:body: 1", with("GET / HTTP/1.1")),
        format!(
            "{}\nSec-WebSocket-Key: short==\nSec-WebSocket-Version: 13",
            with("GET / HTTP/1.1")
        ),
        format!("{}\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", with("GET / HTTP/1.1")),
        format!(
            "{}\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\nSec-WebSocket-Version: 8",
            with("GET / HTTP/1.1")
        ),
        format!("GET / HTTP/1.1\nHost: a\nUpgrade: websocket\n{KEY}"),
        format!("GET / HTTP/1.1\nHost: a\nUpgrade: websocket\nConnection: close\n{KEY}"),
        "CONNECT / HTTP/2\n:authority: a\n:protocol: websocket".to_owned(),
    ] {
        assert_eq!(read(&text).err(), Some(WEBSOCKET), "{text}");
    }
    assert_rejected(&[(
        "CONNECT * HTTP/2\n:authority: a\n:protocol: websocket\nsec-websocket-version: 13",
        TARGET,
    )]);
}

#[test]
fn ignored_upgrades_are_removed() {
    for text in [
        "GET / HTTP/1.0\nHost: a\nUpgrade: websocket\nConnection: Upgrade",
        "GET / HTTP/1.1\nHost: a\nUpgrade: foo/2\nConnection: Upgrade",
        "GET / HTTP/1.1\nHost: a\nUpgrade: h2c\nConnection: Upgrade",
        "POST / HTTP/1.1\nHost: a\n:body: 3\nUpgrade: TLS/1.0, h2c\nConnection: Upgrade",
        "GET / HTTP/1.1\nHost: a\nConnection: Upgrade, HTTP2-Settings\nUpgrade: h2c\n\
         HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "GET / HTTP/1.1\nHost: a\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\nHTTP2-Settings: AA",
        "GET / HTTP/1.0\nHost: a\nUpgrade: h2c\nHTTP2-Settings: AA",
    ] {
        let request = read(text).unwrap();
        assert_eq!((request.kind, request.headers.len()), (Kind::Http, 0), "{text}");
    }
}

#[test]
fn grpc_is_detected_by_content_type() {
    for (content_type, kind) in [
        ("application/grpc", Kind::Grpc),
        ("application/grpc+proto", Kind::Grpc),
        ("Application/GRPC;x=y", Kind::Grpc),
        ("application/grpc-web", Kind::GrpcWeb),
        ("application/grpc-web-text+proto", Kind::GrpcWeb),
        ("application/grpcx", Kind::Http),
        ("application/grpc-x", Kind::Http),
        ("application/json", Kind::Http),
        ("text/application/grpc", Kind::Http),
    ] {
        assert_eq!(
            read(&format!("POST / HTTP/2\n:authority: a\ncontent-type: {content_type}"))
                .unwrap()
                .kind,
            kind,
            "{content_type}"
        );
    }
}

#[test]
fn refusal_reasons_are_unique() {
    let mut words: Vec<&str> = ALL.iter().map(|(refusal, _)| refusal.reason).collect();
    words.sort_unstable();
    words.dedup();
    assert_eq!(words.len(), ALL.len());
}

/// Compares the table in `docs/requests.md` with [`ALL`].
#[test]
fn the_documentation_lists_all_refusals() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requests.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    for (refusal, meaning) in ALL {
        let row = format!("| `{}` | {} |{meaning} |", refusal.reason, refusal.status.as_u16());
        assert!(documentation.contains(&row), "docs/requests.md lacks the row\n{row}");
    }
}

/// Compares the table of limits in `docs/requests.md` with the constants and defaults.
#[test]
fn the_documentation_lists_the_limits() {
    use portcullis_config::settings::Limits;

    use crate::{access, http1, request};

    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/requests.md");
    let documentation = std::fs::read_to_string(path).unwrap();
    let kib = |octets: usize| format!("{} KiB", octets / 1024);
    let limits = Limits::default();
    let (trailers, discard) =
        (http1::body::TRAILERS, usize::try_from(request::MAX_DISCARD).unwrap());
    for (what, limit) in [
        ("request line and header fields", kib(limits.request_head_bytes.get())),
        ("header fields", limits.request_headers.to_string()),
        ("path with its query", kib(path::MAX_TARGET)),
        ("method", format!("{MAX_METHOD} octets")),
        ("host", format!("{} octets", portcullis_config::model::MAX_HOSTNAME)),
        ("`Authorization`, `X-Api-Key`", kib(access::MAX_CREDENTIAL)),
        ("body of a request to the portal", kib(portcullis_identity::portal::MAX_BODY)),
        ("line of a chunk's size, with its extensions", kib(http1::body::MAX_CHUNK_LINE)),
        ("trailers", format!("{}, {} fields", kib(trailers.bytes), trailers.headers)),
        (
            "rest of a request's body after an early response, without closing the connection",
            kib(discard),
        ),
        (
            "status line and header fields of a response",
            format!(
                "{}, {} fields",
                kib(limits.response_head_bytes.get()),
                http1::head::MAX_RESPONSE_FIELDS
            ),
        ),
    ] {
        let row = format!("| {what} | {limit}");
        assert!(documentation.contains(&row), "docs/requests.md lacks the row\n{row}");
    }
}

proptest::proptest! {
    #[test]
    fn arbitrary_targets_and_hosts_do_not_panic(target in "/[ -~]{0,40}", host in "\\PC{0,40}") {
        if let (Some(target), Ok(host)) = (PathAndQuery::new(target), HeaderValue::from_str(&host)) {
            let mut head = head("GET / HTTP/1.1");
            head.target = Target::Path(target);
            head.headers.insert(header::HOST, host);
            let _ = request(head, false, NonZeroUsize::MIN);
        }
    }

    #[test]
    fn unambiguous_paths_have_no_dot_segments_after_decoding(path in "(/|%2f|%2e|%5c|\\.|;|a){0,8}") {
        let text = format!("GET /{path} HTTP/1.1\nHost: a");
        if let Ok(request) = read(&text) {
            let decoded = path.replace("%2f", "/").replace("%2e", ".").replace("%5c", "/");
            for segment in decoded.split('/').map(|segment| segment.split(';').next().unwrap_or_default()) {
                proptest::prop_assert!(segment != "." && segment != "..", "{text}: {:?}", request.target);
            }
        }
    }
}
