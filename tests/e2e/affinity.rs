//! Callers keep a pod, where a Service says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::json;

use crate::harness::credentials::session_key_secret;
use crate::harness::{Answer, Echo, Gateway, Options, Raw, Service, WEB, World, echo, eventually};

const VISITOR: &str = "__Host-portcullis-visitor";

/// The service `web` with these pods, whose callers keep one by `affinity`.
fn world(affinity: &str, pods: &[SocketAddr]) -> World {
    let service = Service::new("web").annotation("affinity", affinity);
    World::empty()
        .with(pods.iter().fold(service, Service::pod))
        .with_file("key.json", &session_key_secret("key", '1').to_string())
}

async fn pods(count: usize) -> Vec<Echo> {
    let names: Vec<String> = (0..count).map(|number| format!("pod-{number}")).collect();
    futures::future::join_all(names.iter().map(|name| echo(name))).await
}

async fn start(world: World) -> Gateway {
    let settings = json!({ "access": { "credentialsNamespace": "portcullis" }, "workers": 2 });
    Gateway::of(world).settings(settings).start().await
}

async fn request(gateway: &Gateway, header: &str) -> Answer {
    let answer = gateway.curl(WEB, "/whoami").header(header).run().await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer
}

/// The pods of 40 tenants, each with a connection of its own.
async fn tenants(gateway: &Gateway) -> BTreeMap<usize, String> {
    let mut pods = BTreeMap::new();
    for tenant in 0..40 {
        let mut connection = Raw::connect(gateway.http()).await;
        let head = format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\nX-Tenant: {tenant}\r\n\r\n");
        connection.send(head).await;
        let response = connection.response().await.expect("a response");
        assert_eq!(response.status, 200);
        pods.insert(tenant, response.text().trim().to_owned());
    }
    pods
}

fn addresses(pods: &[Echo]) -> Vec<SocketAddr> {
    pods.iter().map(Echo::address).collect()
}

#[tokio::test]
async fn tenants_keep_their_pod_on_replicas_and_workers_and_while_pods_come_and_go() {
    let pods = pods(4).await;
    let addresses = addresses(&pods);
    let all = || world("header:X-Tenant", &addresses);
    let (gateway, replica) = (start(all()).await, start(all()).await);
    let before = tenants(&gateway).await;
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 4, "{before:?}");
    assert_eq!(tenants(&gateway).await, before);
    assert_eq!(tenants(&replica).await, before);
    assert_eq!(gateway.metric("portcullis_upstream_affinity_moves_total").await, 0.0);

    // Without one pod, only its tenants move; with a pod in its place, only to that.
    gateway.apply(&world("header:X-Tenant", &addresses[1..]));
    eventually("the pod gets nothing", || async {
        tenants(&gateway).await.values().all(|pod| pod != "pod-0")
    })
    .await;
    let without = tenants(&gateway).await;
    for (tenant, pod) in &before {
        assert!(pod == "pod-0" || without[tenant] == *pod, "{before:?} {without:?}");
    }
    gateway.apply(&all());
    eventually("it gets its tenants again", || async { tenants(&gateway).await == before }).await;
}

#[tokio::test]
async fn tenants_of_a_dead_pod_share_the_others_and_come_back() {
    let alive = pods(3).await;
    let mut addresses = addresses(&alive);
    // Bound and released: nothing listens there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    addresses.push(dead);
    let gateway = start(world("header:X-Tenant", &addresses)).await;
    let before = tenants(&gateway).await;
    assert_eq!(before.values().collect::<BTreeSet<_>>().len(), 3, "{before:?}");
    // Once it is ejected, its requests go elsewhere at once, and always to the same pod.
    assert_eq!(tenants(&gateway).await, before);
    assert!(gateway.metric("portcullis_upstream_affinity_moves_total").await > 0.0);
    let options = Options { address: dead, ..Options::loopback("pod-3") };
    let _pod = Echo::start(options).await.expect("its port is free");
    eventually("the pod gets its tenants", || async {
        let after = tenants(&gateway).await;
        let is_same = |(tenant, pod): (&usize, &String)| *pod == before[tenant];
        let moved = after.iter().filter(|entry| !is_same(*entry));
        assert!(moved.clone().all(|(_, pod)| pod == "pod-3"), "{before:?} {after:?}");
        moved.count() > 0
    })
    .await;
}

#[tokio::test]
async fn a_browser_keeps_its_pod_by_a_cookie_of_its_own() {
    let pods = pods(5).await;
    let world = world("cookie", &addresses(&pods));
    let (gateway, replica) = (start(world.clone()).await, start(world).await);
    let mut seen = BTreeSet::new();
    for _ in 0..12 {
        let first = request(&gateway, "Accept: text/html").await;
        let value = first.header("set-cookie").and_then(|value| value.split(';').next());
        let cookie = format!("Cookie: {}", value.expect("a browser gets a cookie"));
        assert!(cookie.contains(VISITOR), "{cookie}");
        for gateway in [&gateway, &replica, &gateway] {
            let answer = request(gateway, &cookie).await;
            assert_eq!(answer.text(), first.text());
            assert_eq!(answer.header("set-cookie"), None);
        }
        seen.insert(first.text());
    }
    assert!(seen.len() > 1, "{seen:?}");
    let program = request(&gateway, "Accept: */*").await;
    assert_eq!(program.header("set-cookie"), None, "a program keeps no cookie");
}

#[tokio::test]
async fn without_the_annotation_nobody_keeps_a_pod_and_no_cookie_is_set() {
    let pods = pods(3).await;
    let service = pods.iter().fold(Service::new("web"), Service::pod);
    let gateway = start(World::empty().with(service)).await;
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        let answer = request(&gateway, "Accept: text/html").await;
        assert_eq!(answer.header("set-cookie"), None);
        seen.insert(answer.text());
    }
    assert_eq!(seen.len(), 3);
}
