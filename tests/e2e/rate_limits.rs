//! Rate limits: shared by all workers, for admitted requests alone.

use portcullis_echo::grpc::{Client, EchoRequest};
use serde_json::json;
use tonic::{Code, Request};

use crate::harness::{Gateway, Service, WEB, World, client, echo, eventually, without_ids};

/// The statuses of requests, each over a connection of its own.
async fn statuses(gateway: &Gateway, host: &str, count: usize) -> Vec<u16> {
    let requests = (0..count).map(|_| gateway.curl(host, "/whoami").run());
    futures::future::join_all(requests).await.into_iter().map(|answer| answer.status).collect()
}

fn allowed(statuses: &[u16]) -> usize {
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    statuses.iter().filter(|status| **status == 200).count()
}

#[tokio::test]
async fn all_workers_together_allow_what_the_limit_says() {
    let pod = echo("pod-1").await;
    let limited = Service::new("web").annotation("rate-limit", "5/h per source").pod(&pod);
    let gateway = Gateway::of(World::empty().with(limited).with(Service::new("other").pod(&pod)))
        .settings(json!({ "workers": 2 }))
        .start()
        .await;
    assert_eq!(allowed(&statuses(&gateway, WEB, 20).await), 5);
    assert_eq!(allowed(&statuses(&gateway, "other--staging.apps.test", 10).await), 10);

    let answer = gateway.curl(WEB, "/whoami").run().await;
    assert_eq!(answer.status, 429);
    let seconds: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=720).contains(&seconds), "one request every 720 s: {seconds}");
    assert_eq!(answer.header("ratelimit-policy"), Some("\"source\";q=5;w=3600"));
    assert_eq!(answer.header("ratelimit"), Some(&*format!("\"source\";r=0;t={seconds}")));
    let series = "portcullis_rate_limited_total{environment=\"staging\",service=\"web\"}";
    assert!(gateway.metric(series).await >= 16.0);
}

#[tokio::test]
async fn a_namespace_limits_all_its_services_and_a_change_of_something_else_forgets_nothing() {
    let pod = echo("pod-1").await;
    let world = |more: &str| {
        World::web(&pod)
            .with(Service::new("other").pod(&pod))
            .with(Service::new(more).pod(&pod))
            .annotation("staging", "rate-limit", "6/h per namespace")
    };
    let gateway = Gateway::start(world("third")).await;
    assert_eq!(allowed(&statuses(&gateway, WEB, 4).await), 4);
    assert_eq!(allowed(&statuses(&gateway, "other--staging.apps.test", 4).await), 2);
    gateway.apply(&world("fourth"));
    eventually("the snapshot is another one", || async {
        statuses(&gateway, "third--staging.apps.test", 1).await == [404]
    })
    .await;
    assert_eq!(allowed(&statuses(&gateway, WEB, 4).await), 0);
}

#[tokio::test]
async fn a_hidden_host_never_answers_that_there_are_too_many_requests() {
    let pod = echo("pod-1").await;
    let hidden =
        Service::new("web").environment("closed").annotation("rate-limit", "1/h per service");
    let gateway = Gateway::start(World::web(&pod).with(hidden.pod(&pod))).await;
    let absent = gateway.curl("web--absent.apps.test", "/whoami").run().await;
    for _ in 0..5 {
        let answer = gateway.curl("web--closed.apps.test", "/whoami").run().await;
        assert_eq!(answer.status, 404);
        assert_eq!(without_ids(&answer.text()), without_ids(&absent.text()));
        let names = |headers: &[(String, String)]| -> Vec<String> {
            headers.iter().map(|(name, _)| name.clone()).collect()
        };
        assert_eq!(names(&answer.headers), names(&absent.headers));
    }
}

#[tokio::test]
async fn a_call_over_the_limit_is_resource_exhausted_with_push_back() {
    let pod = echo("pod-1").await;
    let calls = Service::new("calls").port_name("grpc").annotation("rate-limit", "1/h").pod(&pod);
    let gateway = Gateway::start(World::empty().with(calls)).await;
    let mut client = Client::new(client::grpc(&gateway, "calls--staging.apps.test").await);
    client.unary(Request::new(EchoRequest::new("first"))).await.unwrap();
    let status = client.unary(Request::new(EchoRequest::new("second"))).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted, "{status:?}");
    let pushback = status.metadata().get("grpc-retry-pushback-ms").unwrap().to_str().unwrap();
    assert!(pushback.parse::<u64>().unwrap() > 3_000_000, "{pushback}");
}

/// The Service of the gateway, with replicas at these addresses.
fn replicas(addresses: &[&str]) -> String {
    let endpoints: Vec<_> =
        addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "portcullis-1",
            "namespace": "portcullis",
            "labels": { "kubernetes.io/service-name": "portcullis" },
        },
        "addressType": "IPv4",
        "ports": [{ "name": "https", "port": 8443 }],
        "endpoints": endpoints,
    })
    .to_string()
}

#[tokio::test]
async fn replicas_divide_a_limit_as_they_come_and_go() {
    let pod = echo("pod-1").await;
    let limited = |name, limit| Service::new(name).annotation("rate-limit", limit).pod(&pod);
    let world = |addresses: &[&str]| {
        World::empty()
            .with(limited("web", "6/h per service divided"))
            .with(limited("whole", "6/h per service"))
            .with(limited("later", "6/h per service divided"))
            .with_file("gateway.json", &replicas(addresses))
    };
    let gateway = Gateway::of(world(&["10.9.0.1", "10.9.0.2"]))
        .variable("POD_IPS", "10.9.0.1")
        .variable("POD_NAMESPACE", "portcullis")
        .start()
        .await;
    assert_eq!(gateway.metric("portcullis_replicas").await, 2.0);
    assert_eq!(allowed(&statuses(&gateway, WEB, 8).await), 3);
    assert_eq!(allowed(&statuses(&gateway, "whole--staging.apps.test", 8).await), 6);
    gateway.apply(&world(&["10.9.0.1"]));
    eventually("the other replica is gone", || async {
        gateway.metric("portcullis_replicas").await == 1.0
    })
    .await;
    assert_eq!(allowed(&statuses(&gateway, "later--staging.apps.test", 8).await), 6);
}
