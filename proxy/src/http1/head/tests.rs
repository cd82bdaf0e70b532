use http::header::COOKIE;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 8 * 1024, headers: 8 };

fn read(text: &str) -> Result<RequestHead, Refusal> {
    request(BytesMut::from(text.as_bytes()), LIMITS).map(|parsed| parsed.head)
}

fn reason(text: &str) -> &'static str {
    read(text).expect_err("is refused").reason
}

fn read_response(text: &str, context: ResponseContext) -> Result<ParsedResponse, Broken> {
    response(BytesMut::from(text.as_bytes()), LIMITS, context)
}

const GET: ResponseContext = ResponseContext { head: false, upgrade: false };

#[test]
fn a_request_is_parsed() {
    let head = read("POST /a?b=c HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nX-A:  v \r\n\r\n")
        .expect("is well-formed");
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.version, Version::HTTP_11);
    assert_eq!(head.target, Target::Path(PathAndQuery::new("/a?b=c").unwrap()));
    assert_eq!(head.body, BodyLength::Exact(5));
    assert_eq!(head.headers["x-a"], "v");
    assert_eq!(head.authority, None);
}

#[test]
fn an_absolute_target_keeps_its_authority_as_written() {
    for (target, path) in
        [("http://H:80/x?y", "/x?y"), ("http://H:80", "/"), ("http://H:80?q", "/?q")]
    {
        let head =
            read(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n")).expect("is well-formed");
        assert_eq!(head.authority.as_deref(), Some(&b"H:80"[..]), "{target}");
        assert_eq!(head.scheme.as_deref(), Some(&b"http"[..]), "{target}");
        assert_eq!(
            head.target,
            Target::Path(PathAndQuery::new(path).expect("is a path")),
            "{target}"
        );
    }
}

#[test]
fn ambiguous_framing_is_rejected() {
    for (fields, expected) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", "length_and_coding"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", "length_and_coding"),
        ("Content-Length: 5\r\nContent-Length: 5", "two_content_lengths"),
        ("Content-Length: 5, 5", "bad_content_length"),
        ("Content-Length: +5", "bad_content_length"),
        ("Content-Length: 0x5", "bad_content_length"),
        ("Content-Length:", "bad_content_length"),
        ("Content-Length: 99999999999999999999", "bad_content_length"),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "two_transfer_codings"),
        ("Transfer-Encoding: gzip, chunked", "unknown_transfer_coding"),
        ("Transfer-Encoding: xchunked", "unknown_transfer_coding"),
        ("Transfer-Encoding: \x0bchunked", "bad_header_value"),
        ("Content-Length : 5", "bad_header_name"),
        ("X: a\r\n folded", "bad_header_name"),
        ("X: a\0b", "bad_header_value"),
        ("X: a\rb", "bad_header_value"),
    ] {
        assert_eq!(
            reason(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n")),
            expected,
            "{fields:?}"
        );
    }
    assert_eq!(reason("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), "coding_in_http10");
}

#[test]
fn malformed_request_lines_are_rejected() {
    for (line, expected) in [
        ("GET  / HTTP/1.1", "bad_request_line"),
        ("GET / HTTP/1.2", "bad_version"),
        ("GET / HTTP/2.0", "bad_version"),
        ("GET / http/1.1", "bad_version"),
        ("GET /a#b HTTP/1.1", "bad_target"),
        ("GET a HTTP/1.1", "bad_target"),
        ("GET * HTTP/1.1", "bad_target"),
        ("G@T / HTTP/1.1", "bad_request_line"),
    ] {
        assert_eq!(reason(&format!("{line}\r\nHost: h\r\n\r\n")), expected, "{line}");
    }
}

#[test]
fn too_many_fields_are_rejected() {
    let fields = "X: y\r\n".repeat(9);
    assert_eq!(reason(&format!("GET / HTTP/1.1\r\n{fields}\r\n")), "too_many_headers");
}

#[test]
fn a_limit_beyond_the_table_on_the_stack_holds() {
    let limits = |headers| HeadLimits { bytes: 64 * 1024, headers };
    for limit in [300, 1_000, 5_000] {
        let with = |fields: usize| {
            let lines: String = (1..fields).map(|number| format!("X-{number}: y\r\n")).collect();
            let text = format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            request(BytesMut::from(text.as_bytes()), limits(limit))
        };
        assert_eq!(with(limit).expect("is within the limit").head.headers.len(), limit);
        assert_eq!(with(limit + 1).expect_err("is refused").reason, "too_many_headers");
    }
}

#[test]
fn cookie_fields_count_as_one() {
    for number in [1, 7, 8, 9, 300, 3_000] {
        let cookies: Vec<_> = (0..number).map(|number| format!("c{number}=v")).collect();
        let lines: String = cookies.iter().map(|cookie| format!("cookie: {cookie}\r\n")).collect();
        let others: String = (1..7).map(|number| format!("X-{number}: y\r\n")).collect();
        let text = |other: &str| format!("GET / HTTP/1.1\r\nHost: h\r\n{lines}{others}{other}\r\n");
        let head = read(&text("")).expect("is within the limit");
        assert_eq!(head.headers[COOKIE], cookies.join("; "));
        assert_eq!(head.headers.get_all(COOKIE).iter().count(), 1);
        assert!(head.headers.capacity() < 64, "{}", head.headers.capacity());
        assert_eq!(reason(&text("Cookies: y\r\n")), "too_many_headers", "{number}");
    }
}

#[test]
fn every_printable_character_but_a_fragment_passes_in_a_target() {
    for octet in 0x21..=0x7e_u8 {
        let target = format!("/a?b={}", char::from(octet));
        let head = read(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
        let expected = (octet != b'#').then(|| Target::Path(PathAndQuery::new(target).unwrap()));
        assert_eq!(head.ok().map(|head| head.target), expected, "{octet}");
    }
}

#[test]
fn the_end_of_a_head_is_found_at_every_split() {
    let octets = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nrest";
    for split in 0..octets.len() {
        let mut scanner = HeadScanner::default();
        let first = scanner.scan(&octets[..split], 1024).expect("is no fault");
        let found = first.or_else(|| scanner.scan(octets, 1024).expect("is no fault"));
        assert_eq!(found, Some(octets.len() - 4), "split at {split}");
    }
}

#[test]
fn bare_line_feeds_are_rejected() {
    for octets in [
        &b"GET / HTTP/1.1\nHost: h\r\n\r\n"[..],
        b"GET / HTTP/1.1\r\nHost: h\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n\n",
        b"\n",
    ] {
        assert_eq!(
            HeadScanner::default().scan(octets, 1024),
            Err(HeadFault::BareLineFeed),
            "{octets:?}"
        );
    }
}

#[test]
fn a_head_over_the_limit_is_rejected_complete_or_not() {
    let long_line = [b"GET /".to_vec(), vec![b'a'; 200]].concat();
    assert_eq!(HeadScanner::default().scan(&long_line, 100), Err(HeadFault::TooLong { lines: 0 }));
    let whole = [b"GET / HTTP/1.1\r\nX: ".to_vec(), vec![b'a'; 200], b"\r\n\r\n".to_vec()].concat();
    assert_eq!(HeadScanner::default().scan(&whole, 100), Err(HeadFault::TooLong { lines: 1 }));
}

#[test]
fn joined_cookies_count_for_the_length_of_a_head() {
    let line = "Cookie: aaaaaaaaaa\r\n";
    let head = |number| format!("GET / HTTP/1.1\r\n{}\r\n", line.repeat(number)).into_bytes();
    let scan = |octets: &[u8], limit| HeadScanner::default().scan(octets, limit);
    // 18 octets, and 12 for each further cookie.
    for (number, limit, fits) in [(1, 37, true), (1, 36, false), (5, 85, true), (5, 84, false)] {
        let octets = head(number);
        let expected = fits.then_some(octets.len());
        assert_eq!(scan(&octets, limit).unwrap_or_default(), expected, "{number} {limit}");
        let mut scanner = HeadScanner::default();
        let found =
            (1..=octets.len()).find_map(|end| scanner.scan(&octets[..end], limit).transpose());
        assert_eq!(
            found.is_some_and(|found| found.is_ok()),
            fits,
            "octet by octet: {number} {limit}"
        );
    }
    let empty = format!("GET / HTTP/1.1\r\n{}\r\n", "Cookie:\r\n".repeat(1_000)).into_bytes();
    assert!(scan(&empty, 4_000).is_err(), "at most twice the limit is read");
}

#[test]
fn response_framing_depends_on_the_head_and_the_request() {
    let head = ResponseContext { head: true, ..GET };
    for (text, context, expected) in [
        ("200 OK\r\nContent-Length: 5", GET, ResponseBody::Exact(5)),
        ("200 OK\r\nTransfer-Encoding: chunked", GET, ResponseBody::Chunked),
        ("200 OK", GET, ResponseBody::UntilClose),
        ("200 OK\r\nContent-Length: 5", head, ResponseBody::None),
        ("304 Not Modified\r\nContent-Length: 5", GET, ResponseBody::None),
        ("204 No Content", GET, ResponseBody::None),
        ("103 Early Hints", GET, ResponseBody::None),
        ("101 Switching Protocols", ResponseContext { upgrade: true, ..GET }, ResponseBody::Tunnel),
    ] {
        let parsed =
            read_response(&format!("HTTP/1.1 {text}\r\n\r\n"), context).expect("is well-formed");
        assert_eq!(parsed.body, expected, "{text}");
    }
}

#[test]
fn an_ambiguous_response_is_an_error() {
    for text in [
        "200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked",
        "200 OK\r\nContent-Length: 5\r\nContent-Length: 6",
        "200 OK\r\nTransfer-Encoding: gzip",
        "200 OK\r\nX: a\r\n folded",
        "200 OK\r\nX : a",
        "101 Switching Protocols",
        "099 Too Low",
        "20 Short",
    ] {
        assert!(read_response(&format!("HTTP/1.1 {text}\r\n\r\n"), GET).is_err(), "{text}");
    }
}

#[test]
fn a_connection_persists_only_if_both_ends_agree() {
    let persists = |text: &str| read_response(text, GET).expect("is well-formed").keep_alive;
    assert!(persists("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(!persists("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n\r\n"));
    assert!(!persists("HTTP/1.1 200 OK\r\n\r\n"));
    assert!(!persists("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"));
    assert!(persists("HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n"));
}

#[test]
fn framing_fields_of_a_status_without_a_body_are_dropped() {
    let upgrade = ResponseContext { upgrade: true, ..GET };
    for fields in [
        "Content-Length: 0",
        "Content-Length: 5",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding: chunked",
        "Content-Length: 0\r\nTransfer-Encoding: gzip, chunked",
    ] {
        for status in
            ["100 Continue", "101 Switching Protocols", "103 Early Hints", "204 No Content"]
        {
            let text = format!("HTTP/1.1 {status}\r\n{fields}\r\n\r\n");
            let parsed = read_response(&text, upgrade).expect(&text);
            assert!(parsed.head.headers.is_empty(), "{text}");
        }
    }
    let parsed = read_response("HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", GET);
    assert!(parsed.expect("is well-formed").head.headers.contains_key(CONTENT_LENGTH));
}
