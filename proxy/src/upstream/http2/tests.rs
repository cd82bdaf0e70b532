use std::future::poll_fn;
use std::pin::pin;
use std::sync::LazyLock;

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Response as HttpResponse, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::{LocalSet, spawn_local};
use tokio::time::Instant;

use super::*;
use crate::exchange::{BodyLength, PathAndQuery, ResponseHead};
use crate::upstream::exchange::AddedFields;

mod faults;

const SETTINGS: ClientSettings = ClientSettings {
    stream_window: 64 * 1024,
    spare_window: 64 * 1024,
    head_bytes: 16 * 1024,
    streams: STREAMS_BEFORE_SETTINGS,
    idle: Duration::from_secs(30),
    ping_after: Duration::from_secs(5),
};

type Backend = h2::server::Connection<DuplexStream, Bytes>;

#[tokio::test(start_paused = true)]
async fn bodies_and_trailers_pass_in_both_directions() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::Unknown), false).unwrap();
        exchange.request.push(data("hello "));
        exchange.request.push(data("backend"));
        exchange.request.push(Frame::Trailers(trailers("request")));

        let (request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        assert_eq!(request.uri().path(), "/path");
        let (body, fields) = read(request.into_body()).await;
        assert_eq!((body.as_str(), fields), ("hello backend", Some(trailers("request"))));
        let mut stream = respond.send_response(HttpResponse::new(()), false).unwrap();
        stream.send_data(Bytes::from_static(b"hello client"), false).unwrap();
        stream.send_trailers(trailers("response")).unwrap();

        let (head, length) = final_head(&mut exchange).await.unwrap();
        assert_eq!((head.status, length), (StatusCode::OK, BodyLength::Unknown));
        assert!(matches!(next_frame(&mut exchange).await, Some(Ok(Frame::Data(data))) if data == "hello client"));
        assert!(matches!(next_frame(&mut exchange).await, Some(Ok(Frame::Trailers(fields))) if fields == trailers("response")));
        assert!(next_frame(&mut exchange).await.is_none());
        assert_eq!(client.0.0.borrow().exchanges, 1);
        drop(exchange);
        assert_eq!(client.0.0.borrow().exchanges, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_with_only_trailers_has_no_body() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        let mut answer = HttpResponse::new(());
        answer.headers_mut().insert("grpc-status", "12".parse().unwrap());
        respond.send_response(answer, true).unwrap();
        let (head, length) = final_head(&mut exchange).await.unwrap();
        assert_eq!(
            (&head.headers["grpc-status"], length),
            (&"12".parse().unwrap(), BodyLength::None)
        );
        assert!(next_frame(&mut exchange).await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn interim_responses_precede_the_final_one() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        for status in [100, 103] {
            let head = HttpResponse::builder().status(status).body(()).unwrap();
            respond.send_informational(head).unwrap();
        }
        respond.send_response(HttpResponse::builder().status(204).body(()).unwrap(), true).unwrap();
        for status in [100, 103] {
            assert!(matches!(next_head(&mut exchange).await, Ok(Head::Interim(head)) if head.status == status));
        }
        assert_eq!(final_head(&mut exchange).await.unwrap().0.status, 204);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_exchange_with_a_queued_body_cancels_its_stream() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::Unknown), false).unwrap();
        exchange.request.push(Frame::Data(vec![0; 100_000].into()));
        assert!(poll_fn(|cx| Poll::Ready(exchange.request.poll_flush(cx))).await.is_pending());
        let (request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        drop(exchange);
        assert_eq!(poll_fn(|cx| respond.poll_reset(cx)).await.unwrap(), Reason::CANCEL);
        drop(request);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_body_is_accepted_no_faster_than_the_backend_reads() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::Unknown), false).unwrap();
        let (request, respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        let mut pushed = 0;
        while poll_fn(|cx| Poll::Ready(exchange.request.poll_ready(cx))).await.is_ready() {
            exchange.request.push(Frame::Data(vec![0; 16 * 1024].into()));
            pushed += 16 * 1024;
            assert!(pushed <= 1024 * 1024, "no bound");
            tokio::task::yield_now().await;
        }
        // The backend's window of 64 KiB less one octet, and 64 KiB in our queue; partially sent
        // pieces count in full.
        assert!((112 * 1024..=128 * 1024).contains(&pushed), "{pushed}");
        let reading = spawn_local(async move { read(request.into_body()).await.0.len() });
        poll_fn(|cx| exchange.request.poll_ready(cx)).await.unwrap();
        exchange.request.finish();
        assert_eq!(reading.await.unwrap(), pushed);
        drop(respond);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_response_window_opens_only_as_the_body_is_read() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        let mut stream = respond.send_response(HttpResponse::new(()), false).unwrap();
        final_head(&mut exchange).await.unwrap();
        let window = usize::try_from(SETTINGS.stream_window).unwrap();
        assert_eq!(send_all_that_fits(&mut stream).await, window / 2, "the guaranteed one");

        // A frame counts as read when the next one is polled.
        assert!(matches!(next_frame(&mut exchange).await, Some(Ok(Frame::Data(_)))));
        assert_eq!(send_all_that_fits(&mut stream).await, 0);
        read_octets(&mut exchange, 16 * 1024).await;
        // It is opened for the first frame, and grows.
        assert_eq!(send_all_that_fits(&mut stream).await, 16 * 1024 + window / 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn streams_that_are_not_read_do_not_stop_others() {
    in_local_set(async {
        let (ours, theirs) = duplex(1 << 20);
        let client = Http2Client::connect(ours, &SETTINGS);
        let mut builder = h2::server::Builder::new();
        let mut backend: Backend =
            builder.max_concurrent_streams(1000).handshake(theirs).await.unwrap();
        let (accepted, mut requests) = tokio::sync::mpsc::channel(240);
        spawn_local(async move {
            while let Some(request) = backend.accept().await {
                accepted.send(request.unwrap()).await.unwrap();
            }
        });
        let mut open = Vec::new();
        for number in 0..240 {
            let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
            let (_request, mut respond) = requests.recv().await.unwrap();
            let stream = respond.send_response(HttpResponse::new(()), false).unwrap();
            final_head(&mut exchange).await.unwrap();
            open.push((number, exchange, stream));
        }
        // Some are read until their windows have grown.
        for (number, exchange, stream) in &mut open {
            send_all_that_fits(stream).await;
            if *number % 2 == 0 {
                read_octets(exchange, 20 * 1024).await;
                send_all_that_fits(stream).await;
            }
        }
        let (_, mut first, mut stream) = open.remove(0);
        let mut octets = 0;
        for _ in 0..100 {
            octets += send_all_that_fits(&mut stream).await;
            read_octets(&mut first, 16 * 1024).await;
        }
        assert!(octets >= 1024 * 1024, "{octets}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_retryable_and_a_reset_one_is_not() {
    with_backend(async |client, mut backend| {
        for (reason, failed) in [
            (Reason::REFUSED_STREAM, Failed::NotSent),
            (Reason::INTERNAL_ERROR, Failed::Broken(Broken::Closed)),
            (Reason::CANCEL, Failed::Broken(Broken::Closed)),
        ] {
            let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
            let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
            respond.send_reset(reason);
            let head = final_head(&mut exchange);
            let mut head = pin!(head);
            let result = poll_fn(|cx| {
                assert!(backend.poll_closed(cx).is_pending());
                head.as_mut().poll(cx)
            });
            assert_eq!(result.await.unwrap_err(), failed, "{reason:?}");
            assert!(client.is_usable());
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn after_goaway_open_streams_complete_and_new_requests_are_rejected() {
    with_backend(async |client, mut backend| {
        let mut open = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        // h2's server cannot be made to send a GOAWAY that excludes an open stream.
        let mut refused = client.send(&post(BodyLength::None), false).unwrap();
        backend.graceful_shutdown();
        drive(backend);
        while client.is_open() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(client.send(&post(BodyLength::None), false).unwrap_err(), Failed::NotSent);
        respond.send_response(HttpResponse::new(()), true).unwrap();
        assert_eq!(final_head(&mut open).await.unwrap().0.status, 200);
        // It was sent before GOAWAY, and the backend's task drops it without a response.
        assert!(final_head(&mut refused).await.is_err());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_above_the_last_one_of_goaway_is_retryable() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        let mut first = client.send(&post(BodyLength::None), false).unwrap();
        let mut second = client.send(&post(BodyLength::None), false).unwrap();
        read_some(&mut backend).await;
        backend.write_all(&goaway(1, Reason::NO_ERROR)).await.unwrap();
        assert_eq!(final_head(&mut second).await.unwrap_err(), Failed::NotSent);
        assert!(!client.is_open());
        drop(backend);
        // It may have been processed: only idempotent requests may be retried.
        assert_eq!(final_head(&mut first).await.unwrap_err(), Failed::NoResponse);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_backend_is_detected_by_a_ping() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        read_some(&mut backend).await;
        let start = Instant::now();
        assert_eq!(final_head(&mut exchange).await.unwrap_err(), Failed::Broken(Broken::TimedOut));
        assert!((10..=16).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(!client.is_open());
        let mut rest = Vec::new();
        backend.read_to_end(&mut rest).await.unwrap();
        let pings =
            rest.windows(9).filter(|head| head.starts_with(&[0, 0, 8, 6, 0, 0, 0, 0, 0])).count();
        assert_eq!(pings, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_backend_that_answers_pings_is_kept() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        spawn_local(async move {
            tokio::time::sleep(Duration::from_secs(120)).await;
            respond.send_response(HttpResponse::new(()), true).unwrap();
        });
        assert_eq!(final_head(&mut exchange).await.unwrap().0.status, 200);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_closed_with_goaway() {
    in_local_set(async {
        let (client, mut backend) = raw_backend().await;
        let start = Instant::now();
        let mut all = Vec::new();
        backend.read_to_end(&mut all).await.unwrap();
        assert!((30..=40).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        assert!(all.windows(4).any(|head| head == [0, 0, 8, 7]), "no GOAWAY");
        assert!(!client.is_open());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_backends_stream_limit_is_respected() {
    in_local_set(async {
        let (ours, theirs) = duplex(1 << 20);
        let client = Http2Client::connect(ours, &SETTINGS);
        let backend: Backend =
            h2::server::Builder::new().max_concurrent_streams(2).handshake(theirs).await.unwrap();
        drive(backend);
        let first = client.send(&post(BodyLength::Unknown), false).unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert!(client.is_usable());
        let _second = client.send(&post(BodyLength::Unknown), false).unwrap();
        assert!(!client.is_usable() && client.is_open());
        drop(first);
        assert!(client.is_usable());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_response_before_the_end_of_the_request_is_read() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::Unknown), false).unwrap();
        exchange.request.push(data("a part"));
        poll_fn(|cx| exchange.request.poll_flush(cx)).await.unwrap();
        let (request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        respond.send_response(HttpResponse::builder().status(413).body(()).unwrap(), true).unwrap();
        // h2 then resets the stream with NO_ERROR.
        drop((request, respond));
        assert_eq!(final_head(&mut exchange).await.unwrap().0.status, 413);
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            poll_fn(|cx| exchange.request.poll_ready(cx)).await.unwrap();
            exchange.request.push(data("the rest"));
        }
        assert!(next_frame(&mut exchange).await.is_none());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_without_http2_fails_the_exchange() {
    in_local_set(async {
        let (ours, mut theirs) = duplex(1 << 20);
        let client = Http2Client::connect(ours, &SETTINGS);
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        theirs.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await.unwrap();
        assert!(
            matches!(final_head(&mut exchange).await.unwrap_err(), Failed::Broken(_)),
            "it is not retryable"
        );
        assert!(!client.is_open());
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_101_is_malformed() {
    with_backend(async |client, mut backend| {
        let mut exchange = client.send(&post(BodyLength::None), false).unwrap();
        let (_request, mut respond) = backend.accept().await.unwrap().unwrap();
        drive(backend);
        respond.send_informational(HttpResponse::builder().status(101).body(()).unwrap()).unwrap();
        assert_eq!(
            final_head(&mut exchange).await.unwrap_err(),
            Failed::Broken(Broken::Malformed("switching_protocols"))
        );
    })
    .await;
}

async fn in_local_set(test: impl Future<Output = ()>) {
    LocalSet::new().run_until(test).await;
}

async fn with_backend(test: impl AsyncFnOnce(Http2Client, Backend)) {
    in_local_set(async {
        let (ours, theirs) = duplex(1 << 20);
        let client = Http2Client::connect(ours, &SETTINGS);
        let backend = h2::server::handshake(theirs).await.unwrap();
        test(client, backend).await;
    })
    .await;
}

/// A backend whose frames the test writes.
async fn raw_backend() -> (Http2Client, DuplexStream) {
    let (ours, mut theirs) = duplex(1 << 20);
    let client = Http2Client::connect(ours, &SETTINGS);
    theirs.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    (client, theirs)
}

async fn read_some(backend: &mut DuplexStream) {
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert!(backend.read(&mut [0; 1024]).await.unwrap() > 0);
}

fn goaway(last: u8, reason: Reason) -> Vec<u8> {
    let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, last];
    frame.extend(u32::from(reason).to_be_bytes());
    frame
}

fn drive(mut backend: Backend) {
    spawn_local(async move { while backend.accept().await.is_some() {} });
}

fn post(body: BodyLength) -> Message<'static> {
    message(&Method::POST, body)
}

fn message(method: &'static Method, body: BodyLength) -> Message<'static> {
    static HOST: HeaderValue = HeaderValue::from_static("pod");
    static TARGET: LazyLock<PathAndQuery> = LazyLock::new(|| PathAndQuery::new("/path").unwrap());
    static HEADERS: LazyLock<HeaderMap> = LazyLock::new(HeaderMap::new);
    Message {
        method,
        host: &HOST,
        target: &TARGET,
        headers: &HEADERS,
        added: AddedFields::default(),
        body,
        expects_continue: false,
        connect_timeout: std::time::Duration::from_secs(5),
        call_deadline: None,
        is_copy: false,
    }
}

fn data(text: &'static str) -> Frame {
    Frame::Data(Bytes::from_static(text.as_bytes()))
}

fn trailers(value: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("x-trailer"),
        http::HeaderValue::from_static(value),
    )])
}

async fn next_head(exchange: &mut Http2Exchange) -> Result<Head, Failed> {
    poll_fn(|cx| exchange.response.poll_head(cx)).await
}

async fn final_head(exchange: &mut Http2Exchange) -> Result<(ResponseHead, BodyLength), Failed> {
    match next_head(exchange).await? {
        Head::Final(head, length) => Ok((head, length)),
        Head::Interim(head) => panic!("interim: {head:?}"),
    }
}

async fn next_frame(exchange: &mut Http2Exchange) -> Option<Result<Frame, Broken>> {
    poll_fn(|cx| exchange.response.poll_frame(cx)).await
}

async fn read(mut body: h2::RecvStream) -> (String, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend_from_slice(&data);
    }
    (String::from_utf8(all).unwrap(), body.trailers().await.unwrap())
}

/// Reads this many octets or more, and returns how many.
async fn read_octets(exchange: &mut Http2Exchange, at_least: usize) -> usize {
    let mut read = 0;
    while read < at_least {
        let Some(Ok(Frame::Data(data))) = next_frame(exchange).await else { panic!("no data") };
        read += data.len();
    }
    read
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
