//! The traffic feed: what it counts of each variant, and who may read it.

use portcullis_echo::grpc::{Client, EchoRequest};
use portcullis_proxy::telemetry::traffic::feed::{BucketRange, Feed, Service as Counted, Tally};
use serde_json::json;

use crate::harness::{
    Curl, Echo, Gateway, Recording, Service, Step, WEB, World, client, echo, eventually,
};

const PATH: &str = "/v1/traffic";

async fn feed(gateway: &Gateway) -> Feed {
    let answer = gateway.admin_page(PATH).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let read: Result<portcullis_release::feed::Feed, _> = serde_json::from_slice(&answer.body);
    read.expect("the part that rollouts read");
    serde_json::from_slice(&answer.body).expect("the documented format")
}

/// The only service that is listed.
async fn counted(gateway: &Gateway) -> Counted {
    let mut services = feed(gateway).await.services;
    assert_eq!(services.len(), 1, "{services:?}");
    services.remove(0)
}

/// The sum over all windows of a variant: what was dealt, and what was sticky.
fn windows(service: &Counted, variant: &str) -> (Tally, Tally) {
    let (mut dealt, mut sticky) = (Tally::default(), Tally::default());
    let of_variant = service.windows.iter().flat_map(|window| &window.variants);
    for counted in of_variant.filter(|counted| counted.name == variant) {
        dealt.add(&counted.dealt);
        sticky.add(&counted.sticky);
    }
    (dealt, sticky)
}

fn canary(pod: &Echo, weight: &str) -> Service {
    Service::new("web-canary")
        .annotation("canary-of", "web")
        .annotation("canary-weight", weight)
        .annotation("canary-header", "X-Canary")
        .pod(pod)
}

fn by_tenant(pod: &Echo) -> World {
    World::empty().with(Service::new("web").annotation("affinity", "header:X-Tenant").pod(pod))
}

async fn call(gateway: &Gateway, path: &str, header: &str) -> u16 {
    gateway.curl(WEB, path).header(header).run().await.status
}

#[tokio::test]
async fn a_split_is_listed_before_its_first_request_and_after_each_change() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let gateway = Gateway::start(World::web(&stable).with(canary(&other, "5"))).await;
    let before = counted(&gateway).await;
    let names = (&*before.environment, &*before.namespace, &*before.service);
    assert_eq!(names, ("staging", "staging", "web"));
    let weights: Vec<_> =
        before.variants.iter().map(|one| (&*one.name, &*one.label, one.weight)).collect();
    assert_eq!(weights, [("web", "stable", 95.0), ("web-canary", "web-canary", 5.0)]);
    let range = BucketRange { first: 0, last: 499, variant: "web-canary".to_owned() };
    assert_eq!(before.ranges, [range]);
    assert_eq!((before.counted_since, before.windows.len()), (None, 0));

    assert_eq!(call(&gateway, "/", "X-Canary: always").await, 200);
    gateway.apply(&World::web(&stable).with(canary(&other, "50")));
    eventually("the other weight is applied", || async {
        counted(&gateway).await.variants[1].weight == 50.0
    })
    .await;
    let after = counted(&gateway).await;
    assert!(after.generation.is_some() && after.generation != before.generation);
    assert_eq!(after.variants[1].left_out.forced, 1, "counts are cumulative");

    let split = Service::new("web")
        .annotation("split", "web-canary=0-9999")
        .annotation("split-generation", "12")
        .pod(&stable);
    gateway.apply(&World::empty().with(split).with(canary(&other, "50")));
    eventually("the writer's counter is reported", || async {
        counted(&gateway).await.generation.as_deref() == Some("12")
    })
    .await;
    let info =
        "portcullis_split_info{environment=\"staging\",namespace=\"staging\",service=\"web\",";
    assert_eq!(gateway.metric(&format!("{info}generation=\"12\"}}")).await, 1.0);
    assert_eq!(gateway.metric(info).await, 1.0, "no other generation");
}

#[tokio::test]
async fn requests_count_for_their_variant_unless_they_are_forced() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let gateway = Gateway::start(World::web(&stable).with(canary(&other, "25"))).await;
    for number in 0..16 {
        let path = if number % 2 == 0 { "/status/500" } else { "/status/404" };
        assert!(call(&gateway, path, "X-Canary: maybe").await >= 400);
    }
    for _ in 0..3 {
        assert_eq!(call(&gateway, "/status/500", "X-Canary: always").await, 500);
    }
    let service = counted(&gateway).await;
    let [web, canary] = &service.variants[..] else { panic!("{service:?}") };
    assert_eq!((canary.left_out.forced, web.left_out.forced), (3, 0));
    assert_eq!((web.requests + canary.requests, web.errors + canary.errors), (16, 8));
    assert!((3..=5).contains(&canary.requests), "a quarter: {canary:?}");
    for variant in [web, canary] {
        let responses = &variant.responses;
        assert_eq!(responses.values().sum::<u64>(), variant.requests);
        assert_eq!(responses.get("5xx").copied().unwrap_or_default(), variant.errors);
        assert_eq!(variant.latency.values().sum::<u64>(), variant.requests);
        let (dealt, sticky) = windows(&service, &variant.name);
        assert_eq!((dealt.requests, dealt.errors), (variant.requests, variant.errors));
        assert_eq!(dealt.latency, variant.latency);
        assert_eq!(sticky, Tally::default(), "these belong to nobody");
        assert_eq!(variant.in_flight, 0);
    }
    let generation = service.generation.as_deref().expect("it has a split");
    assert!(service.windows.iter().all(|window| window.generation == generation));
    assert!(service.windows.iter().all(|window| window.start % 10 == 0));
    let without = gateway.admin_page(&format!("{PATH}?namespace=staging&windows=false")).await;
    let without: Feed = serde_json::from_slice(&without.body).expect("the documented format");
    assert!(without.services[0].windows.is_empty() && without.services[0].variants[0].requests > 0);
    let none = gateway.admin_page(&format!("{PATH}?service=other")).await;
    assert_eq!(none.json()["services"], json!([]));
    let last = service.windows.last().expect("a window").start;
    for (from, is_some) in [(last, true), (last + 3_600, false)] {
        let later = gateway.admin_page(&format!("{PATH}?from={from}")).await;
        let later: Feed = serde_json::from_slice(&later.body).expect("the documented format");
        let windows = &later.services[0].windows;
        assert_eq!(!windows.is_empty(), is_some, "{windows:?}");
        assert!(windows.iter().all(|window| window.start >= from), "{windows:?}");
    }
    for invalid in ["", "-10", "1.5", "now", "18446744073709551616"] {
        let answer = gateway.admin_page(&format!("{PATH}?from={invalid}")).await;
        assert_eq!(answer.status, 400, "{invalid}: {}", answer.text());
        assert!(answer.text().contains("`from` must be a time"), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_noisy_client_is_one_vote() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let gateway = Gateway::start(by_tenant(&stable).with(canary(&other, "50"))).await;
    for _ in 0..5 {
        assert_eq!(call(&gateway, "/status/500", "X-Tenant: noisy").await, 500);
    }
    for tenant in ["one", "two", "three"] {
        assert_eq!(call(&gateway, "/", &format!("X-Tenant: {tenant}")).await, 200);
    }
    let service = counted(&gateway).await;
    let mut all = Tally::default();
    for (position, variant) in service.variants.iter().enumerate() {
        let (dealt, sticky) = windows(&service, &variant.name);
        assert_eq!((dealt, sticky.requests), (Tally::default(), variant.requests));
        // The canary has the lower half.
        assert!(sticky.seen.iter().all(|bucket| (bucket.number() < 5_000) == (position == 1)));
        all.add(&sticky);
    }
    assert_eq!((all.requests, all.errors), (8, 5));
    assert_eq!((all.seen.len(), all.erred.len()), (4, 1));
    assert!(all.erred.iter().all(|bucket| all.seen.has(bucket)));
}

#[tokio::test]
async fn a_first_attempt_counts_and_not_its_retry() {
    let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let fine = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    let pod = Recording::scripts(vec![
        vec![Step::head(), Step::write(busy)],
        vec![Step::head(), Step::write(fine)],
    ]);
    let pod = pod.await.unwrap();
    let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let world = World::empty()
        .with(Service::new("web").annotation("retries", "1").pod(&pod))
        .with(Service::new("gone").pod(&gone))
        .with(Service::new("empty"));
    let gateway = Gateway::start(world).await;
    assert_eq!(call(&gateway, "/", "X: y").await, 200, "the retry");
    for host in ["gone--staging.apps.test", "empty--staging.apps.test"] {
        assert!(gateway.curl(host, "/").run().await.status >= 502);
    }
    let services = feed(&gateway).await.services;
    let names: Vec<&str> = services.iter().map(|service| &*service.service).collect();
    assert_eq!(names, ["empty", "gone", "web"]);
    for service in &services {
        let [variant] = &service.variants[..] else { panic!("{service:?}") };
        assert_eq!((variant.requests, variant.errors, variant.weight), (1, 1, 100.0));
        assert!(service.generation.is_none() && service.windows.is_empty());
    }
    let [empty, gone, web] = &services[..] else { panic!("{services:?}") };
    assert_eq!((empty.variants[0].failed, gone.variants[0].failed), (1, 1));
    assert_eq!(gone.variants[0].ejections, 1);
    assert_eq!((web.variants[0].responses["5xx"], web.variants[0].retries), (1, 1));
    assert!(!web.variants[0].responses.contains_key("2xx"));
}

#[tokio::test]
async fn a_missed_variant_is_the_canarys_failure_and_no_evidence_of_the_stable_one() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let dead = Service::new("web-canary")
        .annotation("canary-of", "web")
        .annotation("canary-weight", "99.99")
        .unready_pod(&other);
    let gateway = Gateway::start(by_tenant(&stable).with(dead)).await;
    assert_eq!(call(&gateway, "/", "X-Tenant: any").await, 200);
    let service = counted(&gateway).await;
    let [web, canary] = &service.variants[..] else { panic!("{service:?}") };
    assert_eq!((canary.requests, canary.errors, canary.missed), (1, 1, 1));
    assert_eq!((web.requests, web.in_flight, canary.in_flight), (0, 0, 0));
    let (_, sticky) = windows(&service, "web-canary");
    assert_eq!((sticky.requests, sticky.errors, sticky.erred.len()), (1, 1, 1));
}

#[tokio::test]
async fn a_client_that_left_is_counted_apart_by_its_time() {
    let stable = echo("stable").await;
    let other = echo("canary").await;
    let gateway = Gateway::start(World::web(&stable).with(canary(&other, "50"))).await;
    let mut client = client::http2(&gateway, WEB).await;
    let request = http::Request::get(format!("https://{WEB}/delay/1m")).body(()).unwrap();
    let (_response, mut stream) = client.send_request(request, true).unwrap();
    let in_flight = async || -> u64 {
        counted(&gateway).await.variants.iter().map(|variant| variant.in_flight).sum()
    };
    eventually("the request is in flight", || async { in_flight().await == 1 }).await;
    stream.send_reset(h2::Reason::CANCEL);
    eventually("it has ended", || async { in_flight().await == 0 }).await;
    let service = counted(&gateway).await;
    let left = |variant: &str| -> u64 {
        let (dealt, _) = windows(&service, variant);
        dealt.clients_left.values().sum()
    };
    assert_eq!(left("web") + left("web-canary"), 1);
    for variant in &service.variants {
        assert_eq!((variant.requests, variant.errors), (0, 0), "it is no evidence");
        assert_eq!(variant.left_out.clients_left.values().sum::<u64>(), left(&variant.name));
    }
}

#[tokio::test]
async fn grpc_calls_count_by_their_status() {
    let pod = echo("pod-1").await;
    let world = World::empty().with(Service::new("calls").port_name("grpc").pod(&pod));
    let gateway = Gateway::start(world).await;
    let channel = client::grpc(&gateway, "calls--staging.apps.test").await;
    let hello = tonic::Request::new(EchoRequest::new("hello"));
    Client::new(channel).unary(hello).await.unwrap();
    let unknown = gateway.curl("calls--staging.apps.test", "/unknown.Service/Method");
    let unknown = unknown.args(["--http2", "--request", "POST"]).header("te: trailers");
    unknown.header("content-type: application/grpc").run().await;
    let service = counted(&gateway).await;
    let counted = &service.variants[0];
    assert_eq!((counted.requests, counted.errors), (2, 1));
    assert_eq!((counted.grpc["0"], counted.grpc["12"]), (1, 1));
}

#[tokio::test]
async fn replicas_add_up_and_a_restart_is_seen() {
    let (stable, other) = (echo("stable").await, echo("canary").await);
    let world = || by_tenant(&stable).with(canary(&other, "50"));
    let start = async || Gateway::of(world()).settings(json!({ "workers": 2 })).start().await;
    let gateways = [start().await, start().await];
    for number in 0..20 {
        let path = if number % 4 == 0 { "/status/503" } else { "/" };
        // The same tenants on both.
        call(&gateways[number % 2], path, &format!("X-Tenant: {}", number / 2 % 5)).await;
    }
    let (first, second) = (feed(&gateways[0]).await, feed(&gateways[1]).await);
    assert_ne!(first.start, second.start);
    assert!(first.started_at > 1_700_000_000 && first.now >= first.started_at);
    assert_eq!(first.services[0].generation, second.services[0].generation);
    let mut sum = first.services[0].clone();
    sum.add(&second.services[0]);
    let total = |count: fn(&Counted) -> u64, of: &Counted| count(of);
    let requests = |service: &Counted| service.variants.iter().map(|one| one.requests).sum();
    assert_eq!(total(requests, &first.services[0]), 10);
    assert_eq!(total(requests, &sum), 20);
    let mut all = Tally::default();
    for variant in ["web", "web-canary"] {
        all.add(&windows(&sum, variant).1);
    }
    assert_eq!((all.requests, all.errors, all.seen.len()), (20, 5, 5));
    let restarted = start().await;
    let again = feed(&restarted).await;
    assert!(again.start != first.start && again.start != second.start);
    assert_eq!(total(requests, &again.services[0]), 0);
}

#[tokio::test]
async fn only_readers_of_metrics_can_read_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let token = folder.path().join("token");
    std::fs::write(&token, "the-token\n").expect("written");
    let pod = echo("pod-1").await;
    let gateway = Gateway::of(World::web(&pod))
        .settings(json!({ "telemetry": { "require": "tokenFile", "tokenFile": token } }))
        .start()
        .await;
    assert_eq!(call(&gateway, "/", "X: y").await, 200);
    let read = async |path: &str, field: &str| {
        Curl::new(&format!("http://{}{path}", gateway.telemetry())).header(field).run().await
    };
    let allowed = read(PATH, "Authorization: Bearer the-token").await;
    assert_eq!((allowed.status, allowed.header("content-type")), (200, Some("application/json")));
    assert_eq!(allowed.json()["services"][0]["service"], "web");
    for field in ["X: y", "Authorization: Bearer other", "Authorization: Basic the-token"] {
        let (denied, metrics) = (read(PATH, field).await, read("/metrics", field).await);
        assert_eq!(denied.status, 401, "{field}");
        assert_eq!(denied.text(), metrics.text());
        let headers = |answer: &crate::harness::Answer| {
            let mut headers = answer.headers.clone();
            headers.retain(|(name, _)| name != "date");
            headers
        };
        assert_eq!(headers(&denied), headers(&metrics), "{field}");
    }
    let elsewhere = Curl::new(&format!("http://{}{PATH}", gateway.probes())).run().await;
    assert_eq!(elsewhere.status, 404);
}
