//! HTTP end to end: versions, bodies, interim responses, trailers, streams, and slow
//! clients.

use std::time::Duration;

use futures::StreamExt;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::harness::{
    Gateway, Raw, Recording, Service, Step, WEB, World, client, echo, eventually, soon,
};

/// Much larger than the gateway's buffer for one body.
const LARGE: u64 = 64 * 1024 * 1024;

#[tokio::test]
async fn curl_speaks_each_version_of_http() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for (option, version) in [("--http1.0", "1.1"), ("--http1.1", "1.1"), ("--http2", "2")] {
        let answer = gateway.curl(WEB, "/whoami").arg(option).run().await;
        assert_eq!(
            (answer.status, answer.text().as_str()),
            (200, "pod-1\n"),
            "{option}: {answer:?}"
        );
        assert_eq!(answer.version, version, "{option}");
    }
    let answer = gateway.curl_plain(WEB, "/whoami").arg("--http2-prior-knowledge").run().await;
    assert_eq!((answer.version.as_str(), answer.text().as_str()), ("2", "pod-1\n"), "{answer:?}");
}

#[tokio::test]
async fn h2c_pods_get_http2() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").app_protocol("kubernetes.io/h2c").pod(&pod)),
    )
    .await;
    for option in ["--http1.1", "--http2"] {
        let reported =
            gateway.curl(WEB, "/echo").args([option, "--data", "hello"]).run().await.json();
        assert_eq!(reported["version"], "HTTP/2.0", "{option}: {reported}");
        assert_eq!(reported["octets"], 5, "{option}: {reported}");
        assert_eq!(
            reported["authority"].as_str().unwrap().split(':').next().unwrap(),
            WEB,
            "{option}: {reported}"
        );
    }
}

#[tokio::test]
async fn a_backend_gets_the_forwarded_headers() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let forged = [
        "X-Forwarded-For: 9.9.9.9",
        "X_Forwarded_For: 9.9.9.9",
        "X-Real-IP: 9.9.9.9",
        "X-Forwarded-Proto: gopher",
        "Forwarded: for=9.9.9.9",
    ];
    let curl =
        forged.iter().fold(gateway.curl(WEB, "/echo?a=1"), |curl, header| curl.header(header));
    let reported = curl.run().await.json();
    let headers: Vec<(String, String)> =
        serde_json::from_value(reported["headers"].clone()).unwrap();
    let all = |name: &str| {
        headers
            .iter()
            .filter(|(other, _)| other == name)
            .map(|(_, value)| value.as_str())
            .collect::<Vec<_>>()
    };
    assert_eq!(reported["path"], "/echo?a=1");
    assert_eq!(all("x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(all("x-real-ip"), ["127.0.0.1"]);
    assert_eq!(all("x-forwarded-proto"), ["https"]);
    assert_eq!(all("x-forwarded-host"), [format!("{WEB}:{}", gateway.https().port())]);
    assert_eq!(all("x-request-id").len(), 1);
    assert!(all("forwarded").is_empty() && all("x_forwarded_for").is_empty(), "{headers:?}");
}

#[tokio::test]
async fn responses_without_a_body_have_none() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for option in ["--http1.1", "--http2"] {
        let head = gateway.curl(WEB, "/bytes/1000").args([option, "--head"]).run().await;
        assert_eq!((head.status, head.exit), (200, 0), "{head:?}");
        assert_eq!(head.header("content-length"), Some("1000"), "{head:?}");
        for (status, path) in [(204, "/status/204"), (304, "/status/304")] {
            let answer = gateway.curl(WEB, path).arg(option).run().await;
            assert_eq!(
                (answer.status, answer.exit, answer.body.len()),
                (status, 0, 0),
                "{answer:?}"
            );
        }
    }
    let mut client = Raw::connect(gateway.http()).await;
    for path in ["/status/204", "/status/304"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let response = client.response().await.unwrap();
        assert!(response.header("transfer-encoding").is_none(), "{response:?}");
    }
    client.send(format!("HEAD /bytes/3 HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert_eq!(client.response_to("HEAD").await.unwrap().header("content-length"), Some("3"));
    client.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert_eq!(
        client.response().await.unwrap().text(),
        "pod-1\n",
        "the connection is still in step"
    );
}

#[tokio::test]
async fn every_status_is_forwarded_unchanged() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for status in [200, 201, 301, 400, 401, 404, 418, 429, 500, 503] {
        let answer = gateway.curl(WEB, &format!("/status/{status}")).run().await;
        assert_eq!((answer.status, answer.text()), (status, format!("{status}\n")));
    }
}

#[tokio::test]
async fn large_downloads_need_little_memory() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    gateway.curl(WEB, "/bytes/1000000").run().await;
    let before = gateway.memory();
    for option in ["--http1.1", "--http2"] {
        let curl = gateway.curl(WEB, &format!("/bytes/{LARGE}")).args([
            option,
            "--output",
            "/dev/null",
            "--write-out",
            "%{size_download}",
        ]);
        let output = curl.command().output().await.unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            LARGE.to_string(),
            "{option}: {output:?}"
        );
    }
    assert!(
        gateway.memory() < before + 16 * 1024,
        "{before} KiB before, {} KiB after",
        gateway.memory()
    );
}

#[tokio::test]
async fn large_uploads_need_little_memory() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(LARGE).unwrap();
    gateway.curl(WEB, "/echo").args(["--data", "hello"]).run().await;
    let before = gateway.memory();
    for option in ["--http1.1", "--http2"] {
        let upload = ["--upload-file", &file.path().to_string_lossy()];
        let answer = gateway.curl(WEB, "/echo").arg(option).args(upload).run().await;
        assert_eq!(answer.json()["octets"], LARGE, "{option}: {answer:?}");
    }
    assert!(
        gateway.memory() < before + 16 * 1024,
        "{before} KiB before, {} KiB after",
        gateway.memory()
    );
}

#[tokio::test]
async fn chunked_uploads_arrive_completely() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {WEB}\r\nTransfer-Encoding: chunked\r\nTrailer: \
             x-sum\r\n\r\n"
        ))
        .await;
    for chunk in ["3\r\nabc\r\n", "A;name=value\r\n0123456789\r\n", "0\r\nX-Sum: 13\r\n\r\n"] {
        client.send(chunk).await;
    }
    let response = client.response().await.unwrap();
    let reported: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    assert_eq!(reported["octets"], 13, "{reported}");
    assert_eq!(reported["trailers"], serde_json::json!([["x-sum", "13"]]), "{reported}");
}

#[tokio::test]
async fn a_client_that_expects_100_continue_gets_it_before_it_sends() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: 3\r\nExpect: \
             100-continue\r\n\r\n"
        ))
        .await;
    assert_eq!(client.response().await.unwrap().status, 100);
    client.send("abc").await;
    let response = client.response().await.unwrap();
    assert_eq!(response.status, 200);
    assert!(response.text().contains("\"octets\":3"), "{response:?}");
}

#[tokio::test]
async fn a_backend_can_reject_instead_of_100_continue() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(format!(
            "POST /status/413 HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: 1000000\r\nExpect: \
             100-continue\r\n\r\n"
        ))
        .await;
    // The client may get the response at once, or 100 Continue first; either way no octet of the
    // body is needed for the response.
    let mut response = client.response().await.unwrap();
    if response.status == 100 {
        response = client.response().await.unwrap();
    }
    assert_eq!(response.status, 413);
}

#[tokio::test]
async fn interim_responses_are_forwarded() {
    let early = "HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\nHTTP/1.1 200 \
                 OK\r\nContent-Length: 2\r\n\r\nok";
    let pod =
        Recording::script(vec![Step::head(), Step::write(early), Step::Restart]).await.unwrap();
    let gateway = Gateway::start(World::web(&pod)).await;

    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    let hints = client.response().await.unwrap();
    assert_eq!((hints.status, hints.header("link")), (103, Some("</style.css>; rel=preload")));
    assert_eq!(client.response().await.unwrap().text(), "ok");

    let answer = gateway.curl(WEB, "/").arg("--http2").run().await;
    assert_eq!(answer.status_lines.len(), 2, "{answer:?}");
    assert!(answer.status_lines[0].contains("103"), "{answer:?}");

    let mut old = Raw::connect(gateway.http()).await;
    old.send(format!("GET / HTTP/1.0\r\nHost: {WEB}\r\n\r\n")).await;
    assert_eq!(
        old.response().await.unwrap().status,
        200,
        "HTTP/1.0 clients get no interim response"
    );
}

#[tokio::test]
async fn trailers_of_a_response_are_forwarded() {
    // An HTTP/1.1 pod sends them unconditionally: the gateway does not forward the client's `TE`.
    let response = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: \
                    x-checksum\r\n\r\n2\r\nok\r\n0\r\nX-Checksum: 21\r\n\r\n";
    let http1 =
        Recording::script(vec![Step::head(), Step::write(response), Step::Restart]).await.unwrap();
    let h2c = echo("pod-1").await;
    let world =
        World::web(&http1).with(Service::new("h2c").app_protocol("kubernetes.io/h2c").pod(&h2c));
    let gateway = Gateway::start(world).await;
    for host in [WEB, "h2c--staging.apps.test"] {
        let mut client = client::http2(&gateway, host).await;
        let request = http::Request::get(format!("https://{host}/trailers"))
            .header("te", "trailers")
            .body(())
            .unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        let mut body = response.await.unwrap().into_body();
        while let Some(data) = body.data().await {
            let data = data.unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        let trailers = body.trailers().await.unwrap().expect(host);
        assert_eq!(trailers["x-checksum"], "21", "{host}");

        let mut client = Raw::connect(gateway.http()).await;
        client
            .send(format!(
                "GET /trailers HTTP/1.1\r\nHost: {host}\r\nTE: trailers\r\nConnection: TE\r\n\r\n"
            ))
            .await;
        let response = client.response().await.unwrap();
        assert!(response.trailers.contains("x-checksum: 21\r\n"), "{host}: {response:?}");
    }
}

#[tokio::test]
async fn server_sent_events_arrive_one_at_a_time() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for option in ["--http1.1", "--http2"] {
        let mut process = gateway
            .curl(WEB, "/events/1000?interval=50ms")
            .args([option, "--no-buffer"])
            .command()
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let first = soon("the first event arrives while the stream goes on", lines.next_line())
            .await
            .unwrap();
        assert_eq!(first.as_deref(), Some("id: 0"), "{option}");
        process.kill().await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_the_request_at_the_backend() {
    let pod = echo("pod-1").await;
    for protocol in ["http", "kubernetes.io/h2c"] {
        let gateway = Gateway::start(
            World::empty().with(Service::new("web").app_protocol(protocol).pod(&pod)),
        )
        .await;
        for option in ["--http1.1", "--http2"] {
            let mut counts = pod.counts();
            let before = *counts.borrow_and_update();
            let mut process = gateway
                .curl(WEB, "/stream/100000?interval=20ms")
                .args([option, "--no-buffer"])
                .command()
                .spawn()
                .unwrap();
            let mut line = [0; 4];
            soon("the stream begins", process.stdout.as_mut().unwrap().read_exact(&mut line))
                .await
                .unwrap();
            process.kill().await.unwrap();
            let cancelled = counts.wait_for(|counts| counts.cancelled > before.cancelled);
            soon(&format!("{option} to {protocol}: the backend notices"), cancelled).await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_down_the_backend() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    gateway.curl(WEB, "/bytes/1000000").run().await;
    let before = gateway.memory();
    let mut idlers = Vec::new();
    for _ in 0..8 {
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET /bytes/{LARGE} HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        client.until(b"\r\n\r\n").await.unwrap();
        idlers.push(client);
    }
    let answer = gateway.curl(WEB, "/whoami").run().await;
    assert_eq!(answer.text(), "pod-1\n", "others are served meanwhile");
    assert!(
        gateway.memory() < before + 16 * 1024,
        "{before} KiB before, {} KiB after",
        gateway.memory()
    );
    assert_eq!(pod.counts().borrow().finished, 2, "no response went into a buffer whole");
}

#[tokio::test]
async fn a_backend_that_does_not_read_slows_down_the_client() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    gateway.curl(WEB, "/echo").args(["--data", "hello"]).run().await;
    let before = gateway.memory();
    let mut client = client::http2(&gateway, WEB).await;
    let request = http::Request::post(format!("https://{WEB}/delay/1m")).body(()).unwrap();
    let (_response, mut body) = client.send_request(request, false).unwrap();
    let mut sent: u64 = 0;
    let stalled = loop {
        body.reserve_capacity(1 << 20);
        let capacity = tokio::time::timeout(
            Duration::from_secs(2),
            futures::future::poll_fn(|cx| body.poll_capacity(cx)),
        )
        .await;
        let Ok(Some(Ok(capacity))) = capacity else { break capacity.is_err() };
        sent += capacity as u64;
        assert!(sent < LARGE, "{sent} octets were taken for a backend that reads none");
        body.send_data(vec![0; capacity].into(), false).unwrap();
    };
    assert!(stalled, "the stream ended after {sent} octets instead of standing still");
    assert!(
        gateway.memory() < before + 16 * 1024,
        "{before} KiB before, {} KiB after",
        gateway.memory()
    );
}

#[tokio::test]
async fn a_client_can_half_close_after_its_request() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client.send(format!("GET /delay/200ms HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    client.shutdown().await;
    assert_eq!(client.response().await.unwrap().text(), "Hello from pod-1\n");
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_their_order() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    let requests: String = (0..20)
        .map(|number| format!("GET /echo?{number} HTTP/1.1\r\nHost: {WEB}\r\n\r\n"))
        .collect();
    client.send(requests).await;
    for number in 0..20 {
        let response = client.response().await.unwrap();
        assert!(response.text().contains(&format!("\"path\":\"/echo?{number}\"")), "{response:?}");
    }
}

#[tokio::test]
async fn a_client_that_sends_byte_by_byte_is_served() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    for octet in
        format!("POST /echo HTTP/1.1\r\nHost: {WEB}\r\nContent-Length: 3\r\n\r\nabc").into_bytes()
    {
        client.send([octet]).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(client.response().await.unwrap().text().contains("\"octets\":3"));
}

#[tokio::test]
async fn many_streams_of_one_connection_are_served_together() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let client = client::http2(&gateway, WEB).await;
    let answers = futures::stream::iter(0..100)
        .map(|number| {
            let mut client = client.clone();
            async move {
                let request = http::Request::get(format!("https://{WEB}/delay/100ms?{number}"))
                    .body(())
                    .unwrap();
                let (response, _) = client.send_request(request, true).unwrap();
                response.await.unwrap().status().as_u16()
            }
        })
        .buffer_unordered(100)
        .collect::<Vec<_>>();
    let answers = soon("100 streams of 100 ms end together", answers).await;
    assert_eq!(answers, vec![200; 100]);
}

#[tokio::test]
async fn plain_http_is_redirected_for_every_hostname() {
    let pod = echo("pod-1").await;
    let settings = serde_json::json!({ "listeners": { "http": { "mode": "redirect", "redirectPort": 8443 } } });
    let gateway = Gateway::of(World::web(&pod)).settings(settings).start().await;
    for host in [WEB, "nothing--staging.apps.test", "elsewhere.test"] {
        let answer = gateway.curl_plain(host, "/path?query").run().await;
        assert_eq!(answer.status, 308, "{answer:?}");
        assert_eq!(
            answer.header("location"),
            Some(&*format!("https://{host}:8443/path?query")),
            "{answer:?}"
        );
    }
    assert_eq!(pod.counts().borrow().started, 0);
}

#[tokio::test]
async fn the_access_log_and_the_metrics_record_a_request() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    gateway.curl(WEB, "/status/418").header("User-Agent: the-test").run().await;
    gateway.has_written("the-test").await;
    let log = gateway.log();
    let line = log.lines().find(|line| line.contains("the-test")).unwrap();
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    assert_eq!(line["status"], 418, "{line}");
    eventually("the request is counted", || async {
        gateway.admin_page("/metrics").await.text().contains("code=\"4xx\"")
    })
    .await;
}

#[tokio::test]
async fn a_connection_is_reused_after_a_small_body_that_was_not_read() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let mut client = Raw::connect(gateway.http()).await;
    client
        .send(
            "POST / HTTP/1.1\r\nHost: nothing--nowhere.apps.test\r\nContent-Length: 5\r\n\r\nhello",
        )
        .await;
    assert_eq!(client.response().await.unwrap().status, 404);
    // The response arrives before the end of the body.
    client
        .send("POST / HTTP/1.1\r\nHost: nothing--nowhere.apps.test\r\nContent-Length: 5\r\n\r\n")
        .await;
    assert_eq!(client.response().await.unwrap().status, 404);
    client.send(format!("helloGET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    assert_eq!(
        client.response().await.unwrap().text(),
        "pod-1\n",
        "the connection is still in step"
    );
    // The length of a chunked body is unknown: such a connection is closed.
    let chunked = "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    client.send(format!("POST / HTTP/1.1\r\nHost: nothing--nowhere.apps.test\r\n{chunked}")).await;
    let last = client.response().await.unwrap();
    assert_eq!((last.status, last.header("connection")), (404, Some("close")));
    assert!(client.rest().await.is_empty());
}
