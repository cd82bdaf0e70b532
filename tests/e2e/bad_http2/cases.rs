//! The inputs and the expected results.

use super::frames::*;

/// An invalid input.
pub(super) struct Case {
    pub(super) name: &'static str,
    /// The bytes after the client's preface; `{host}` cannot be replaced in it, so there is one
    /// for each host.
    pub(super) octets: Vec<u8>,
    pub(super) expected: Expected,
}

/// The result that a client observes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    /// A response with one of these statuses; the connection stays open.
    Status(&'static [u16]),
    /// Stream 1 is reset with this code; the connection stays open.
    Reset(u32),
    /// GOAWAY with one of these codes, and the connection is closed.
    Goaway(&'static [u32]),
    /// The connection is closed, with GOAWAY or without.
    Closed,
}

use Expected::{Closed, Goaway, Reset, Status};

const PROTOCOL_ERROR: u32 = 1;
const FLOW_CONTROL_ERROR: u32 = 3;
const STREAM_CLOSED: u32 = 5;
const FRAME_SIZE_ERROR: u32 = 6;
const COMPRESSION_ERROR: u32 = 9;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A request to `host` without a body.
pub(super) fn good(stream: u32, host: &str) -> Vec<u8> {
    headers(WHOLE, stream, &get(host))
}

fn get(host: &str) -> Vec<(&str, &str)> {
    vec![(":method", "GET"), (":scheme", "http"), (":authority", host), (":path", "/")]
}

/// `GET` with additional fields.
fn with<'a>(host: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<u8> {
    headers(WHOLE, 1, &[get(host), fields.to_vec()].concat())
}

/// `GET` with a field of any octets.
fn raw(host: &str, name: &[u8], value: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, [block(&get(host)), raw_field(name, value)].concat())
}

/// `GET` with another value of one pseudo-header.
fn changed(host: &str, name: &str, value: &str) -> Vec<u8> {
    headers(WHOLE, 1, &changed_fields(host, name, value))
}

fn changed_fields<'a>(host: &'a str, name: &str, value: &'a str) -> Vec<(&'a str, &'a str)> {
    get(host).into_iter().map(|(key, old)| (key, if key == name { value } else { old })).collect()
}

fn without(host: &str, names: &[&str]) -> Vec<u8> {
    headers(
        WHOLE,
        1,
        &get(host).into_iter().filter(|(name, _)| !names.contains(name)).collect::<Vec<_>>(),
    )
}

/// `POST` with additional fields, and a body that follows.
fn post<'a>(host: &'a str, fields: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut all = get(host);
    all[0].1 = "POST";
    headers(END_HEADERS, 1, &[all, fields.to_vec()].concat())
}

fn connect<'a>(fields: &[(&'a str, &'a str)]) -> Vec<u8> {
    headers(END_HEADERS, 1, &[&[(":method", "CONNECT")], fields].concat())
}

fn case(name: &'static str, expected: Expected, octets: Vec<u8>) -> Case {
    Case { name, octets, expected }
}

/// Malformed for every HTTP/2 server (RFC 9113 §8.1.1).
fn malformed(name: &'static str, octets: Vec<u8>) -> Case {
    case(name, Reset(PROTOCOL_ERROR), octets)
}

/// Well-formed, but rejected.
fn refused(name: &'static str, octets: Vec<u8>) -> Case {
    case(name, Status(&[400]), octets)
}

pub(super) fn pseudo_headers(host: &str) -> Vec<Case> {
    let twice = |name, value| headers(WHOLE, 1, &[get(host), vec![(name, value)]].concat());
    let late = [&[("x-field", "value")], get(host).as_slice()].concat();
    vec![
        malformed("no method", without(host, &[":method"])),
        malformed("no scheme", without(host, &[":scheme"])),
        malformed("no path", without(host, &[":path"])),
        refused("no path and no authority", without(host, &[":path", ":authority"])),
        malformed("an empty path", changed(host, ":path", "")),
        malformed("an empty authority", changed(host, ":authority", "")),
        refused("an empty scheme", changed(host, ":scheme", "")),
        malformed("two methods", twice(":method", "GET")),
        malformed("two paths", twice(":path", "/other")),
        malformed("two schemes", twice(":scheme", "https")),
        malformed("two authorities", twice(":authority", "other.test")),
        malformed("pseudo-headers after a field", headers(WHOLE, 1, &late)),
        malformed("a status in a request", twice(":status", "200")),
        malformed("a scheme with a space", changed(host, ":scheme", "ht tp")),
        malformed("an authority with a space", changed(host, ":authority", "a b")),
        malformed("a protocol without CONNECT", twice(":protocol", "websocket")),
        malformed("CONNECT with a path", connect(&[(":authority", host), (":path", "/")])),
        malformed("CONNECT with a scheme", connect(&[(":authority", host), (":scheme", "https")])),
        malformed(
            "extended CONNECT without a path",
            connect(&[(":protocol", "websocket"), (":scheme", "https"), (":authority", host)]),
        ),
        case("CONNECT", Status(&[400, 501]), connect(&[(":authority", host)])),
        case(
            "extended CONNECT of an unknown protocol",
            Status(&[400, 501]),
            connect(&[
                (":protocol", "tea"),
                (":scheme", "https"),
                (":authority", host),
                (":path", "/"),
            ]),
        ),
        refused(
            "a WebSocket without a version",
            connect(&[
                (":protocol", "websocket"),
                (":scheme", "https"),
                (":authority", host),
                (":path", "/"),
            ]),
        ),
        case("TRACE", Status(&[400, 405, 501]), changed(host, ":method", "TRACE")),
        case("a method in lower case", Status(&[400, 501]), changed(host, ":method", "get")),
        refused("another scheme", changed(host, ":scheme", "ftp")),
        refused("an asterisk without OPTIONS", changed(host, ":path", "*")),
        malformed("a path that does not begin with a slash", changed(host, ":path", "web")),
        refused("a path that is only a query", changed(host, ":path", "?query")),
        refused("dots in the path", changed(host, ":path", "/a/../b")),
        refused("encoded dots in the path", changed(host, ":path", "/a/%2e%2e/b")),
        refused("a backslash in the path", changed(host, ":path", "/a\\b")),
        refused("an encoded NUL in the path", changed(host, ":path", "/%00")),
        refused("a percent sign alone", changed(host, ":path", "/%")),
        refused("no host at all", without(host, &[":authority"])),
        refused(
            "user information in the authority",
            changed(host, ":authority", "user@web--staging.apps.test"),
        ),
        refused(
            "an authority whose port is too large",
            changed(host, ":authority", "web--staging.apps.test:65536"),
        ),
        refused("a host of another name", with(host, &[("host", "other.test")])),
        refused(
            "two hosts",
            headers(
                WHOLE,
                1,
                &[without_authority(host), vec![("host", host), ("host", "other.test")]].concat(),
            ),
        ),
        refused("two equal hosts", with(host, &[("host", host), ("host", host)])),
        refused("an empty host beside the authority", with(host, &[("host", "")])),
        case(
            "a path that is too long",
            Status(&[414]),
            long(&changed_fields(host, ":path", &format!("/{}", "a".repeat(20_000)))),
        ),
    ]
}

fn without_authority(host: &str) -> Vec<(&str, &str)> {
    get(host).into_iter().filter(|(name, _)| *name != ":authority").collect()
}

pub(super) fn fields(host: &str) -> Vec<Case> {
    let many: Vec<(String, String)> =
        (0..200).map(|number| (format!("x-{number}"), "y".to_owned())).collect();
    let many: Vec<(&str, &str)> =
        many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    vec![
        malformed("connection", with(host, &[("connection", "close")])),
        malformed("keep-alive", with(host, &[("keep-alive", "timeout=5")])),
        malformed("proxy-connection", with(host, &[("proxy-connection", "close")])),
        malformed("transfer-encoding", with(host, &[("transfer-encoding", "chunked")])),
        malformed("upgrade", with(host, &[("upgrade", "h2c")])),
        malformed("te other than trailers", with(host, &[("te", "gzip")])),
        malformed("a length that the stream's end belies", with(host, &[("content-length", "5")])),
        malformed("a length with a plus", post(host, &[("content-length", "+5")])),
        malformed("a negative length", post(host, &[("content-length", "-5")])),
        malformed("a list of lengths", post(host, &[("content-length", "5, 5")])),
        refused("an empty length", post(host, &[("content-length", "")])),
        malformed(
            "two different lengths",
            post(host, &[("content-length", "5"), ("content-length", "6")]),
        ),
        refused(
            "two equal lengths",
            post(host, &[("content-length", "5"), ("content-length", "5")]),
        ),
        refused("a length spelled with an underscore", with(host, &[("content_length", "5")])),
        refused(
            "a coding spelled with an underscore",
            with(host, &[("transfer_encoding", "chunked")]),
        ),
        refused(
            "settings of an upgrade to h2c",
            with(host, &[("http2-settings", "AAMAAABkAAQAAP__")]),
        ),
        refused("a space before a value", with(host, &[("x-field", " value")])),
        refused("a space after a value", with(host, &[("x-field", "value ")])),
        refused("a tab after a value", with(host, &[("x-field", "value\t")])),
        refused(
            "two content types",
            with(host, &[("content-type", "a/b"), ("content-type", "c/d")]),
        ),
        refused(
            "two authorisations",
            with(host, &[("authorization", "Basic YTph"), ("authorization", "Basic Yjpi")]),
        ),
        case("an expectation that nobody knows", Status(&[417]), with(host, &[("expect", "tea")])),
        case("more fields than the limit", Status(&[431]), with(host, &many)),
        case(
            "more octets than the limit",
            Status(&[431]),
            long(&[get(host), vec![("x-field", &*"a".repeat(70_000))]].concat()),
        ),
        case(
            "many times more octets than the limit",
            Goaway(&[ENHANCE_YOUR_CALM]),
            long(&[get(host), vec![("x-field", &*"a".repeat(2_000_000))]].concat()),
        ),
        case("a name in capitals", MALFORMED_NAME, raw(host, b"X-Field", b"value")),
        case("an empty name", MALFORMED_NAME, raw(host, b"", b"value")),
        case("a space in a name", MALFORMED_NAME, raw(host, b"x field", b"value")),
        case("a colon in a name", MALFORMED_NAME, raw(host, b"x:field", b"value")),
        case("a NUL in a name", MALFORMED_NAME, raw(host, b"x\0", b"value")),
        case(
            "an octet beyond ASCII in a name",
            MALFORMED_NAME,
            raw(host, "xé".as_bytes(), b"value"),
        ),
        case("an unknown pseudo-header", MALFORMED_NAME, raw(host, b":tea", b"value")),
        case(
            "a CR and LF in a value",
            MALFORMED_NAME,
            raw(host, b"x-field", b"a\r\nhost: other.test"),
        ),
        case("a NUL in a value", MALFORMED_NAME, raw(host, b"x-field", b"a\0b")),
        case("a control character in a value", MALFORMED_NAME, raw(host, b"x-field", b"a\x01b")),
        case("a DEL in a value", MALFORMED_NAME, raw(host, b"x-field", b"a\x7fb")),
        case("a space in a method", MALFORMED_NAME, changed(host, ":method", "GE T")),
        case("an empty method", MALFORMED_NAME, changed(host, ":method", "")),
        malformed("a space in a path", changed(host, ":path", "/a b")),
        malformed("a control character in a path", changed(host, ":path", "/\u{1}")),
    ]
}

/// h2 detects these while decoding, and closes the connection.
const MALFORMED_NAME: Expected = Goaway(&[PROTOCOL_ERROR, COMPRESSION_ERROR]);

/// A header block of more than one frame.
fn long(fields: &[(&str, &str)]) -> Vec<u8> {
    let block = block(fields);
    let pieces: Vec<&[u8]> = block.chunks(16_384).collect();
    let mut all = frame(HEADERS, END_STREAM, 1, pieces[0]);
    for (index, piece) in pieces.iter().enumerate().skip(1) {
        let flags = if index + 1 == pieces.len() { END_HEADERS } else { 0 };
        all.extend(frame(CONTINUATION, flags, 1, piece));
    }
    all
}

pub(super) fn bodies(host: &str) -> Vec<Case> {
    let chunk = |flags, data: &str| frame(DATA, flags, 1, data);
    let trailers = |flags, fields: &[(&str, &str)]| headers(flags, 1, fields);
    vec![
        malformed(
            "a body longer than its length",
            [post(host, &[("content-length", "3")]), chunk(END_STREAM, "abcd")].concat(),
        ),
        malformed(
            "a body shorter than its length",
            [post(host, &[("content-length", "3")]), chunk(END_STREAM, "ab")].concat(),
        ),
        malformed(
            "trailers before the length is reached",
            [post(host, &[("content-length", "3")]), trailers(WHOLE, &[("x-trailer", "y")])]
                .concat(),
        ),
        malformed(
            "trailers that end nothing",
            [post(host, &[]), trailers(END_HEADERS, &[("x-trailer", "y")])].concat(),
        ),
        case(
            "a stream's window beyond 2^31",
            Reset(FLOW_CONTROL_ERROR),
            [post(host, &[]), frame(WINDOW_UPDATE, 0, 1, [0x7f, 255, 255, 255])].concat(),
        ),
        case(
            "WINDOW_UPDATE of a stream by 0",
            Goaway(&[PROTOCOL_ERROR]),
            [post(host, &[]), frame(WINDOW_UPDATE, 0, 1, [0; 4])].concat(),
        ),
        case(
            "HEADERS after the end",
            Goaway(&[PROTOCOL_ERROR, STREAM_CLOSED]),
            [good(1, host), trailers(WHOLE, &[("x-trailer", "y")])].concat(),
        ),
        malformed(
            "trailers with a pseudo-header of a request",
            [post(host, &[]), trailers(WHOLE, &[(":path", "/smuggled"), ("x-trailer", "y")])]
                .concat(),
        ),
        malformed(
            "trailers with a pseudo-header alone, after data",
            [post(host, &[]), chunk(0, "abc"), trailers(WHOLE, &[(":authority", "other")])]
                .concat(),
        ),
        malformed(
            "trailers with the pseudo-header of a response",
            [post(host, &[]), trailers(WHOLE, &[(":status", "200")])].concat(),
        ),
        malformed(
            "trailers with an indexed pseudo-header",
            [post(host, &[]), frame(HEADERS, WHOLE, 1, [0x82])].concat(),
        ),
        malformed(
            "trailers with a pseudo-header in padded fragments",
            [
                post(host, &[]),
                frame(HEADERS, END_STREAM | PADDED, 1, b"\x02\x00\x01\x00\x00"),
                frame(CONTINUATION, 0, 1, b"x\x01y\x04"),
                frame(CONTINUATION, END_HEADERS, 1, b"\x01/"),
            ]
            .concat(),
        ),
        malformed(
            "trailers with a field of the connection",
            [post(host, &[]), trailers(WHOLE, &[("connection", "close")])].concat(),
        ),
        case(
            "DATA after the end",
            Goaway(&[PROTOCOL_ERROR, STREAM_CLOSED]),
            [good(1, host), chunk(END_STREAM, "abc")].concat(),
        ),
        case(
            "padding longer than the frame",
            Goaway(&[PROTOCOL_ERROR]),
            [post(host, &[]), frame(DATA, PADDED | END_STREAM, 1, [9, b'a'])].concat(),
        ),
        case(
            "an empty DATA frame that says it is padded",
            Goaway(&[PROTOCOL_ERROR, FRAME_SIZE_ERROR]),
            [post(host, &[]), frame(DATA, PADDED, 1, [])].concat(),
        ),
    ]
}

/// Frames that are a connection error, regardless of the host.
pub(super) fn framing(host: &str) -> Vec<Case> {
    let goaway = |name, octets| case(name, Goaway(&[PROTOCOL_ERROR]), octets);
    let size = |name, octets| case(name, Goaway(&[FRAME_SIZE_ERROR, PROTOCOL_ERROR]), octets);
    let hpack = |name, octets: &[u8]| {
        case(name, Goaway(&[COMPRESSION_ERROR, PROTOCOL_ERROR]), frame(HEADERS, WHOLE, 1, octets))
    };
    let setting =
        |id: u8, value: u32| frame(SETTINGS, 0, 0, [&[0, id], &value.to_be_bytes()[..]].concat());
    let open = headers(END_HEADERS, 1, &get(host));
    let begun = frame(HEADERS, END_STREAM, 1, block(&get(host)));
    vec![
        goaway("DATA on stream 0", frame(DATA, 0, 0, "abc")),
        goaway("HEADERS on stream 0", headers(WHOLE, 0, &get(host))),
        goaway("HEADERS on an even stream", good(2, host)),
        goaway("RST_STREAM on stream 0", frame(RST_STREAM, 0, 0, [0, 0, 0, 8])),
        goaway("PRIORITY on stream 0", frame(PRIORITY, 0, 0, [0, 0, 0, 3, 1])),
        goaway("SETTINGS on stream 1", frame(SETTINGS, 0, 1, [])),
        goaway("PING on stream 1", frame(PING, 0, 1, [0; 8])),
        goaway("GOAWAY on stream 1", frame(GOAWAY, 0, 1, [0; 8])),
        goaway("CONTINUATION on stream 0", frame(CONTINUATION, END_HEADERS, 0, block(&get(host)))),
        goaway("DATA on an idle stream", frame(DATA, 0, 5, "abc")),
        goaway("RST_STREAM on an idle stream", frame(RST_STREAM, 0, 5, [0, 0, 0, 8])),
        goaway("WINDOW_UPDATE on an idle stream", frame(WINDOW_UPDATE, 0, 5, [0, 0, 0, 1])),
        goaway(
            "PUSH_PROMISE of a client",
            [
                open.clone(),
                frame(
                    PUSH_PROMISE,
                    END_HEADERS,
                    1,
                    [&[0, 0, 0, 2], &block(&get(host))[..]].concat(),
                ),
            ]
            .concat(),
        ),
        goaway(
            "CONTINUATION after nothing",
            frame(CONTINUATION, END_HEADERS, 1, block(&get(host))),
        ),
        goaway("PING within a header block", [begun.clone(), frame(PING, 0, 0, [0; 8])].concat()),
        goaway(
            "HEADERS of another stream within a header block",
            [begun.clone(), good(3, host)].concat(),
        ),
        goaway(
            "CONTINUATION of another stream",
            [begun.clone(), frame(CONTINUATION, END_HEADERS, 3, [])].concat(),
        ),
        goaway(
            "a frame of unknown kind within a header block",
            [begun, frame(99, 0, 1, [])].concat(),
        ),
        goaway(
            "padding of HEADERS longer than the frame",
            frame(HEADERS, WHOLE | PADDED, 1, [&[255], &block(&get(host))[..]].concat()),
        ),
        goaway(
            "a stream that depends on itself",
            frame(
                HEADERS,
                WHOLE | WITH_PRIORITY,
                1,
                [&[0, 0, 0, 1, 1], &block(&get(host))[..]].concat(),
            ),
        ),
        goaway("a setting that pushing is 2", setting(2, 2)),
        case(
            "a window of 2^31",
            Goaway(&[FLOW_CONTROL_ERROR, PROTOCOL_ERROR]),
            setting(4, 1 << 31),
        ),
        goaway("frames of 1000 octets", setting(5, 1000)),
        goaway("frames of 2^24 octets", setting(5, 1 << 24)),
        size("SETTINGS of 5 octets", frame(SETTINGS, 0, 0, [0; 5])),
        size(
            "an acknowledgement of SETTINGS with a setting",
            frame(SETTINGS, ACK, 0, [0, 3, 0, 0, 0, 1]),
        ),
        size("PING of 7 octets", frame(PING, 0, 0, [0; 7])),
        size("RST_STREAM of 3 octets", [open.clone(), frame(RST_STREAM, 0, 1, [0, 0, 8])].concat()),
        size("WINDOW_UPDATE of 3 octets", frame(WINDOW_UPDATE, 0, 0, [0, 0, 1])),
        size(
            "a frame larger than allowed",
            [open, frame(DATA, END_STREAM, 1, [0; 16_385])].concat(),
        ),
        goaway("WINDOW_UPDATE by 0", frame(WINDOW_UPDATE, 0, 0, [0; 4])),
        case(
            "a connection's window beyond 2^31",
            Goaway(&[FLOW_CONTROL_ERROR]),
            frame(WINDOW_UPDATE, 0, 0, [0x7f, 255, 255, 255]),
        ),
        hpack("index 0", &[0x80]),
        hpack("an index beyond both tables", &[0xff, 0x80, 0x01]),
        hpack(
            "an integer without its end",
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        hpack("a string longer than the block", &[0x00, 0x05, b'a']),
        hpack("a table larger than allowed", &[0x3f, 0xe1, 0xff, 0x03]),
        hpack(
            "a Huffman string that ends in EOS",
            &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x01, b'a'],
        ),
        hpack("a Huffman string with padding of zeros", &[0x00, 0x81, 0x00, 0x01, b'a']),
        hpack("a change of the table's size after a field", &[0x82, 0x20]),
        case(
            "a stream that was used before",
            Goaway(&[PROTOCOL_ERROR, STREAM_CLOSED]),
            [good(3, host), good(1, host)].concat(),
        ),
    ]
}

/// Instead of a preface.
pub(super) fn prefaces() -> Vec<Case> {
    vec![
        case(
            "a preface with another version",
            Closed,
            b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
        case("a preface without its end", Closed, b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
    ]
}
