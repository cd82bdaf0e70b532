//! Ambiguous raw HTTP/1.1: rejected alike for known and unknown hosts,
//! without reaching a backend.

use crate::harness::{Gateway, Raw, Recording, Response, Step, WEB, World, without_ids};

/// A host that was never configured.
const UNKNOWN: &str = "nothing--staging.apps.test";

/// An input, and the allowed responses.
struct Case {
    name: &'static str,
    /// `{host}` is replaced.
    octets: Vec<u8>,
    status: &'static [u16],
    /// Whether the connection must be closed, because the start of the next request is ambiguous.
    closes: bool,
}

const BAD: &[u16] = &[400];
/// An unknown transfer coding may be answered by 501 (RFC 9112 §6.1).
const CODING: &[u16] = &[400, 501];

/// A rejected request after which the connection is closed.
fn closed(name: &'static str, octets: impl Into<Vec<u8>>) -> Case {
    Case { name, octets: octets.into(), status: BAD, closes: true }
}

/// The same with these fields after a good `Host`, and nothing after the head.
fn fields(name: &'static str, fields: &str) -> Case {
    closed(name, format!("POST / HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\n\r\n"))
}

/// An ambiguous transfer coding, before a body that is well-formed if it is
/// chunked.
fn coding(name: &'static str, fields: &str) -> Case {
    let octets = format!(
        "POST / HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\n\r\n0\r\n\r\nGET /smuggled \
         HTTP/1.1\r\nHost: {{host}}\r\n\r\n"
    );
    Case { status: CODING, ..closed(name, octets) }
}

/// An ambiguous length.
fn length(name: &'static str, fields: &str) -> Case {
    closed(
        name,
        format!(
            "POST / HTTP/1.1\r\nHost: {{host}}\r\n{fields}\r\n\r\nabcGET /smuggled \
             HTTP/1.1\r\nHost: {{host}}\r\n\r\n"
        ),
    )
}

/// A request line, with a good `Host`.
fn line(name: &'static str, line: &str) -> Case {
    closed(name, format!("{line}\r\nHost: {{host}}\r\n\r\n"))
}

/// A `Host` and other fields.
fn host(name: &'static str, fields: &str) -> Case {
    closed(name, format!("GET / HTTP/1.1\r\n{fields}\r\n\r\n"))
}

fn status(case: Case, status: &'static [u16]) -> Case {
    Case { status, ..case }
}

fn may_stay_open(case: Case) -> Case {
    Case { closes: false, ..case }
}

fn framing() -> Vec<Case> {
    vec![
        coding("CL.TE", "Content-Length: 6\r\nTransfer-Encoding: chunked"),
        coding("TE.CL", "Transfer-Encoding: chunked\r\nContent-Length: 6"),
        coding("TE.TE identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
        coding("TE.TE twice chunked", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
        coding("chunked is not the last coding", "Transfer-Encoding: chunked, identity"),
        coding("chunked twice in a list", "Transfer-Encoding: chunked, chunked"),
        coding("gzip before chunked", "Transfer-Encoding: gzip, chunked"),
        coding("a coding that only begins like chunked", "Transfer-Encoding: chunkedx"),
        coding("a coding that only ends like chunked", "Transfer-Encoding: xchunked"),
        coding("a quoted coding", "Transfer-Encoding: \"chunked\""),
        coding("a coding with a parameter", "Transfer-Encoding: chunked;q=1"),
        coding("an empty coding", "Transfer-Encoding:"),
        coding("an empty element before chunked", "Transfer-Encoding: ,chunked"),
        coding("identity alone", "Transfer-Encoding: identity"),
        coding("a vertical tab before the coding", "Transfer-Encoding: \x0bchunked"),
        coding("a space before the colon", "Transfer-Encoding : chunked"),
        coding("a tab before the colon", "Transfer-Encoding\t: chunked"),
        coding("a coding spelled with an underscore", "Transfer_Encoding: chunked"),
        coding("a coding in a folded line", "Transfer-Encoding:\r\n chunked"),
        coding("a bare LF before the coding", "X: y\nTransfer-Encoding: chunked"),
        coding("a bare CR before the coding", "X: y\rTransfer-Encoding: chunked"),
        status(
            closed(
                "HTTP/1.0 with a coding",
                "POST / HTTP/1.0\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            ),
            CODING,
        ),
        length("a list of equal lengths", "Content-Length: 3, 3"),
        length("two equal lengths", "Content-Length: 3\r\nContent-Length: 3"),
        length("two different lengths", "Content-Length: 3\r\nContent-Length: 0"),
        length("a length with a plus", "Content-Length: +3"),
        length("a negative length", "Content-Length: -3"),
        length("a hexadecimal length", "Content-Length: 0x3"),
        length("a length with a fraction", "Content-Length: 3.0"),
        length("a length with an exponent", "Content-Length: 3e0"),
        length("a length with a space in it", "Content-Length: 3 3"),
        length("an empty length", "Content-Length:"),
        length("a length beyond 64 bits", "Content-Length: 18446744073709551619"),
        length("a length spelled with an underscore", "Content_Length: 3"),
        length("a length in a folded line", "Content-Length:\r\n 3"),
        length("a length with a quote", "Content-Length: \"3\""),
    ]
}

fn request_lines() -> Vec<Case> {
    vec![
        line("two spaces before the target", "GET  / HTTP/1.1"),
        status(line("two spaces after the target", "GET /  HTTP/1.1"), &[400, 505]),
        line("a space after the version", "GET / HTTP/1.1 "),
        line("tabs instead of spaces", "GET\t/\tHTTP/1.1"),
        line("a space before the method", " GET / HTTP/1.1"),
        line("no version", "GET /"),
        status(line("a version in lower case", "GET / http/1.1"), &[400, 505]),
        status(line("version 2.0 in a line", "GET / HTTP/2.0"), &[400, 505]),
        status(line("version 1.2", "GET / HTTP/1.2"), &[400, 505]),
        status(line("version 0.9", "GET / HTTP/0.9"), &[400, 505]),
        status(line("a version of two digits", "GET / HTTP/1.10"), &[400, 505]),
        status(line("a method in lower case", "get / HTTP/1.1"), &[400, 501]),
        line("a method with a delimiter", "G(T / HTTP/1.1"),
        line("a method with a NUL", "GE\0T / HTTP/1.1"),
        status(line("a space in the target", "GET /a b HTTP/1.1"), &[400, 505]),
        line("a NUL in the target", "GET /\0 HTTP/1.1"),
        line("a control character in the target", "GET /\x01 HTTP/1.1"),
        line("an octet beyond ASCII in the target", "GET /é HTTP/1.1"),
        line("a fragment in the target", "GET /#fragment HTTP/1.1"),
        line("a target without its slash", "GET web HTTP/1.1"),
        line("a target that is only a query", "GET ?q HTTP/1.1"),
        may_stay_open(line("a backslash in the path", "GET /a\\b HTTP/1.1")),
        may_stay_open(line("dots in the path", "GET /a/../b HTTP/1.1")),
        may_stay_open(line("encoded dots in the path", "GET /a/%2e%2E/b HTTP/1.1")),
        may_stay_open(line("dots between encoded slashes", "GET /a%2f..%2fb HTTP/1.1")),
        may_stay_open(line("dots with a parameter", "GET /a/..;x/b HTTP/1.1")),
        may_stay_open(line("an encoded NUL in the path", "GET /%00 HTTP/1.1")),
        may_stay_open(line("a percent sign alone", "GET /% HTTP/1.1")),
        may_stay_open(line("an encoding that is none", "GET /%zz HTTP/1.1")),
        line("an asterisk without OPTIONS", "GET * HTTP/1.1"),
        status(line("CONNECT", "CONNECT {host}:443 HTTP/1.1"), &[400, 501]),
        status(line("TRACE", "TRACE / HTTP/1.1"), &[400, 405, 501]),
        line("another scheme", "GET ftp://{host}/ HTTP/1.1"),
        line("user information in the target", "GET http://a@{host}/ HTTP/1.1"),
        closed(
            "an absolute target with a malformed host",
            "GET http://{host}/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        ),
        closed("an absolute target without a host", "GET http://{host}/ HTTP/1.1\r\n\r\n"),
        status(
            line("a target that is too long", &format!("GET /{} HTTP/1.1", "a".repeat(20_000))),
            &[414],
        ),
    ]
}

fn hosts() -> Vec<Case> {
    vec![
        host("no host", "X: y"),
        closed("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n"),
        host("two equal hosts", "Host: {host}\r\nHost: {host}"),
        host("two different hosts", "Host: {host}\r\nHost: other.test"),
        host("two hosts, the second in capitals", "Host: {host}\r\nHOST: other.test"),
        host("an empty host", "Host:"),
        host("a list of hosts", "Host: {host}, other.test"),
        host("a host with a space", "Host: {host} other.test"),
        host("a host with a path", "Host: {host}/x"),
        host("a host with a query", "Host: {host}?x"),
        host("a host with user information", "Host: a@{host}"),
        host("a host with a scheme", "Host: https://{host}"),
        host("a host with an encoding", "Host: %77eb.test"),
        host("a host with an empty label", "Host: a..test"),
        host("a host whose port is no number", "Host: {host}:http"),
        host("a host whose port is too large", "Host: {host}:65536"),
        host("a host with two ports", "Host: {host}:80:80"),
        host("a host whose bracket is open", "Host: [::1"),
        host("a host with a NUL", "Host: {host}\0"),
        host("a host spelled with an underscore beside it", "Host: {host}\r\nContent_Length: 0"),
    ]
}

fn others() -> Vec<Case> {
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    vec![
        fields("a folded line", "X: a\r\n b"),
        fields("a folded line with a tab", "X: a\r\n\tb"),
        closed("a folded first line", "POST / HTTP/1.1\r\n Host: {host}\r\n\r\n"),
        fields("a NUL in a value", "X: a\0b"),
        fields("a control character in a value", "X: a\x01b"),
        fields("a DEL in a value", "X: a\x7fb"),
        fields("a bare CR in a value", "X: a\rb"),
        fields("a space in a name", "X Y: a"),
        fields("a space before the colon", "X : a"),
        fields("an empty name", ": a"),
        fields("no colon", "X"),
        fields("a delimiter in a name", "X(Y): a"),
        fields("an octet beyond ASCII in a name", "Xé: a"),
        fields("a NUL in a name", "X\0: a"),
        closed("a bare LF ends each line", "POST / HTTP/1.1\nHost: {host}\n\n"),
        closed("a bare LF ends the head", "POST / HTTP/1.1\r\nHost: {host}\r\n\n"),
        fields(
            "an upgrade to WebSocket with POST",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: \
             13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        ),
        closed(
            "an upgrade to WebSocket without a key",
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Version: 13\r\n\r\n",
        ),
        closed(
            "an upgrade to WebSocket with a body",
            "GET / HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: \
             websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: \
             AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 3\r\n\r\nabc",
        ),
        fields("two content types", "Content-Type: a/b\r\nContent-Type: c/d"),
        fields("two authorisations", "Authorization: Basic YTph\r\nAuthorization: Basic Yjpi"),
        status(fields("an expectation that nobody knows", "Expect: tea"), &[417]),
        status(
            closed(
                "more fields than the limit",
                format!("GET / HTTP/1.1\r\nHost: {{host}}\r\n{many}\r\n"),
            ),
            &[431],
        ),
        status(
            fields("a field longer than the limit", &format!("X: {}", "a".repeat(100_000))),
            &[431],
        ),
    ]
}

async fn send(gateway: &Gateway, case: &Case, host: &str) -> (Option<Response>, Vec<u8>) {
    let text = String::from_utf8(case.octets.clone()).expect("cases are UTF-8");
    let mut client = Raw::connect(gateway.http()).await;
    client.send(text.replace("{host}", host)).await;
    let response = client.response().await;
    if !case.closes {
        client.shutdown().await;
    }
    (response, client.rest().await)
}

/// A response without what differs between requests.
fn masked(response: &Response) -> String {
    let date = response.header("date").unwrap_or("no date").to_owned();
    without_ids(&format!("{}{}", response.head, response.text())).replace(&date, "DATE")
}

async fn check(gateway: &Gateway, case: &Case) -> Result<(), String> {
    let (known, rest) = send(gateway, case, WEB).await;
    let (unknown, _) = send(gateway, case, UNKNOWN).await;
    let (Some(known), Some(unknown)) = (known, unknown) else {
        return Err("no response".to_owned());
    };
    if !case.status.contains(&known.status) {
        return Err(format!("status {} instead of {:?}", known.status, case.status));
    }
    if !rest.is_empty() {
        return Err(format!("more than one response: {}", String::from_utf8_lossy(&rest)));
    }
    if case.closes
        && known.header("connection").is_none_or(|value| !value.eq_ignore_ascii_case("close"))
    {
        return Err(format!("it does not say that it closes: {}", known.head));
    }
    let (known, unknown) = (masked(&known), masked(&unknown).replace(UNKNOWN, WEB));
    if known != unknown {
        Err(format!("known and unknown hosts differ:\n{known}\n{unknown}"))
    } else {
        Ok(())
    }
}

async fn refused(cases: Vec<Case>, at_least: usize) {
    assert!(cases.len() >= at_least, "{} cases", cases.len());
    let backend = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    let mut findings = Vec::new();
    for case in &cases {
        if let Err(finding) = check(&gateway, case).await {
            findings.push(format!("{}: {finding}", case.name));
        }
        if !backend.received().is_empty() {
            let seen: Vec<_> = backend
                .received()
                .iter()
                .map(|octets| String::from_utf8_lossy(octets).into_owned())
                .collect();
            panic!("{}: the backend saw {seen:?}", case.name);
        }
    }
    assert!(findings.is_empty(), "{} of {}:\n{}", findings.len(), cases.len(), findings.join("\n"));
    assert_eq!(
        gateway.curl_plain(WEB, "/").run().await.status,
        200,
        "a good request still gets through"
    );
}

#[tokio::test]
async fn ambiguous_framing_is_rejected() {
    refused(framing(), 30).await;
}

#[tokio::test]
async fn ambiguous_request_lines_are_rejected() {
    refused(request_lines(), 30).await;
}

#[tokio::test]
async fn ambiguous_hosts_are_rejected() {
    refused(hosts(), 20).await;
}

#[tokio::test]
async fn ambiguous_fields_are_rejected() {
    refused(others(), 20).await;
}

/// Chunked bodies that are invalid after a valid head: the backend may have got the head, but never
/// the end of a request.
fn chunks() -> Vec<(&'static str, Vec<u8>)> {
    let text = |name, body: &str| (name, body.as_bytes().to_vec());
    vec![
        text("a size that is no number", "g\r\nabc\r\n0\r\n\r\n"),
        text("an empty size", "\r\nabc\r\n0\r\n\r\n"),
        text("a size with 0x", "0x3\r\nabc\r\n0\r\n\r\n"),
        text("a negative size", "-3\r\nabc\r\n0\r\n\r\n"),
        text("a size with a plus", "+3\r\nabc\r\n0\r\n\r\n"),
        text("a size beyond 64 bits", "10000000000000003\r\nabc\r\n0\r\n\r\n"),
        text(
            "a size with many zeros beyond bounds",
            &format!("{}3\r\nabc\r\n0\r\n\r\n", "0".repeat(5_000)),
        ),
        text("a space before the size", " 3\r\nabc\r\n0\r\n\r\n"),
        text("a bare LF after the size", "3\nabc\r\n0\r\n\r\n"),
        text("a bare CR after the size", "3\rabc\r\n0\r\n\r\n"),
        text("a bare LF in an extension", "3;a\nbc\r\nabc\r\n0\r\n\r\n"),
        text("a NUL in an extension", "3;a\0\r\nabc\r\n0\r\n\r\n"),
        text("an extension without end", &format!("3;{}\r\nabc\r\n0\r\n\r\n", "a".repeat(100_000))),
        text("data longer than the size", "3\r\nabcd\r\n0\r\n\r\n"),
        text("data without its end", "3\r\nabc0\r\n\r\n"),
        text("a bare LF after the data", "3\r\nabc\n0\r\n\r\n"),
        text("a bare LF at the end", "3\r\nabc\r\n0\r\n\n"),
        text("a folded trailer", "3\r\nabc\r\n0\r\nX: a\r\n b\r\n\r\n"),
        text("a trailer without a colon", "3\r\nabc\r\n0\r\nX\r\n\r\n"),
        text("a trailer with a space before the colon", "3\r\nabc\r\n0\r\nX : a\r\n\r\n"),
        text("a trailer with a NUL", "3\r\nabc\r\n0\r\nX: \0\r\n\r\n"),
        text(
            "trailers without end",
            &format!("3\r\nabc\r\n0\r\nX: {}\r\n\r\n", "a".repeat(200_000)),
        ),
    ]
}

#[tokio::test]
async fn a_broken_chunk_never_completes_a_request() {
    let backend = Recording::script(vec![
        Step::Until(b"\r\n0\r\n\r\n"),
        Step::write("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"),
        Step::Restart,
    ]);
    let backend = backend.await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for (name, body) in chunks() {
        let mut client = Raw::connect(gateway.http()).await;
        client
            .send(format!("POST / HTTP/1.1\r\nHost: {WEB}\r\nTransfer-Encoding: chunked\r\n\r\n"))
            .await;
        client.send(&body).await;
        client.send(format!("GET /smuggled HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let answers = String::from_utf8_lossy(&client.rest().await).into_owned();
        assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 400 "), "{name}: {answers}");
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{name}: {answers}");
        for octets in backend.received() {
            let seen = String::from_utf8_lossy(&octets);
            assert!(
                !seen.contains("\r\n0\r\n") && !seen.contains("smuggled"),
                "{name}: the backend saw {seen}"
            );
        }
    }
}

#[tokio::test]
async fn unusual_but_valid_requests_are_served_and_normalized() {
    let backend = Recording::start().await.unwrap();
    let gateway = Gateway::start(World::web(&backend)).await;
    for octets in [
        format!("\r\nGET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n"),
        format!("GET http://{WEB}/ HTTP/1.1\r\nHost: {WEB}\r\n\r\n"),
        format!("GET / HTTP/1.1\r\nhOsT:{}\t \r\n\r\n", WEB.to_uppercase()),
        format!(
            "GET / HTTP/1.1\r\nHost: {WEB}:80\r\nConnection: X-Hop, Host, \
             X-Forwarded-For\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n\r\n"
        ),
        format!("GET / HTTP/1.0\r\nHost: {WEB}\r\n\r\n"),
    ] {
        let mut client = Raw::connect(gateway.http()).await;
        client.send(&octets).await;
        let response = client.response().await.expect(&octets);
        assert_eq!(response.status, 200, "{octets}");
    }
    let received = String::from_utf8(backend.received().concat()).unwrap().to_lowercase();
    assert_eq!(received.matches("get / http/1.1\r\n").count(), 5, "{received}");
    assert_eq!(received.matches("x-forwarded-for: 127.0.0.1\r\n").count(), 5, "{received}");
    assert!(
        !received.contains("x-hop")
            && !received.contains("keep-alive")
            && !received.contains("http://web"),
        "{received}"
    );
}
