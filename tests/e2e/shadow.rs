//! Shadows: what they get of a service's requests, and that the requests notice nothing.

use std::net::SocketAddr;

use portcullis_echo::grpc::{Client, EchoRequest};
use serde_json::{Value, json};
use tonic::{Code, Request};

use crate::harness::credentials::{client_key, client_key_secret};
use crate::harness::{
    Answer, Echo, Gateway, Raw, Recording, Service, Step, WEB, World, client, echo, eventually,
    is_share, soon, without_ids,
};

const LABELS: &str = "environment=\"staging\",service=\"web\",variant=\"web-next\"";

fn next(percent: &str) -> Service {
    Service::new("web-next").annotation("canary-of", "web").annotation("mirror-percent", percent)
}

/// A port where nothing listens.
fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// What a shadow received, over all connections.
async fn received(shadow: &Recording, text: &str) -> String {
    let all =
        |connections: &Vec<Vec<u8>>| String::from_utf8_lossy(&connections.concat()).into_owned();
    let mut watch = shadow.watch();
    let connections = soon(text, watch.wait_for(|connections| all(connections).contains(text)));
    all(&connections.await.expect("the shadow lives"))
}

async fn compared(gateway: &Gateway, shadow: &str, original: &str) -> f64 {
    let codes = format!("code=\"{shadow}\",original=\"{original}\"");
    gateway.metric(&format!("portcullis_shadow_requests_total{{{LABELS},{codes}}}")).await
}

async fn dropped(gateway: &Gateway, reason: &str) -> f64 {
    let series = format!("portcullis_shadow_dropped_total{{{LABELS},reason=\"{reason}\"}}");
    gateway.metric(&series).await
}

/// Waits until no copy is in flight, and no memory is held.
async fn is_idle(gateway: &Gateway) {
    eventually("all copies have ended", || async {
        gateway.metric("portcullis_shadow_requests_in_flight").await == 0.0
            && gateway.metric("portcullis_shadow_memory_bytes").await == 0.0
    })
    .await;
}

/// What a client can observe of a response.
fn observed(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| name != "date");
    (answer.status, headers, without_ids(&answer.text()))
}

#[tokio::test]
async fn a_copy_is_marked_and_carries_no_credential() {
    let (original, shadow) = (Recording::start().await.unwrap(), Recording::start().await.unwrap());
    let key = client_key();
    let secret = client_key_secret("shop", "shop", &key);
    let web = Service::new("web")
        .environment("machines")
        .annotation("require", "app")
        .annotation("pass-credentials", "true");
    let world = World::empty()
        .with(web.pod(&original))
        .with(next("100").environment("machines").pod(&shadow))
        .annotation("machines", "allow-apps", "shop")
        .annotation("machines", "pass-credentials", "true")
        .with_file("key.json", &secret.to_string());
    let settings = json!({ "access": { "credentialsNamespace": "portcullis" } });
    let gateway = Gateway::of(world).settings(settings).start().await;
    let call = gateway
        .curl("web--machines.apps.test", "/cart?a=b")
        .header(&format!("X-Api-Key: {}", key.expose()))
        .header("Authorization: Bearer of-the-service")
        .header("Cookie: session=secret")
        .header("X-Auth-Token: secret")
        .header("X-Portcullis-Shadow: forged")
        .header("X-Custom: kept");
    assert_eq!(call.run().await.status, 200);

    let copy = received(&shadow, "\r\n\r\n").await.to_ascii_lowercase();
    let original = received(&original, "\r\n\r\n").await.to_ascii_lowercase();
    for line in ["authorization: bearer of-the-service", "cookie: session=secret"] {
        assert!(original.contains(line), "{line} in {original}");
    }
    assert!(original.contains("x-portcullis-jwt-assertion: "), "{original}");
    assert!(!original.contains("x-portcullis-shadow"), "{original}");
    assert!(copy.starts_with("get /cart?a=b http/1.1\r\n"), "{copy}");
    for line in [
        "\r\nhost: web--machines.apps.test:",
        "x-portcullis-shadow: 1\r\n",
        "x-custom: kept\r\n",
        "x-auth-request-app: shop\r\n",
        "x-forwarded-for: 127.0.0.1\r\n",
        "x-request-id: ",
    ] {
        assert_eq!(copy.matches(line).count(), 1, "{line} in {copy}");
    }
    for name in ["authorization", "cookie", "x-api-key", "pck_", "secret", "assertion"] {
        assert!(!copy.contains(name), "{name} in {copy}");
    }
}

#[tokio::test]
async fn a_shadow_that_never_responds_delays_nothing_and_gets_a_bounded_number() {
    let pod = echo("stable").await;
    let silent = Recording::script(vec![Step::End]).await.unwrap();
    let world = World::web(&pod).with(next("100").pod(&silent));
    let settings = json!({ "limits": { "shadows": 8 }, "timeouts": { "shadow": "5s" } });
    let gateway = Gateway::of(world).settings(settings).start().await;
    // A quarter of the limit is one service's.
    for _ in 0..20 {
        let answer = gateway.curl(WEB, "/whoami").run().await;
        assert_eq!((answer.status, answer.text().trim()), (200, "stable"));
    }
    let all = dropped(&gateway, "too_many").await + compared(&gateway, "failed", "2xx").await;
    let in_flight = gateway.metric("portcullis_shadow_requests_in_flight").await;
    assert!(in_flight <= 2.0 && all + in_flight >= 20.0, "{in_flight} in flight, {all} ended");
    is_idle(&gateway).await;
    let failed = compared(&gateway, "failed", "2xx").await;
    assert_eq!(dropped(&gateway, "too_many").await + failed, 20.0);
    assert!(failed >= 2.0, "{failed} timed out");
}

#[tokio::test]
async fn a_dead_shadow_changes_nothing() {
    let pod = echo("stable").await;
    let without = Gateway::start(World::web(&pod)).await;
    let gateway = Gateway::start(World::web(&pod).with(next("100").pod(&nowhere()))).await;
    for (path, arguments) in
        [("/whoami", ["-X", "GET"]), ("/status/404", ["-X", "GET"]), ("/", ["-X", "DELETE"])]
    {
        let (expected, answer) = tokio::join!(
            without.curl(WEB, path).args(arguments).run(),
            gateway.curl(WEB, path).args(arguments).run()
        );
        assert_eq!(observed(&answer), observed(&expected), "{path}");
    }
    is_idle(&gateway).await;
    let failed =
        (compared(&gateway, "failed", "2xx").await, compared(&gateway, "failed", "4xx").await);
    assert_eq!(failed, (1.0, 1.0), "the DELETE was not copied");
    let page = gateway.admin_page("/metrics").await.text();
    let of_services =
        |line: &&str| line.contains("web-next") && !line.starts_with("portcullis_shadow_");
    assert_eq!(page.lines().find(of_services), None, "it counts nowhere else");
    assert_eq!(gateway.metric("portcullis_requests_total{environment=\"staging\"").await, 3.0);
    assert!(!gateway.log().contains("web-next"), "{}", gateway.log());
    assert_eq!(gateway.metric("portcullis_upstream_ejections_total").await, 0.0);

    // Without a ready pod there is nobody to send to.
    gateway.apply(&World::web(&pod).with(next("100").unready_pod(&nowhere())));
    eventually("the pod is gone", || async {
        assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
        dropped(&gateway, "no_endpoint").await > 0.0
    })
    .await;
}

#[tokio::test]
async fn failed_copies_eject_no_pod_of_a_canary() {
    const REQUESTS: usize = 10;
    let pod = echo("stable").await;
    let error = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
    let failing = Recording::script(vec![Step::head(), Step::write(error), Step::Restart]);
    let failing = failing.await.unwrap();
    let canary = next("100").annotation("canary-header", "X-Canary").pod(&failing);
    let gateway = Gateway::start(World::web(&pod).with(canary)).await;
    for _ in 0..REQUESTS {
        assert_eq!(gateway.curl(WEB, "/whoami").run().await.status, 200);
    }
    is_idle(&gateway).await;
    assert_eq!(compared(&gateway, "5xx", "2xx").await, REQUESTS as f64);
    assert_eq!(gateway.metric("portcullis_upstream_ejections_total").await, 0.0);
}

#[tokio::test]
async fn only_safe_methods_are_copied_and_websockets_never() {
    let pod = echo("stable").await;
    let shadow = Recording::start().await.unwrap();
    let world = |service: Service| World::web(&pod).with(service.pod(&shadow));
    let gateway = Gateway::start(world(next("100"))).await;
    let handshake = format!(
        "GET /greet HTTP/1.1\r\nHost: {WEB}\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let shake = async || {
        let mut socket = Raw::connect(gateway.http()).await;
        socket.send(&handshake).await;
        assert_eq!(socket.response().await.unwrap().status, 101);
    };
    for method in ["POST", "PUT", "PATCH", "DELETE"] {
        let answer = gateway.curl(WEB, "/echo").args(["-X", method, "-d", "body"]).run().await;
        assert_eq!((answer.status, &answer.json()["octets"]), (200, &json!(4)));
    }
    shake().await;
    for (method, path) in [("OPTIONS", "/echo/1"), ("HEAD", "/echo/2"), ("GET", "/echo/3")] {
        let head = if method == "HEAD" { "--head" } else { "--verbose" };
        let answer = gateway.curl(WEB, path).args(["-X", method]).arg(head).run().await;
        assert_eq!(answer.status, 200);
        received(&shadow, &format!("{method} {path} HTTP/1.1\r\n")).await;
    }
    let all = received(&shadow, "GET /echo/3").await;
    assert_eq!(all.matches("HTTP/1.1\r\n").count(), 3, "{all}");

    gateway.apply(&world(next("100").annotation("mirror-unsafe-methods", "true")));
    eventually("a POST is copied", || async {
        let answer = gateway.curl(WEB, "/echo/post").args(["-d", "of the client"]).run().await;
        assert_eq!(answer.json()["octets"], 13);
        String::from_utf8_lossy(&shadow.received().concat()).contains("POST /echo/post")
    })
    .await;
    let all = received(&shadow, "of the client").await;
    assert!(all.contains("content-length: 13\r\n"), "{all}");
    shake().await;
    gateway.curl(WEB, "/echo/last").run().await;
    assert!(!received(&shadow, "GET /echo/last").await.contains("/greet"));
}

#[tokio::test]
async fn bodies_are_copied_up_to_64_kib() {
    let pod = echo("stable").await;
    let shadow = echo("shadow").await;
    let service = next("100").annotation("mirror-unsafe-methods", "true").pod(&shadow);
    let gateway = Gateway::start(World::web(&pod).with(service)).await;
    let send = async |size: usize, chunked: bool| {
        let file = gateway.folder().join("body");
        std::fs::write(&file, vec![b'x'; size]).unwrap();
        let data = format!("@{}", file.display());
        let call = gateway.curl(WEB, "/echo").args(["--http1.1", "--data-binary", &data]);
        let header = if chunked { "Transfer-Encoding: chunked" } else { "X-Chunked: false" };
        let answer = call.header(header).run().await;
        assert_eq!(answer.json()["octets"], size, "{answer:?}");
    };
    for (size, chunked) in [(65_536, false), (65_536, true), (0, true)] {
        send(size, chunked).await;
    }
    eventually("all are copied", || async { compared(&gateway, "2xx", "2xx").await == 3.0 }).await;
    for (count, (size, chunked)) in [(1, (65_537, false)), (2, (65_537, true))] {
        send(size, chunked).await;
        assert_eq!(dropped(&gateway, "body_too_large").await, f64::from(count));
    }
    assert_eq!(shadow.counts().borrow().started, 3);
    is_idle(&gateway).await;
}

#[tokio::test]
async fn responses_are_read_up_to_a_limit_and_compared() {
    let (pod, shadow) = (echo("stable").await, echo("shadow").await);
    let world = World::web(&pod).with(next("100").pod(&shadow));
    let settings = json!({ "limits": { "shadowResponseBytes": 100_000 } });
    let gateway = Gateway::of(world).settings(settings).start().await;
    for (number, path) in
        ["/bytes/90000", "/bytes/5000000", "/whoami", "/status/503"].iter().enumerate()
    {
        let answer = gateway.curl(WEB, path).run().await;
        assert_eq!(answer.exit, 0, "{answer:?}");
        eventually("it is copied", || async {
            shadow.counts().borrow().started == number as u64 + 1
        })
        .await;
    }
    is_idle(&gateway).await;
    assert_eq!(compared(&gateway, "2xx", "2xx").await, 3.0);
    assert_eq!(compared(&gateway, "5xx", "5xx").await, 1.0);
    for response in ["shadow", "original"] {
        let series =
            format!("portcullis_shadow_duration_seconds_count{{{LABELS},response=\"{response}\"}}");
        assert_eq!(gateway.metric(&series).await, 4.0, "{response}");
    }
    assert!(shadow.counts().borrow().cancelled >= 1, "the large one is cut off");
}

#[tokio::test]
async fn http2_shadows_get_copies_of_calls_where_they_opted_in() {
    let (pod, shadow) = (echo("stable").await, echo("shadow").await);
    let web = Service::new("web").port_name("grpc").pod(&pod);
    let opted_in = next("100").port_name("grpc").annotation("mirror-unsafe-methods", "true");
    let gateway = Gateway::start(World::empty().with(web).with(opted_in.pod(&shadow))).await;
    let mut caller = Client::new(client::grpc(&gateway, WEB).await);
    let answer = caller.unary(Request::new(EchoRequest::new("hello"))).await.unwrap().into_inner();
    assert_eq!((answer.message.as_str(), answer.pod.as_str()), ("hello", "stable"));
    let failing = EchoRequest { status: Code::Internal as i32, ..EchoRequest::new("hello") };
    assert_eq!(caller.unary(Request::new(failing)).await.unwrap_err().code(), Code::Internal);
    let mut http2 = client::http2(&gateway, WEB).await;
    let request = http::Request::get(format!("https://{WEB}/whoami")).body(()).unwrap();
    let (response, _) = http2.send_request(request, true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    eventually("all are copied", || async {
        compared(&gateway, "2xx", "2xx").await == 2.0
            && compared(&gateway, "grpc_error", "grpc_error").await == 1.0
    })
    .await;
}

/// The number of copies of so many requests.
async fn copies(gateway: &Gateway, shadow: &Echo, count: usize) -> u64 {
    let before = shadow.counts().borrow().started;
    for _ in 0..count {
        assert_eq!(gateway.curl(WEB, "/whoami").run().await.text().trim(), "stable");
    }
    is_idle(gateway).await;
    shadow.counts().borrow().started - before
}

#[tokio::test]
async fn a_share_of_the_requests_is_copied_and_a_shadow_has_no_hostname() {
    let (pod, shadow) = (echo("stable").await, echo("shadow").await);
    let world = |percent| World::web(&pod).with(next(percent).pod(&shadow));
    let gateway = Gateway::start(world("25")).await;
    let count = copies(&gateway, &shadow, 40).await;
    assert!(is_share(count, 25), "{count} of 40");

    let explained = gateway.admin_page(&format!("/explain?url=https://{WEB}/&method=GET")).await;
    let text = explained.text();
    assert!(text.contains("gets a copy of 25 % of such requests"), "{text}");
    let explained = gateway.admin_page(&format!("/explain?url=https://{WEB}/&method=POST")).await;
    assert!(explained.text().contains("gets no copy"), "{}", explained.text());

    let own = gateway.curl("web-next--staging.apps.test", "/whoami").run().await;
    let nothing = gateway.curl("nothing--staging.apps.test", "/whoami").run().await;
    assert_eq!(own.status, 404);
    assert_eq!(observed(&own), observed(&nothing));

    // An invalid share is reported, and the last valid one stays in effect.
    gateway.apply(&world("101"));
    eventually("it is reported", || async {
        let routes: Value = gateway.admin_page("/routes").await.json();
        routes["problems"].to_string().contains("mirror-percent: 101")
    })
    .await;
    let count = copies(&gateway, &shadow, 40).await;
    assert!(is_share(count, 25), "{count} of 40");
}
