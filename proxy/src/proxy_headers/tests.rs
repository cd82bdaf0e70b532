use std::rc::Rc;

use bytes::BytesMut;

use super::prepared::{PreparedCache, PreparedHeaders, ProxyHeaders};
use super::*;
use crate::http1::outbound::put_field;
use crate::http2::hpack;
use crate::normalize;
use crate::normalize::Authority;
use crate::normalize::tests::head;

const DATE: HeaderValue = HeaderValue::from_static("Sat, 21 Nov 2026 10:00:00 GMT");

fn settings(forwarded: bool) -> ProxyHeaderSettings {
    ProxyHeaderSettings {
        forwarded,
        trusted: vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
        believed: TrustedHeader::XForwarded,
    }
}

fn peer(client: &str, tls: bool) -> Peer {
    let client: std::net::SocketAddr = client.parse().unwrap();
    Peer {
        client,
        tls,
        trusted: settings(false).trusts(client.ip()),
        listener: "https",
        certificate: None,
    }
}

/// Returns the fields that a backend receives from a client at `from`, sorted, without the id.
fn forwarded(from: &str, fields: &str, settings: &ProxyHeaderSettings) -> Vec<String> {
    let peer = peer(from, true);
    let head = head(&format!("GET / HTTP/1.1\nHost: A.example:8443{fields}"));
    let mut read = normalize::request(head, peer.trusted, std::num::NonZeroUsize::MAX).unwrap();
    let id = RequestId::given(&read.headers).unwrap_or_else(|| RequestId::new(0, 0));
    let address = client(&read.headers, &peer, settings);
    if peer.trusted {
        extend(&mut read, &peer, address, &id, settings);
    } else {
        let prepared = PreparedCache::new().of(address, &read.authority, settings);
        ProxyHeaders { prepared: &prepared, id: &id }.set(&mut read.headers);
    }
    let mut lines: Vec<String> = read
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines.retain(|line| !line.starts_with("x-request-id: 00000000-0000-7000-"));
    lines
}

#[test]
fn headers_of_untrusted_clients_are_replaced() {
    let claims = "\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-Proto: http\nX-Forwarded-Host: \
                  evil\nX-Forwarded-Port: 1\nX-Real-IP: 1.1.1.1\nX-Request-Id: mine\nForwarded: \
                  for=1.1.1.1\ntraceparent: \
                  00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: a=b";
    let expected = [
        "x-forwarded-for: 192.0.2.1",
        "x-forwarded-host: a.example:8443",
        "x-forwarded-port: 8443",
        "x-forwarded-proto: https",
        "x-real-ip: 192.0.2.1",
    ];
    assert_eq!(forwarded("192.0.2.1:5000", claims, &settings(false)), expected);
    assert_eq!(forwarded("[::ffff:192.0.2.1]:5000", claims, &settings(false)), expected);
}

#[test]
fn headers_of_trusted_proxies_are_extended() {
    let claims = "\nX-Forwarded-For: 192.0.2.9, 10.1.1.1\nX-Forwarded-For: \
                  10.2.2.2\nX-Forwarded-Proto: http\nX-Forwarded-Host: \
                  b.example\nX-Forwarded-Port: 80\nX-Request-Id: mine\ntraceparent: \
                  00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\ntracestate: a=b";
    let expected = [
        "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "tracestate: a=b",
        "x-forwarded-for: 192.0.2.9, 10.1.1.1, 10.2.2.2, 10.3.3.3",
        "x-forwarded-host: b.example",
        "x-forwarded-port: 80",
        "x-forwarded-proto: http",
        "x-real-ip: 192.0.2.9",
        "x-request-id: mine",
    ];
    assert_eq!(forwarded("10.3.3.3:5000", claims, &settings(false)), expected);
}

#[test]
fn malformed_headers_of_trusted_proxies_are_replaced() {
    let claims = "\nX-Forwarded-Proto: gopher\nX-Forwarded-Port: x\nX-Forwarded-Host: \
                  b c\nX-Request-Id: a b\ntraceparent: \
                  00-00000000000000000000000000000000-b7ad6b7169203331-01\ntracestate: a=b";
    let expected = [
        "x-forwarded-for: 10.3.3.3",
        "x-forwarded-host: a.example:8443",
        "x-forwarded-port: 8443",
        "x-forwarded-proto: https",
        "x-real-ip: 10.3.3.3",
    ];
    assert_eq!(forwarded("10.3.3.3:5000", claims, &settings(false)), expected);
}

#[test]
fn the_client_is_the_last_untrusted_address() {
    for (list, client) in [
        ("\nX-Forwarded-For: 1.1.1.1, 192.0.2.9, 10.1.1.1", "192.0.2.9"),
        ("\nX-Forwarded-For: 1.1.1.1\nX-Forwarded-For: 192.0.2.9:4711", "192.0.2.9"),
        ("\nX-Forwarded-For: [2001:db8::1]:4711, fd00::1", "2001:db8::1"),
        ("\nX-Forwarded-For: 10.9.9.9, 10.1.1.1", "10.9.9.9"),
        ("\nX-Forwarded-For: 192.0.2.9, unknown, 10.1.1.1", "10.1.1.1"),
        ("\nX-Real-IP: 192.0.2.9", "192.0.2.9"),
        ("\nX-Real-IP: nonsense", "10.3.3.3"),
        ("", "10.3.3.3"),
    ] {
        let lines = forwarded("10.3.3.3:5000", list, &settings(false));
        assert!(lines.contains(&format!("x-real-ip: {client}")), "{list}: {lines:?}");
    }
}

/// What is known of the client of a request with these fields, from a proxy over `tls`.
fn facts(fields: &str, tls: bool, believed: TrustedHeader) -> (String, bool) {
    let settings = ProxyHeaderSettings { believed, ..settings(false) };
    let head = head(&format!("GET / HTTP/1.1\nHost: a{fields}"));
    let client = client(&head.headers, &peer("10.3.3.3:5000", tls), &settings);
    (client.address.to_string(), client.tls)
}

#[test]
fn the_scheme_is_that_of_the_client() {
    for (fields, tls) in [
        ("\nX-Forwarded-Proto: https", true),
        ("\nX-Forwarded-Proto: HTTPS", true),
        ("\nX-Forwarded-Proto: https,http", true),
        ("\nX-Forwarded-Proto: https , http", true),
        ("\nX-Forwarded-Proto: https\nX-Forwarded-Proto: http", true),
        ("\nX-Forwarded-Proto: http\nX-Forwarded-Proto: https", false),
        ("\nX-Forwarded-Proto: http, https", false),
        ("\nX-Forwarded-Proto: wss", true),
        ("\nX-Forwarded-Proto: ws", false),
        ("\nX-Forwarded-Proto: http", false),
        ("\nX-Forwarded-Proto: gopher", false),
        ("\nX-Forwarded-Proto:", false),
        // As long as the list of addresses: the element of the client.
        ("\nX-Forwarded-For: 192.0.2.9, 10.1.1.1\nX-Forwarded-Proto: https, http", true),
        ("\nX-Forwarded-For: 1.1.1.1, 192.0.2.9\nX-Forwarded-Proto: https, http", false),
        (
            "\nX-Forwarded-For: 1.1.1.1, 192.0.2.9\nX-Forwarded-Proto: http\nX-Forwarded-Proto: https",
            true,
        ),
        ("\nX-Forwarded-For: 192.0.2.9, 10.1.1.1\nX-Forwarded-Proto: https", true),
        ("\nX-Forwarded-For: 192.0.2.9\nX-Forwarded-Proto: https,http", true),
        ("\nForwarded: proto=https", false),
        ("", false),
    ] {
        assert_eq!(facts(fields, false, TrustedHeader::XForwarded).1, tls, "{fields}");
    }
    assert!(facts("", true, TrustedHeader::XForwarded).1);
    assert!(!facts("\nX-Forwarded-Proto: http", true, TrustedHeader::XForwarded).1);
}

#[test]
fn rfc_7239_is_read_if_the_settings_say_so() {
    for (fields, address, tls) in [
        ("\nForwarded: for=192.0.2.9;proto=https;host=b", "192.0.2.9", true),
        ("\nForwarded: For=\"192.0.2.9:4711\"; Proto=HTTPS", "192.0.2.9", true),
        ("\nForwarded: for=\"[2001:db8::1]:4711\";proto=http", "2001:db8::1", false),
        (
            "\nForwarded: for=1.1.1.1;proto=http, for=192.0.2.9;proto=https, for=10.1.1.1;proto=http",
            "192.0.2.9",
            true,
        ),
        (
            "\nForwarded: for=192.0.2.9;proto=https\nForwarded: for=10.1.1.1;proto=http",
            "192.0.2.9",
            true,
        ),
        ("\nForwarded: for=_hidden;proto=https", "10.3.3.3", true),
        ("\nForwarded: for=unknown;proto=https, for=10.1.1.1", "10.1.1.1", true),
        ("\nForwarded: for=192.0.2.9;proto=https;by=\"a,b;c\"", "192.0.2.9", true),
        ("\nForwarded: , for=192.0.2.9;proto=https;;, ", "192.0.2.9", true),
        ("\nForwarded: for=192.0.2.9", "192.0.2.9", false),
        // In doubt, nothing is taken from it.
        ("\nForwarded: for=192.0.2.9;proto=\"https", "10.3.3.3", false),
        ("\nForwarded: for=192.0.2.9;for=1.1.1.1;proto=https", "10.3.3.3", false),
        ("\nForwarded: for=192.0.2.9 proto=https", "10.3.3.3", false),
        ("\nForwarded: 192.0.2.9;proto=https", "10.3.3.3", false),
        ("\nForwarded: for=\"192.0.2.9\\\"\";proto=https", "10.3.3.3", false),
        (
            "\nX-Forwarded-For: 192.0.2.9\nX-Forwarded-Proto: https\nX-Real-IP: 192.0.2.9",
            "10.3.3.3",
            false,
        ),
    ] {
        let expected = (address.to_owned(), tls);
        assert_eq!(facts(fields, false, TrustedHeader::Forwarded), expected, "{fields}");
    }
}

#[test]
fn rfc_7239_is_translated_for_backends() {
    let settings = ProxyHeaderSettings { believed: TrustedHeader::Forwarded, ..settings(false) };
    let claims = "\nX-Forwarded-For: 9.9.9.9\nX-Forwarded-Proto: http\nX-Forwarded-Host: \
                  evil\nX-Forwarded-Port: 1\nForwarded: for=1.1.1.1;host=c, \
                  for=192.0.2.9;proto=https;host=\"B.example:444\", for=10.1.1.1";
    let expected = [
        "x-forwarded-for: 192.0.2.9, 10.1.1.1, 10.3.3.3",
        "x-forwarded-host: b.example:444",
        "x-forwarded-port: 444",
        "x-forwarded-proto: https",
        "x-real-ip: 192.0.2.9",
    ];
    assert_eq!(forwarded("10.3.3.3:5000", claims, &settings), expected);
    let expected = [
        "x-forwarded-for: 10.3.3.3",
        "x-forwarded-host: a.example:8443",
        "x-forwarded-port: 8443",
        "x-forwarded-proto: https",
        "x-real-ip: 10.3.3.3",
    ];
    assert_eq!(forwarded("10.3.3.3:5000", "", &settings), expected);
}

#[test]
fn lists_become_one_value() {
    let claims = "\nX-Forwarded-For: 192.0.2.9, 10.1.1.1\nX-Forwarded-Proto: HTTPS, \
                  http\nX-Forwarded-Host: b.example, c\nX-Forwarded-Port: 444, 80";
    let expected = [
        "x-forwarded-for: 192.0.2.9, 10.1.1.1, 10.3.3.3",
        "x-forwarded-host: b.example",
        "x-forwarded-port: 444",
        "x-forwarded-proto: https",
        "x-real-ip: 192.0.2.9",
    ];
    assert_eq!(forwarded("10.3.3.3:5000", claims, &settings(false)), expected);
}

#[test]
fn forwarded_is_sent_if_enabled() {
    let has = |from, fields, line: &str| {
        let lines = forwarded(from, fields, &settings(true));
        assert!(lines.contains(&line.to_owned()), "{lines:?}");
    };
    has(
        "192.0.2.1:5000",
        "\nForwarded: for=1.1.1.1",
        "forwarded: for=192.0.2.1;host=\"a.example:8443\";proto=https",
    );
    has(
        "[2001:db8::1]:5000",
        "",
        "forwarded: for=\"[2001:db8::1]\";host=\"a.example:8443\";proto=https",
    );
    has(
        "10.3.3.3:1",
        "\nForwarded: for=1.1.1.1",
        "forwarded: for=1.1.1.1, for=10.3.3.3;host=\"a.example:8443\";proto=https",
    );
    let without = forwarded("10.3.3.3:1", "\nForwarded: for=1.1.1.1", &settings(false));
    assert!(without.iter().all(|line| !line.starts_with("forwarded")), "{without:?}");
}

#[test]
fn clients_cannot_remove_proxy_headers() {
    let named = "\nConnection: x-forwarded-for, x-forwarded-proto, x-real-ip, x-request-id, \
                 x-forwarded-host, x-forwarded-port";
    assert_eq!(
        forwarded("192.0.2.1:5000", named, &settings(false)),
        forwarded("192.0.2.1:5000", "", &settings(false))
    );
}

fn prepared(client: &str, host: &str, settings: &ProxyHeaderSettings) -> Rc<PreparedHeaders> {
    let facts = ClientFacts::of_connection(&peer(client, true));
    PreparedCache::new().of(facts, &Authority::parse(host.as_bytes()).unwrap(), settings)
}

#[test]
fn prepared_headers_are_the_same_in_all_forms() {
    for (client, host) in [("192.0.2.1:5000", "a.example"), ("[2001:db8::1]:5000", "[::1]:8443")] {
        let (prepared, id) = (prepared(client, host, &settings(true)), RequestId::new(7, 9));
        let headers = ProxyHeaders { prepared: &prepared, id: &id };
        let (mut map, mut lines, mut block) = (HeaderMap::new(), BytesMut::new(), Vec::new());
        headers.set(&mut map);
        headers.put_lines(&mut lines);
        headers.put_block(&mut block);
        assert_eq!((map.len(), prepared.host()), (7, &map[&X_FORWARDED_HOST]));
        let (mut map_lines, mut map_block) = (BytesMut::new(), Vec::new());
        for (name, value) in &map {
            put_field(name, value, &mut map_lines);
            hpack::field(name, value, &mut map_block);
        }
        let sorted = |lines: &[u8]| {
            let mut lines: Vec<_> =
                lines.split(|octet| *octet == b'\n').map(<[u8]>::to_vec).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&lines), sorted(&map_lines));
        assert_eq!(block, map_block);
    }
}

#[test]
fn prepared_headers_are_of_one_client_and_host() {
    let cache = PreparedCache::new();
    let of = |client: &str, tls, host: &str| {
        let facts = ClientFacts::of_connection(&peer(client, tls));
        cache.of(facts, &Authority::parse(host.as_bytes()).unwrap(), &settings(false))
    };
    let first = of("192.0.2.1:1", true, "a");
    assert!(Rc::ptr_eq(&first, &of("192.0.2.1:2", true, "A.")), "another connection");
    for (client, tls, host) in [
        ("192.0.2.2:1", true, "a"),
        ("192.0.2.1:1", false, "a"),
        ("192.0.2.1:1", true, "b"),
        ("192.0.2.1:1", true, "a:443"),
    ] {
        let other = of(client, tls, host);
        let fields = |prepared: &PreparedHeaders| {
            let mut map = HeaderMap::new();
            ProxyHeaders { prepared, id: &RequestId::new(0, 0) }.set(&mut map);
            map
        };
        assert_ne!(fields(&first), fields(&other), "{client} {tls} {host}");
    }
    // More hosts than slots.
    for number in 0..1_000 {
        let host = format!("host{number}");
        assert_eq!(of("192.0.2.1:1", true, &host).host(), &*host);
    }
}

#[test]
fn new_ids_are_uuids_of_version_7() {
    assert_eq!(
        RequestId::new(0x0192_3456_789a, u128::MAX).as_str(),
        "01923456-789a-7fff-bfff-ffffffffffff"
    );
    assert_eq!(RequestId::new(0, 0).as_str(), "00000000-0000-7000-8000-000000000000");
    assert_ne!(RequestId::new(0, 1).as_str(), RequestId::new(0, 2).as_str());
}

#[test]
fn ids_with_unsafe_characters_are_replaced() {
    for (id, accepted) in [
        ("abc-1.2_3:4=+/", true),
        ("", false),
        ("a b", false),
        ("<b>", false),
        ("a\"b", false),
        ("caf\u{e9}", false),
        (&"a".repeat(129), false),
    ] {
        let mut headers = HeaderMap::new();
        headers.insert(&X_REQUEST_ID, HeaderValue::from_bytes(id.as_bytes()).unwrap());
        assert_eq!(RequestId::given(&headers).is_some(), accepted, "{id}");
        headers.append(&X_REQUEST_ID, HeaderValue::from_static("second"));
        assert!(RequestId::given(&headers).is_none());
    }
}

#[test]
fn malformed_trace_contexts_are_removed() {
    for (parent, valid) in [
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00", true),
        ("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", true),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more", false),
        ("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", false),
        ("00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false),
        ("00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01", false),
        ("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331", false),
        ("", false),
    ] {
        assert_eq!(is_traceparent(parent.as_bytes()), valid, "{parent}");
    }
}

fn response_headers(fields: &[(&str, &str)]) -> Vec<String> {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_str(value).unwrap(),
        );
    }
    let mut head = ResponseHead { status: StatusCode::OK, headers };
    response(&mut head);
    add_date(&mut head.headers, &DATE);
    let mut lines: Vec<String> = head
        .headers
        .iter()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
        .collect();
    lines.sort();
    lines
}

#[test]
fn responses_keep_end_to_end_fields_and_get_a_date() {
    let fields = [
        ("connection", "close, x-hop, set-cookie, content-type"),
        ("keep-alive", "5"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "h2c"),
        ("x-hop", "1"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("content-type", "text/plain"),
        ("content-length", "3"),
        ("trailer", "grpc-status"),
    ];
    let expected = [
        "content-length: 3",
        "content-type: text/plain",
        "date: Sat, 21 Nov 2026 10:00:00 GMT",
        "set-cookie: a=1",
        "set-cookie: b=2",
        "trailer: grpc-status",
    ];
    assert_eq!(response_headers(&fields), expected);
    assert_eq!(response_headers(&[("date", "theirs")]), ["date: theirs"]);
}

#[test]
fn framing_of_an_impossible_body_is_removed() {
    for (status, is_kept) in [(100, false), (101, false), (103, false), (204, false), (304, true)] {
        let mut head = ResponseHead {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::from_iter([
                (header::CONTENT_LENGTH, HeaderValue::from_static("5")),
                (header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
            ]),
        };
        response(&mut head);
        assert_eq!(head.headers.contains_key(header::CONTENT_LENGTH), is_kept, "{status}");
        assert!(!head.headers.contains_key(header::TRANSFER_ENCODING), "{status}");
    }
}
