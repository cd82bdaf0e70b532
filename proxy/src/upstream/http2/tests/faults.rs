//! Protocol violations by a backend: how each is handled, and that other streams are unaffected.

use super::*;
use crate::http2::frame::{self, HEAD, MAX_PAYLOAD, flag, kind, setting};
use crate::http2::hpack;
use crate::upstream::http2::connection::code;

const MALFORMED: Failed = Failed::Broken(Broken::Malformed("http2"));

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::Head { length: payload.len(), kind, flags, stream }.write(&mut out);
    out.extend_from_slice(payload);
    out
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::settings(settings, &mut out);
    out
}

fn number(kind: u8, stream: u32, number: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::number(kind, stream, number, &mut out);
    out
}

/// Encodes a header block: a status, unless it is 0, and fields without validation.
fn block(status: u16, fields: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    if status > 0 {
        hpack::literal(8, status.to_string().as_bytes(), &mut out);
    }
    for (name, value) in fields {
        out.push(0);
        for text in [name, value] {
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

fn head(stream: u32, status: u16, fields: &[(&str, &str)], is_last: bool) -> Vec<u8> {
    frame(
        kind::HEADERS,
        flag::END_HEADERS | if is_last { flag::END_STREAM } else { 0 },
        stream,
        &block(status, fields),
    )
}

/// The frames that the client sent after its preface: type, stream, and the number in the payload's
/// last four octets.
async fn sent(backend: &mut DuplexStream) -> Vec<(u8, u32, u32)> {
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut octets = vec![0; 1 << 20];
    let length = backend.read(&mut octets).await.unwrap();
    let octets = &octets[..length];
    let (mut rest, mut frames) =
        (octets.strip_prefix(frame::PREFACE).unwrap_or(octets), Vec::new());
    while let Some(head) = frame::Head::read(rest) {
        let payload = &rest[HEAD..HEAD + head.length];
        frames.push((
            head.kind,
            head.stream,
            payload.last_chunk().map_or(0, |last| u32::from_be_bytes(*last)),
        ));
        rest = &rest[HEAD + head.length..];
    }
    frames
}

/// The types of the frames that the client sent, up to a part of the last one, which is read to its
/// end.
async fn sent_in_pieces(backend: &mut DuplexStream) -> Vec<u8> {
    let mut kinds = Vec::new();
    let mut head = [0; HEAD];
    loop {
        let read = tokio::time::timeout(Duration::from_millis(1), backend.read_exact(&mut head));
        if read.await.is_err() {
            return kinds;
        }
        let head = frame::Head::read(&head).unwrap();
        backend.read_exact(&mut vec![0; head.length]).await.unwrap();
        kinds.push(head.kind);
    }
}

#[tokio::test(start_paused = true)]
async fn connection_errors_close_the_connection() {
    let large = vec![0; MAX_PAYLOAD + 1];
    let open = head(1, 200, &[], false);
    let bad: Vec<(&str, Vec<u8>, u32)> = vec![
        ("a response on stream 0", head(0, 200, &[], true), code::PROTOCOL_ERROR),
        ("a response on an idle stream", head(5, 200, &[], true), code::PROTOCOL_ERROR),
        ("a stream of the backend's own", head(2, 200, &[], true), code::PROTOCOL_ERROR),
        ("data on stream 0", frame(kind::DATA, 0, 0, b"x"), code::PROTOCOL_ERROR),
        ("data on an idle stream", frame(kind::DATA, 0, 99, b"x"), code::PROTOCOL_ERROR),
        (
            "a promise",
            frame(kind::PUSH_PROMISE, flag::END_HEADERS, 1, &[0, 0, 0, 2, 0x88]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a continuation without headers",
            frame(kind::CONTINUATION, flag::END_HEADERS, 1, &[0x88]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a frame between the parts of a head",
            [frame(kind::HEADERS, 0, 1, &[0x88]), frame(kind::PING, 0, 0, &[0; 8])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "a continuation on another stream",
            [
                frame(kind::HEADERS, 0, 1, &[0x88]),
                frame(kind::CONTINUATION, flag::END_HEADERS, 3, &[]),
            ]
            .concat(),
            code::PROTOCOL_ERROR,
        ),
        ("half a setting", frame(kind::SETTINGS, 0, 0, &[0; 5]), code::FRAME_SIZE_ERROR),
        ("settings on a stream", frame(kind::SETTINGS, 0, 1, &[]), code::PROTOCOL_ERROR),
        (
            "a settings acknowledgement with a payload",
            frame(kind::SETTINGS, flag::ACK, 0, &[0; 6]),
            code::FRAME_SIZE_ERROR,
        ),
        ("push", settings(&[(setting::ENABLE_PUSH, 1)]), code::PROTOCOL_ERROR),
        (
            "too large an initial window",
            settings(&[(setting::INITIAL_WINDOW_SIZE, 1 << 31)]),
            code::FLOW_CONTROL_ERROR,
        ),
        (
            "a small frame size",
            settings(&[(setting::MAX_FRAME_SIZE, 16_383)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a large frame size",
            settings(&[(setting::MAX_FRAME_SIZE, 1 << 24)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a setting that is not a boolean",
            settings(&[(setting::ENABLE_CONNECT_PROTOCOL, 2)]),
            code::PROTOCOL_ERROR,
        ),
        (
            "a withdrawn setting",
            [1, 0].map(|value| settings(&[(setting::ENABLE_CONNECT_PROTOCOL, value)])).concat(),
            code::PROTOCOL_ERROR,
        ),
        ("a short ping", frame(kind::PING, 0, 0, &[0; 7]), code::FRAME_SIZE_ERROR),
        ("a ping on a stream", frame(kind::PING, 0, 1, &[0; 8]), code::PROTOCOL_ERROR),
        ("an empty window update", number(kind::WINDOW_UPDATE, 0, 0), code::PROTOCOL_ERROR),
        (
            "a window overflow",
            number(kind::WINDOW_UPDATE, 0, (1 << 31) - 1),
            code::FLOW_CONTROL_ERROR,
        ),
        (
            "a short window update",
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
            code::FRAME_SIZE_ERROR,
        ),
        ("a reset of an idle stream", number(kind::RST_STREAM, 7, 0), code::PROTOCOL_ERROR),
        ("a short reset", frame(kind::RST_STREAM, 0, 1, &[0; 3]), code::FRAME_SIZE_ERROR),
        ("a short goaway", frame(kind::GOAWAY, 0, 0, &[0; 7]), code::PROTOCOL_ERROR),
        ("a goaway on a stream", frame(kind::GOAWAY, 0, 1, &[0; 8]), code::PROTOCOL_ERROR),
        ("a priority on stream 0", frame(kind::PRIORITY, 0, 0, &[0; 5]), code::PROTOCOL_ERROR),
        ("a frame that is too large", frame(kind::DATA, 0, 1, &large), code::FRAME_SIZE_ERROR),
        (
            "an undecodable header block",
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x80]),
            code::COMPRESSION_ERROR,
        ),
        (
            "padding without octets",
            frame(kind::HEADERS, flag::END_HEADERS | flag::PADDED, 1, &[9, 0x88]),
            code::PROTOCOL_ERROR,
        ),
        (
            "no room for a priority",
            frame(kind::HEADERS, flag::END_HEADERS | flag::PRIORITY, 1, &[0x88]),
            code::FRAME_SIZE_ERROR,
        ),
        (
            "padding of data without octets",
            [open.clone(), frame(kind::DATA, flag::PADDED, 1, &[2, 0])].concat(),
            code::PROTOCOL_ERROR,
        ),
        (
            "an endless header block",
            frame(kind::HEADERS, 0, 1, &[])
                .into_iter()
                .chain((0..4).flat_map(|_| frame(kind::CONTINUATION, 0, 1, &large[..MAX_PAYLOAD])))
                .collect(),
            code::ENHANCE_YOUR_CALM,
        ),
        (
            "endless empty data",
            open.into_iter()
                .chain((0..11_000).flat_map(|_| frame(kind::DATA, 0, 1, &[])))
                .collect(),
            code::ENHANCE_YOUR_CALM,
        ),
        (
            "endless pings",
            (0..11_000).flat_map(|_| frame(kind::PING, 0, 0, &[0; 8])).collect(),
            code::ENHANCE_YOUR_CALM,
        ),
    ];
    for (why, frames, code) in bad {
        in_local_set(async {
            let (client, mut backend) = raw_backend().await;
            let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
            let neighbour = client.send(&post(BodyLength::None), false).unwrap();
            sent(&mut backend).await;
            backend.write_all(&frames).await.unwrap();
            let mut failed = final_head(&mut exchange).await.map(drop);
            if failed.is_ok() {
                failed = loop {
                    match next_frame(&mut exchange).await {
                        Some(Ok(_)) => {}
                        Some(Err(broken)) => break Err(Failed::Broken(broken)),
                        None => break Ok(()),
                    }
                };
            }
            assert_eq!(failed, Err(MALFORMED), "{why}");
            let frames = sent(&mut backend).await;
            assert_eq!(frames.last(), Some(&(kind::GOAWAY, 0, code)), "{why}");
            assert!(!client.is_open(), "{why}");
            drop(neighbour);
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn stream_errors_reset_only_that_stream() {
    let started = head(1, 200, &[("content-length", "3")], false);
    let after = |frames: &[u8]| [started.as_slice(), frames].concat();
    let over = frame(kind::DATA, 0, 1, &[0; MAX_PAYLOAD]).repeat(5);
    let interim = head(1, 103, &[], false);
    let bad: Vec<(&str, Vec<u8>, u32)> = vec![
        ("no status", head(1, 0, &[("a", "b")], true), code::PROTOCOL_ERROR),
        (
            "two statuses",
            frame(kind::HEADERS, flag::END_HEADERS, 1, &[0x88, 0x88]),
            code::PROTOCOL_ERROR,
        ),
        ("an invalid status", head(1, 0, &[(":status", "20")], true), code::PROTOCOL_ERROR),
        (
            "a status after a field",
            head(1, 0, &[("a", "b"), (":status", "200")], true),
            code::PROTOCOL_ERROR,
        ),
        ("a request pseudo-header", head(1, 200, &[(":path", "/")], true), code::PROTOCOL_ERROR),
        ("a name in upper case", head(1, 200, &[("Server", "b")], true), code::PROTOCOL_ERROR),
        ("a control character", head(1, 200, &[("server", "a\u{0}b")], true), code::PROTOCOL_ERROR),
        (
            "a connection-specific field",
            head(1, 200, &[("transfer-encoding", "chunked")], true),
            code::PROTOCOL_ERROR,
        ),
        ("too many fields", head(1, 200, &[("a", "b"); 1000][..500], true), code::PROTOCOL_ERROR),
        (
            "an invalid length",
            head(1, 200, &[("content-length", "+3")], false),
            code::PROTOCOL_ERROR,
        ),
        (
            "two lengths",
            head(1, 200, &[("content-length", "3"), ("content-length", "3")], false),
            code::PROTOCOL_ERROR,
        ),
        ("an interim response that ends the stream", head(1, 103, &[], true), code::PROTOCOL_ERROR),
        ("too many interim responses", interim.repeat(40), code::PROTOCOL_ERROR),
        (
            "data before a head",
            frame(kind::DATA, flag::END_STREAM, 1, b"abc"),
            code::PROTOCOL_ERROR,
        ),
        (
            "missing data",
            after(&frame(kind::DATA, flag::END_STREAM, 1, b"ab")),
            code::PROTOCOL_ERROR,
        ),
        ("excess data", after(&frame(kind::DATA, 0, 1, b"abcd")), code::PROTOCOL_ERROR),
        (
            "trailers that do not end the stream",
            after(&head(1, 0, &[("a", "b")], false)),
            code::PROTOCOL_ERROR,
        ),
        ("a status in trailers", after(&head(1, 200, &[], true)), code::PROTOCOL_ERROR),
        (
            "more data than the window",
            [head(1, 200, &[], false), over].concat(),
            code::FLOW_CONTROL_ERROR,
        ),
        ("an empty window update", number(kind::WINDOW_UPDATE, 1, 0), code::PROTOCOL_ERROR),
        (
            "a window overflow",
            number(kind::WINDOW_UPDATE, 1, (1 << 31) - 1),
            code::FLOW_CONTROL_ERROR,
        ),
    ];
    for (why, frames, code) in bad {
        in_local_set(async {
            let (client, mut backend) = raw_backend().await;
            let mut exchange = client.send(&post(BodyLength::Unknown), false).unwrap();
            let mut neighbour = client.send(&post(BodyLength::None), false).unwrap();
            sent(&mut backend).await;
            backend.write_all(&frames).await.unwrap();
            backend.write_all(&head(3, 204, &[], true)).await.unwrap();
            assert_eq!(final_head(&mut neighbour).await.unwrap().0.status, 204, "{why}");
            let resets: Vec<_> = sent(&mut backend)
                .await
                .into_iter()
                .filter(|(kind, ..)| *kind == kind::RST_STREAM)
                .collect();
            assert_eq!(resets, [(kind::RST_STREAM, 1, code)], "{why}");
            assert!(client.is_usable(), "{why}");
            let ended = loop {
                match next_head(&mut exchange).await {
                    Ok(Head::Interim(_)) => {}
                    Err(failed) => break failed,
                    Ok(Head::Final(..)) => loop {
                        match next_frame(&mut exchange).await {
                            Some(Ok(_)) => {}
                            other => {
                                assert!(
                                    matches!(other, Some(Err(Broken::Malformed("http2")))),
                                    "{why}: {other:?}"
                                );
                                break;
                            }
                        }
                    },
                }
            };
            assert_eq!(ended, MALFORMED, "{why}");
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_sends_occasional_pings_is_kept() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        for _ in 0..20 {
            let pings: Vec<u8> =
                (0..1_000).flat_map(|_| frame(kind::PING, 0, 0, &[0; 8])).collect();
            backend.write_all(&pings).await.unwrap();
            assert!(sent(&mut backend).await.iter().any(|(kind, ..)| *kind == kind::PING));
            tokio::time::sleep(Duration::from_secs(4)).await;
        }
        backend.write_all(&head(1, 200, &[], true)).await.unwrap();
        assert_eq!(final_head(&mut exchange).await.unwrap().0.status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_to_head_has_a_length_and_no_body() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        for (stream, method, status) in
            [(1, &Method::HEAD, 200), (3, &Method::GET, 304), (5, &Method::HEAD, 200)]
        {
            let mut exchange = client.send(&message(method, BodyLength::None), false).unwrap();
            let end = if stream == 5 {
                Vec::new()
            } else {
                frame(kind::DATA, flag::END_STREAM, stream, &[])
            };
            let answer =
                [head(stream, status, &[("content-length", "1234")], end.is_empty()), end].concat();
            backend.write_all(&answer).await.unwrap();
            let (head, length) = final_head(&mut exchange).await.unwrap();
            assert_eq!(
                (&head.headers["content-length"], length),
                (&"1234".parse().unwrap(), BodyLength::None)
            );
            assert!(next_frame(&mut exchange).await.is_none());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn unread_data_is_returned_to_the_connection_window() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        let mut window = 1024 * 1024;
        for stream in (1..800).step_by(2) {
            let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
            let answer =
                [head(stream, 200, &[], false), frame(kind::DATA, 0, stream, &[0; MAX_PAYLOAD])]
                    .concat();
            backend.write_all(&answer).await.unwrap();
            window -= MAX_PAYLOAD as u32;
            final_head(&mut exchange).await.unwrap();
            drop(exchange);
            // And data for a closed stream.
            backend
                .write_all(&frame(kind::DATA, flag::END_STREAM, stream, &[0; MAX_PAYLOAD]))
                .await
                .unwrap();
            window -= MAX_PAYLOAD as u32;
            for (kind, stream, octets) in sent(&mut backend).await {
                window += if kind == kind::WINDOW_UPDATE && stream == 0 { octets } else { 0 };
            }
            assert!(window > 256 * 1024, "{window} after stream {stream}");
        }
        assert!(client.is_usable());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn large_heads_of_clients_do_not_cost_others_their_connection() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        sent(&mut backend).await;
        let mut other = client.send(&post(BodyLength::None), false).unwrap();
        let value = HeaderValue::from_bytes(&vec![b'~'; 60_000]).unwrap();
        let headers = HeaderMap::from_iter([(http::header::REFERER, value)]);
        let large = Message { headers: &headers, ..post(BodyLength::None) };
        let exchanges: Vec<_> = (0..99).map(|_| client.send(&large, false).unwrap()).collect();
        assert!(client.0.0.borrow().out.len() < 2 * 1024 * 1024, "the others wait");
        // The backend sends something before it has read everything.
        backend.write_all(&frame(kind::PING, 0, 0, &[0; 8])).await.unwrap();
        backend.write_all(&head(1, 200, &[], true)).await.unwrap();
        assert_eq!(final_head(&mut other).await.unwrap().0.status, 200);
        let mut streams = 0;
        while streams < exchanges.len() {
            let frames = sent_in_pieces(&mut backend).await;
            streams += frames.iter().filter(|kind| **kind == kind::HEADERS).count();
        }
        assert!(client.is_open());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn changes_of_the_initial_window_are_bounded() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        // In one frame, only the last one counts.
        let many: Vec<_> = (0..2_000).map(|n| (setting::INITIAL_WINDOW_SIZE, n)).collect();
        backend.write_all(&settings(&many)).await.unwrap();
        sent(&mut backend).await;
        assert_eq!(client.0.0.borrow().initial_window, 1_999);
        let changes = (0..200).map(|n| settings(&[(setting::INITIAL_WINDOW_SIZE, n % 2)]));
        backend.write_all(&changes.collect::<Vec<_>>().concat()).await.unwrap();
        let frames = sent(&mut backend).await;
        assert_eq!(frames.last(), Some(&(kind::GOAWAY, 0, code::ENHANCE_YOUR_CALM)));
        assert!(!client.is_open());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_request_over_the_stream_limit_waits_for_a_stream() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        backend.write_all(&settings(&[(setting::MAX_CONCURRENT_STREAMS, 1)])).await.unwrap();
        sent(&mut backend).await;
        let first = client.send(&post(BodyLength::None), false).unwrap();
        let mut second = client.send(&post(BodyLength::Unknown), false).unwrap();
        let third = client.send(&post(BodyLength::None), false).unwrap();
        second.request.push(data("late"));
        second.request.finish();
        assert_eq!(
            sent(&mut backend).await.iter().map(|(_, stream, _)| *stream).collect::<Vec<_>>(),
            [1]
        );
        drop((third, first));
        let frames: Vec<_> =
            sent(&mut backend).await.iter().map(|(kind, stream, _)| (*kind, *stream)).collect();
        assert_eq!(frames, [(kind::RST_STREAM, 1), (kind::HEADERS, 3), (kind::DATA, 3)]);
        backend.write_all(&head(3, 200, &[], true)).await.unwrap();
        assert_eq!(final_head(&mut second).await.unwrap().0.status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_waits_for_the_settings_and_fails_without_support() {
    for (supports, status, expected) in
        [(1, 200, Ok(101)), (1, 403, Ok(403)), (0, 200, Err(Failed::NoWebSocket))]
    {
        in_local_set(async {
            let (ours, mut backend) = duplex(1 << 20);
            let client = Http2Client::connect(ours, &SETTINGS);
            let headers = HeaderMap::from_iter([(
                http::header::SEC_WEBSOCKET_KEY,
                HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="),
            )]);
            let message = Message { headers: &headers, ..post(BodyLength::Tunnel) };
            let mut exchange = client.send(&message, false).unwrap();
            assert!(sent(&mut backend).await.iter().all(|(kind, ..)| *kind != kind::HEADERS));
            backend
                .write_all(&settings(&[(setting::ENABLE_CONNECT_PROTOCOL, supports)]))
                .await
                .unwrap();
            let was_sent = sent(&mut backend).await.iter().any(|(kind, ..)| *kind == kind::HEADERS);
            assert_eq!(was_sent, supports == 1);
            if was_sent {
                backend.write_all(&head(1, status, &[], false)).await.unwrap();
            }
            let response = final_head(&mut exchange).await;
            assert_eq!(
                response.as_ref().map(|(head, _)| head.status.as_u16()).map_err(|failed| *failed),
                expected
            );
            if let Ok((head, BodyLength::Tunnel)) = response {
                assert_eq!(head.headers["sec-websocket-accept"], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
            }
            assert_eq!(
                client.send(&message, false).map(drop),
                if supports == 1 { Ok(()) } else { Err(Failed::NoWebSocket) }
            );
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn connection_specific_fields_are_not_sent() {
    with_backend(async |client, mut backend| {
        let fields = ["connection", "keep-alive", "te", "transfer-encoding", "host", "x-kept"];
        let headers = fields
            .iter()
            .map(|name| (name.parse().unwrap(), HeaderValue::from_static("a")))
            .collect();
        let message = Message { headers: &headers, ..post(BodyLength::Exact(3)) };
        let _exchange = client.send(&message, false).unwrap();
        let (request, _respond) = backend.accept().await.unwrap().unwrap();
        let names: Vec<_> = request.headers().keys().map(http::HeaderName::as_str).collect();
        assert_eq!(names, ["content-length", "x-kept"]);
    })
    .await;
}
