use std::cell::RefCell;
use std::future::pending;
use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::ext::Protocol;
use http::{HeaderMap, Method};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{JoinHandle, LocalSet, spawn_local};

use super::*;
use crate::exchange::{PathAndQuery, Source, Target};
use crate::listen::drain::Drains;

/// What the streams' tasks observed.
type Seen = Rc<RefCell<Vec<String>>>;

#[tokio::test(start_paused = true)]
async fn bodies_and_trailers_pass_in_both_directions() {
    with_client(echo, async |mut client, _| {
        let request =
            Request::post("https://host/path?query").header("x-field", "value").body(()).unwrap();
        let (response, mut stream) = client.send_request(request, false).unwrap();
        stream.send_data("hello".into(), false).unwrap();
        stream.send_trailers(fields("x-trailer", "after")).unwrap();
        let response = response.await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["x-head"], "POST https host /path?query Unknown");
        let (body, trailers) = read(response.into_body()).await.unwrap();
        assert_eq!((&*body, trailers), (&b"hello"[..], Some(fields("x-trailer", "after"))));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_last_data_frame_carries_end_stream() {
    with_client(
        async |_, _, mut respond: Responder| {
            respond.head(head(200), BodyLength::Exact(10));
            respond.push(Frame::Data(Bytes::from_static(b"hello")));
            respond.push(Frame::Data(Bytes::from_static(b"world")));
            respond.finish();
            poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
        },
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            for _ in 0..2 {
                assert!(!body.is_end_stream());
                assert_eq!(body.data().await.unwrap().unwrap().len(), 5);
            }
            assert!(body.is_end_stream());
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_without_a_body_is_one_frame() {
    with_client(
        async |_, _, mut respond: Responder| {
            respond.head(
                ResponseHead { status: StatusCode::OK, headers: fields("grpc-status", "12") },
                BodyLength::None,
            );
            poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
        },
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.headers()["grpc-status"], "12");
            assert!(response.body().is_end_stream());
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_are_sent_except_101() {
    with_client(
        async |_, _, mut respond: Responder| {
            for status in [101, 100, 103] {
                respond.informational(head(status));
            }
            respond.head(head(204), BodyLength::None);
        },
        async |mut client, _| {
            let (mut response, _) = client.send_request(get(), true).unwrap();
            let mut seen = Vec::new();
            while let Some(interim) = poll_fn(|cx| response.poll_informational(cx)).await {
                seen.push(interim.unwrap().status().as_u16());
            }
            assert_eq!((seen, response.await.unwrap().status().as_u16()), (vec![100, 103], 204));
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_websocket_is_accepted_with_200_and_tunnelled() {
    with_client(
        async |request, mut body: RequestBody, mut respond: Responder| {
            let request: RequestHead = request.unwrap();
            assert_eq!(
                (request.method, request.protocol.as_deref()),
                (Method::CONNECT, Some(&b"websocket"[..]))
            );
            assert_eq!(request.target, Target::Path(PathAndQuery::new("/chat").unwrap()));
            respond.head(head(101), BodyLength::Tunnel);
            while let Some(Ok(frame)) = poll_fn(|cx| body.poll_frame(cx)).await {
                poll_fn(|cx| respond.poll_ready(cx)).await.unwrap();
                respond.push(frame);
                poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
            }
            respond.finish();
        },
        async |mut client, _| {
            while !client.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let mut request = Request::new(());
            *request.method_mut() = Method::CONNECT;
            *request.uri_mut() = "https://host/chat".parse().unwrap();
            request.extensions_mut().insert(Protocol::from_static("websocket"));
            let (response, mut stream) = client.send_request(request, false).unwrap();
            let response = response.await.unwrap();
            assert_eq!(response.status(), 200);
            let mut body = response.into_body();
            for text in ["ping", "pong"] {
                stream.send_data(text.into(), false).unwrap();
                assert_eq!(body.data().await.unwrap().unwrap(), text);
            }
            // After the client closes its half, the echo completes and the stream closes.
            stream.send_data("end".into(), true).unwrap();
            assert_eq!(body.data().await.unwrap().unwrap(), "end");
            assert!(
                body.data().await.is_none_or(|data| data.unwrap().is_empty())
                    && body.is_end_stream()
            );
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_before_the_end_of_the_request_resets_the_stream_with_no_error() {
    with_client(
        async |_, _, mut respond: Responder| {
            respond.head(head(413), BodyLength::None);
        },
        async |mut client, _| {
            let (response, mut stream) = client.send_request(post(), false).unwrap();
            stream.send_data("a part".into(), false).unwrap();
            assert_eq!(response.await.unwrap().status(), 413);
            assert_eq!(poll_fn(|cx| stream.poll_reset(cx)).await.unwrap(), Reason::NO_ERROR);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_aborted_response_resets_the_stream() {
    with_client(
        async |_, _, mut respond: Responder| {
            respond.head(head(200), BodyLength::Exact(10));
            respond.push(Frame::Data(Bytes::from_static(b"hello")));
            poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
            respond.abort();
        },
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert_eq!(body.data().await.unwrap().unwrap(), "hello");
            assert_eq!(
                body.data().await.unwrap().unwrap_err().reason(),
                Some(Reason::INTERNAL_ERROR)
            );
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_returns_without_a_response_resets_its_stream() {
    with_client(
        async |_, _, _| {},
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            assert_eq!(response.await.unwrap_err().reason(), Some(Reason::INTERNAL_ERROR));
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn cancellation_is_reported_before_and_after_the_response_head() {
    let seen = Seen::default();
    let tasks = Rc::clone(&seen);
    with_client(
        move |request: Result<RequestHead, Refusal>, _, mut respond: Responder| {
            let seen = Rc::clone(&tasks);
            async move {
                if request.unwrap().method == Method::POST {
                    respond.head(head(200), BodyLength::Unknown);
                }
                poll_fn(|cx| respond.poll_client_closed(cx)).await;
                seen.borrow_mut().push("gone".to_owned());
            }
        },
        async |mut client, _| {
            for request in [get(), post()] {
                let (response, mut stream) = client.send_request(request, false).unwrap();
                tokio::time::sleep(Duration::from_millis(1)).await;
                stream.send_reset(Reason::CANCEL);
                drop(response);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            assert_eq!(*seen.borrow(), ["gone", "gone"]);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_reported_as_gone() {
    let (gone, mut reports) = tokio::sync::mpsc::channel(1);
    in_local_set(async {
        let (_, io, _) = server(
            move |_, _, mut respond: Responder| {
                let gone = gone.clone();
                async move {
                    poll_fn(|cx| respond.poll_client_closed(cx)).await;
                    gone.send(()).await.unwrap();
                }
            },
            settings(),
        );
        let (mut client, connection) = h2::client::handshake(io).await.unwrap();
        let connection = spawn_local(async move { drop(connection.await) });
        let (_response, _stream) = client.send_request(get(), true).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        connection.abort();
        reports.recv().await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_request_window_opens_only_as_the_body_is_read() {
    with_client(
        async |_, mut body: RequestBody, respond: Responder| {
            tokio::time::sleep(Duration::from_secs(1)).await;
            // A frame counts as read when the next one is polled.
            poll_fn(|cx| body.poll_frame(cx)).await;
            pending::<()>().await;
            drop(respond);
        },
        async |mut client, settings| {
            let (_response, mut stream) = client.send_request(post(), false).unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
            let window = usize::try_from(settings.limits.http2_stream_window.get()).unwrap();
            assert_eq!(send_all_that_fits(&mut stream).await, window);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(send_all_that_fits(&mut stream).await, 0);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_is_accepted_no_faster_than_the_client_reads() {
    let pushed = Rc::new(Cell::new(0_usize));
    let counter = Rc::clone(&pushed);
    with_client(
        move |_, _, mut respond: Responder| {
            let pushed = Rc::clone(&counter);
            async move {
                respond.head(head(200), BodyLength::Unknown);
                while pushed.get() < 1 << 20 {
                    poll_fn(|cx| respond.poll_ready(cx)).await.unwrap();
                    respond.push(Frame::Data(vec![0; 16 * 1024].into()));
                    pushed.set(pushed.get() + 16 * 1024);
                }
                respond.finish();
                poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
                pushed.set(usize::MAX);
            }
        },
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            let body = response.await.unwrap().into_body();
            tokio::time::sleep(Duration::from_secs(1)).await;
            // The window of 64 KiB less one octet, 64 KiB in h2, and one frame in the sink.
            assert!((112 * 1024..=144 * 1024).contains(&pushed.get()), "{}", pushed.get());
            let (body, _) = read(body).await.unwrap();
            assert_eq!(body.len(), 1 << 20);
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(pushed.get(), usize::MAX);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_is_not_flushed_without_a_window() {
    let flushed = Rc::new(Cell::new(false));
    let flag = Rc::clone(&flushed);
    in_local_set(async {
        let (_, io, _) = server(
            move |_, _, mut respond: Responder| {
                let flushed = Rc::clone(&flag);
                async move {
                    respond.head(head(200), BodyLength::Unknown);
                    respond.push(Frame::Data(Bytes::from_static(b"hello")));
                    respond.finish();
                    poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
                    flushed.set(true);
                }
            },
            settings(),
        );
        let (mut client, connection) = h2::client::Builder::new()
            .initial_window_size(0)
            .handshake::<_, Bytes>(io)
            .await
            .unwrap();
        let mut connection = connection;
        let (response, _) = client.send_request(get(), true).unwrap();
        let mut response = pin!(response);
        let body = poll_fn(|cx| {
            assert!(Pin::new(&mut connection).poll(cx).is_pending());
            response.as_mut().poll(cx)
        });
        let body = body.await.unwrap().into_body();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!flushed.get());
        connection.set_initial_window_size(1024).unwrap();
        spawn_local(async move { drop(connection.await) });
        assert_eq!(read(body).await.unwrap().0, "hello");
        assert!(flushed.get());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn many_small_responses_are_coalesced_into_few_writes() {
    in_local_set(async {
        let (io, theirs) = duplex(1 << 20);
        let (counted, writes) = CountedWrites::new(io);
        let settings = settings();
        let drains = Drains::default();
        let drain = drains.handle();
        spawn_local(async move {
            serve(
                counted,
                &settings,
                &drain,
                spawned(async |_, _, mut respond: Responder| {
                    respond.head(head(200), BodyLength::Exact(1024));
                    respond.push(Frame::Data(vec![0; 1024].into()));
                    respond.finish();
                    poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
                }),
            )
            .await;
        });
        let (mut client, connection) = h2::client::handshake(theirs).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let before = writes.get();
        let responses: Vec<ResponseFuture> =
            (0..50).map(|_| client.send_request(get(), true).unwrap().0).collect();
        for response in responses {
            assert_eq!(read(response.await.unwrap().into_body()).await.unwrap().0.len(), 1024);
        }
        assert!(writes.get() - before <= 3, "{} writes for 50 responses", writes.get() - before);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_silent_client_is_closed_after_the_handshake_timeout() {
    in_local_set(async {
        let (served, mut io, settings) = server(echo, settings());
        let start = Instant::now();
        let mut all = Vec::new();
        io.read_to_end(&mut all).await.unwrap();
        assert_eq!(start.elapsed().as_secs(), settings.timeouts.handshake.as_secs());
        drop(io);
        served.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_with_goaway() {
    with_client(echo, async |mut client, settings| {
        let start = Instant::now();
        client.send_request(get(), true).unwrap().0.await.unwrap();
        while poll_fn(|cx| Poll::Ready(client.poll_ready(cx))).await.map(|result| result.is_ok())
            != Poll::Ready(false)
        {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let idle = settings.timeouts.client_idle.as_secs();
        assert!(
            (idle..=idle * 5 / 4 + 1).contains(&start.elapsed().as_secs()),
            "{:?}",
            start.elapsed()
        );
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_with_a_stream_is_not_idle() {
    with_client(
        async |_, _, mut respond: Responder| {
            tokio::time::sleep(Duration::from_secs(1000)).await;
            respond.head(head(200), BodyLength::None);
        },
        async |mut client, _| {
            let (response, _) = client.send_request(get(), true).unwrap();
            assert_eq!(response.await.unwrap().status(), 200);
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_client_is_detected_by_a_ping() {
    in_local_set(async {
        let (served, io, _) = server(
            async |_, _, mut respond: Responder| {
                respond.head(head(200), BodyLength::Unknown);
                poll_fn(|cx| respond.poll_client_closed(cx)).await;
            },
            settings(),
        );
        let (mut client, connection) = h2::client::handshake(io).await.unwrap();
        let mut connection = Box::pin(connection);
        let (response, _stream) = client.send_request(get(), true).unwrap();
        tokio::select! { _ = &mut connection => panic!("closed"), response = response => { response.unwrap(); } }
        // The client is not polled any more.
        let start = Instant::now();
        served.await.unwrap();
        assert!((50..=70).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_draining_connection_completes_its_streams_and_accepts_no_new_ones() {
    in_local_set(async {
        let (io, theirs) = duplex(1 << 20);
        let settings = settings();
        let drains = Drains::default();
        let drain = drains.handle();
        let served = spawn_local(async move {
            serve(
                io,
                &settings,
                &drain,
                spawned(async |_, _, mut respond: Responder| {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    respond.head(head(200), BodyLength::None);
                }),
            )
            .await;
        });
        let (mut client, connection) = h2::client::handshake::<_>(theirs).await.unwrap();
        let connection = spawn_local(connection);
        let (response, _) = client.send_request(get(), true).unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        drains.start();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let refused = client.send_request(get(), true).map(|_| ()).unwrap_err();
        assert_eq!((refused.is_go_away(), refused.reason()), (true, Some(Reason::NO_ERROR)));
        assert_eq!(response.await.unwrap().status(), 200);
        served.await.unwrap();
        connection.await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_exceeds_the_reset_budget_is_closed() {
    let seen = Rc::new(Cell::new(0_u32));
    let counter = Rc::clone(&seen);
    with_client(
        move |_, _, mut respond: Responder| {
            counter.set(counter.get() + 1);
            async move { poll_fn(|cx| respond.poll_client_closed(cx)).await }
        },
        async |mut client, settings| {
            let closed = loop {
                let Ok((response, mut stream)) = client.send_request(get(), true) else {
                    break client.send_request(get(), true);
                };
                // The stream's task starts before the reset.
                tokio::time::sleep(Duration::from_millis(1)).await;
                stream.send_reset(Reason::CANCEL);
                drop(response);
            };
            assert_eq!(closed.map(|_| ()).unwrap_err().reason(), Some(Reason::ENHANCE_YOUR_CALM));
            let budget = settings.limits.http2_streams.get() * 2;
            assert!((budget..=budget * 5 / 4).contains(&seen.get()), "{} of {budget}", seen.get());
        },
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn malformed_heads_that_h2_accepts_are_rejected() {
    // Each is an uncompressed header block.
    let method = block(":method", "GET");
    let rest =
        [block(":scheme", "https"), block(":authority", "host"), block(":path", "/")].concat();
    for (name, fields, expected) in [
        (
            "no path and no authority",
            [&*method, &block(":scheme", "https")].concat(),
            Err("path_missing"),
        ),
        (
            "a space before a value",
            [&*method, &rest, &block("x-field", " value")].concat(),
            Err("field_whitespace"),
        ),
        (
            "a tab after a value",
            [&*method, &rest, &block("x-field", "value\t")].concat(),
            Err("field_whitespace"),
        ),
        (
            "two lengths",
            [&*method, &rest, &block("content-length", "0"), &block("content-length", "0")]
                .concat(),
            Err("length_repeated"),
        ),
        (
            "a path of a query only",
            [&*method, &block(":scheme", "https"), &block(":path", "?")].concat(),
            Err("path_malformed"),
        ),
        (
            "a query with all characters",
            [&*method, &block(":scheme", "https"), &block(":path", "/a?b=\"<c>\"")].concat(),
            Ok(Target::Path(PathAndQuery::new("/a?b=\"<c>\"").unwrap())),
        ),
        (
            "a path with all characters",
            [&*method, &block(":scheme", "https"), &block(":path", "/<`>\"")].concat(),
            Ok(Target::Path(PathAndQuery::new("/<`>\"").unwrap())),
        ),
        (
            "a fragment",
            [&*method, &block(":scheme", "https"), &block(":path", "/a#b")].concat(),
            Err("path_malformed"),
        ),
        (
            "a fragment in a query",
            [&*method, &block(":scheme", "https"), &block(":path", "/a?b#")].concat(),
            Err("path_malformed"),
        ),
        (
            "a plain CONNECT",
            [block(":method", "CONNECT"), block(":authority", "host:443")].concat(),
            Ok(Target::Authority),
        ),
        (
            "OPTIONS *",
            [
                block(":method", "OPTIONS"),
                block(":scheme", "https"),
                block(":authority", "host"),
                block(":path", "*"),
            ]
            .concat(),
            Ok(Target::Asterisk),
        ),
    ] {
        let seen = head_of(&fields).await;
        assert_eq!(
            seen.map(|head| head.target).map_err(|refusal| refusal.reason),
            expected,
            "{name}"
        );
    }
}

/// h2 does not decode the block of a stream that depends on itself, and would take the path of another
/// request for that of the next one.
#[tokio::test(start_paused = true)]
async fn nothing_is_served_after_a_header_block_that_h2_skips() {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let heads = Rc::clone(&seen);
    let request = |stream: u8, dependency: &[u8], path: &[u8]| {
        let payload = [dependency, b"\x82\x87", path, &block("host", "a")].concat();
        let flags = 5 | if dependency.is_empty() { 0 } else { 0x20 };
        [&[0, 0, payload.len() as u8, 1, flags, 0, 0, 0, stream][..], &payload].concat()
    };
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let first = [&preface[..], &request(1, b"", b"\x44\x04/one")].concat();
    let skipped = request(3, &[0, 0, 0, 3, 0], b"\x44\x04/two");
    let misread = request(5, b"", b"\xbe");
    in_local_set(async {
        let (task, mut io, _) = server(
            move |head, _, respond| {
                heads.borrow_mut().push(head.unwrap().target);
                async { drop(respond) }
            },
            settings(),
        );
        io.write_all(&first).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        io.write_all(&[skipped, misread].concat()).await.unwrap();
        let mut frames = Vec::new();
        io.read_to_end(&mut frames).await.unwrap();
        assert!(frames.windows(4).any(|head| head == [0, 0, 8, 7]), "no GOAWAY");
        drop(io);
        task.await.unwrap();
    })
    .await;
    assert_eq!(*seen.borrow(), [Target::Path(PathAndQuery::new("/one").unwrap())]);
}

#[tokio::test(start_paused = true)]
async fn the_body_length_follows_from_the_head() {
    let rest =
        [block(":scheme", "https"), block(":authority", "host"), block(":path", "/")].concat();
    let post = [&*block(":method", "POST"), &rest].concat();
    for (fields, end, expected) in [
        (post.clone(), true, BodyLength::None),
        (post.clone(), false, BodyLength::Unknown),
        ([&*post, &block("content-length", "7")].concat(), false, BodyLength::Exact(7)),
        ([&*post, &block("content-length", "0")].concat(), true, BodyLength::None),
    ] {
        assert_eq!(head_in(&fields, end).await.unwrap().body, expected);
    }
}

#[tokio::test]
async fn it_works_over_real_sockets() {
    in_local_set(async {
        let listener =
            tokio::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let settings = settings();
        let drains = Drains::default();
        let drain = drains.handle();
        spawn_local(async move {
            let (io, _) = listener.accept().await.unwrap();
            serve(io, &settings, &drain, spawned(echo)).await;
        });
        let (mut client, connection) =
            h2::client::handshake(tokio::net::TcpStream::connect(address).await.unwrap())
                .await
                .unwrap();
        spawn_local(async move { drop(connection.await) });
        let (response, mut stream) = client.send_request(post(), false).unwrap();
        let sent = vec![b'x'; 1 << 20];
        let sending = sent.clone();
        spawn_local(async move {
            for piece in sending.chunks(10_000) {
                stream.reserve_capacity(piece.len());
                while stream.capacity() < piece.len() {
                    poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
                }
                stream.send_data(Bytes::copy_from_slice(piece), false).unwrap();
            }
            stream.send_data(Bytes::new(), true).unwrap();
        });
        let (received, _) = read(response.await.unwrap().into_body()).await.unwrap();
        assert!(received == sent, "{} octets", received.len());
    })
    .await;
}

/// Responds with the request's head and body.
async fn echo(
    request: Result<RequestHead, Refusal>,
    mut body: RequestBody,
    mut respond: Responder,
) {
    let request = request.unwrap();
    let text = |bytes: Option<Bytes>| {
        bytes.map_or(String::new(), |bytes| String::from_utf8(bytes.to_vec()).unwrap())
    };
    let Target::Path(path) = &request.target else { panic!("{:?}", request.target) };
    let line = format!(
        "{} {} {} {} {:?}",
        request.method,
        text(request.scheme),
        text(request.authority),
        path,
        request.body
    );
    respond.head(
        ResponseHead { status: StatusCode::OK, headers: fields("x-head", &line) },
        BodyLength::Unknown,
    );
    while let Some(frame) = poll_fn(|cx| body.poll_frame(cx)).await {
        poll_fn(|cx| respond.poll_ready(cx)).await.unwrap();
        respond.push(frame.unwrap());
        poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
    }
    respond.finish();
    poll_fn(|cx| respond.poll_flush(cx)).await.unwrap();
}

async fn in_local_set(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

fn settings() -> Rc<Settings> {
    Rc::new(
        serde_json::from_str(
            r#"{"zone": "apps.example.com", "source": {"directory": "manifests"}}"#,
        )
        .unwrap(),
    )
}

/// Handles each request in a task of its own.
fn spawned<F: Future<Output = ()> + 'static>(
    handle: impl Fn(Result<RequestHead, Refusal>, RequestBody, Responder) -> F,
) -> impl Fn(Result<RequestHead, Refusal>, RequestBody, Responder) {
    move |head, body, respond| drop(spawn_local(handle(head, body, respond)))
}

fn server<H, F>(handle: H, settings: Rc<Settings>) -> (JoinHandle<()>, DuplexStream, Rc<Settings>)
where
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let (io, theirs) = duplex(1 << 20);
    let served = Rc::clone(&settings);
    let task = spawn_local(async move {
        let drains = Drains::default();
        let drain = drains.handle();
        serve(io, &served, &drain, spawned(handle)).await;
    });
    (task, theirs, settings)
}

async fn with_client<H, F>(handle: H, test: impl AsyncFnOnce(SendRequest<Bytes>, Rc<Settings>))
where
    H: Fn(Result<RequestHead, Refusal>, RequestBody, Responder) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    in_local_set(async {
        let (_, io, settings) = server(handle, settings());
        let (client, connection) = h2::client::handshake(io).await.unwrap();
        spawn_local(async move { drop(connection.await) });
        test(client, settings).await;
    })
    .await;
}

/// Parses a raw header block.
async fn head_of(fields: &[u8]) -> Result<RequestHead, Refusal> {
    head_in(fields, true).await
}

async fn head_in(fields: &[u8], end: bool) -> Result<RequestHead, Refusal> {
    let seen = Rc::new(RefCell::new(None));
    let heads = Rc::clone(&seen);
    let mut octets = BytesMut::from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    octets.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    let length = u8::try_from(fields.len()).unwrap();
    octets.extend([0, 0, length, 1, 4 | u8::from(end), 0, 0, 0, 1]);
    octets.extend(fields);
    in_local_set(async {
        let (_, mut io, _) = server(
            move |head, _, respond| {
                *heads.borrow_mut() = Some(head);
                async { drop(respond) }
            },
            settings(),
        );
        io.write_all(&octets).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    })
    .await;
    seen.take().expect("h2 rejected it")
}

/// Encodes an uncompressed field (RFC 7541 §6.2.2).
fn block(name: &str, value: &str) -> Vec<u8> {
    let mut field = vec![0, u8::try_from(name.len()).unwrap()];
    field.extend(name.as_bytes());
    field.push(u8::try_from(value.len()).unwrap());
    field.extend(value.as_bytes());
    field
}

fn get() -> Request<()> {
    Request::get("https://host/").body(()).unwrap()
}

fn post() -> Request<()> {
    Request::post("https://host/").body(()).unwrap()
}

fn head(status: u16) -> ResponseHead {
    ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new() }
}

fn fields(name: &'static str, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(http::HeaderName::from_static(name), value.parse().unwrap())])
}

async fn read(mut body: RecvStream) -> Result<(Bytes, Option<HeaderMap>), h2::Error> {
    let mut all = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        all.extend_from_slice(&data);
    }
    Ok((all.freeze(), body.trailers().await?))
}

/// Sends until no window is left, and returns the number of octets.
async fn send_all_that_fits(stream: &mut h2::SendStream<Bytes>) -> usize {
    let mut sent = 0;
    stream.reserve_capacity(1 << 20);
    loop {
        tokio::time::sleep(Duration::from_millis(1)).await;
        let capacity = stream.capacity();
        if capacity == 0 {
            return sent;
        }
        stream.send_data(vec![0; capacity].into(), false).unwrap();
        stream.reserve_capacity(1 << 20);
        sent += capacity;
    }
}

/// A transport that counts writes.
struct CountedWrites {
    io: DuplexStream,
    writes: Rc<Cell<usize>>,
}

impl CountedWrites {
    fn new(io: DuplexStream) -> (Self, Rc<Cell<usize>>) {
        let writes = Rc::<Cell<usize>>::default();
        (Self { io, writes: Rc::clone(&writes) }, writes)
    }
}

impl AsyncRead for CountedWrites {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, into)
    }
}

impl AsyncWrite for CountedWrites {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        octets: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        self.writes.set(self.writes.get() + 1);
        Pin::new(&mut self.io).poll_write(cx, octets)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
