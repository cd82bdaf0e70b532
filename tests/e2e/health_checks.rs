//! Pods that the gateway checks itself.

use crate::harness::{
    Echo, Gateway, Raw, Recording, Service, Step, WEB, World, echo, eventually, soon,
};

/// The service `web` with a port of this name, whose pods are checked every second.
fn checked(port: &str, check: &str) -> Service {
    Service::new("web")
        .port_name(port)
        .annotation("health-check", check)
        .annotation("health-check-interval", "1s")
        .annotation("health-check-failures", "1")
}

fn world(port: &str, check: &str, pods: &[&Echo]) -> World {
    World::empty().with(pods.iter().fold(checked(port, check), |service, pod| service.pod(*pod)))
}

/// How many of 20 requests each of two pods gets.
async fn spread(gateway: &Gateway) -> [usize; 2] {
    let mut counts = [0, 0];
    let mut connection = Raw::connect(gateway.http()).await;
    for _ in 0..20 {
        connection.send(format!("GET /whoami HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
        let response = connection.response().await.expect("a response");
        assert_eq!(response.status, 200);
        counts[usize::from(response.text().trim() == "second")] += 1;
    }
    counts
}

#[tokio::test]
async fn a_pod_that_fails_its_check_gets_nothing_until_it_succeeds_again() {
    tokio::join!(fails_and_returns("http", "/ready"), fails_and_returns("grpc", "grpc:shop.Web"));
}

async fn fails_and_returns(port: &str, check: &str) {
    let (first, second) = (echo("first").await, echo("second").await);
    let gateway = Gateway::of(world(port, check, &[&first, &second]))
        .settings(serde_json::json!({ "workers": 2 }))
        .start()
        .await;
    eventually("both pass", || async {
        gateway.metric("portcullis_upstream_health_checks_total{outcome=\"passed\"}").await >= 2.0
    })
    .await;
    first.set_ready(false);
    eventually("the other one gets all requests", || async {
        spread(&gateway).await == [0, 20] && spread(&gateway).await == [0, 20]
    })
    .await;
    // All fail: all are used.
    second.set_ready(false);
    eventually("both get requests", || async {
        spread(&gateway).await.iter().all(|count| *count > 0)
    })
    .await;
    first.set_ready(true);
    eventually("only the one that passes gets requests", || async {
        spread(&gateway).await == [20, 0]
    })
    .await;
}

#[tokio::test]
async fn a_pod_that_hangs_in_its_check_gets_no_request() {
    // It responds to nothing.
    let hanging = Recording::script(vec![Step::head(), Step::End]).await.expect("a free port");
    let second = echo("second").await;
    let service = checked("http", "/whoami?deep=1").annotation("health-check-timeout", "100ms");
    let gateway = Gateway::start(World::empty().with(service.pod(&hanging).pod(&second))).await;
    let mut connections = hanging.watch();
    let asked =
        connections.wait_for(|received| received.iter().filter(|one| !one.is_empty()).count() == 3);
    soon("three checks", asked).await.expect("it is watched");
    let spread = spread(&gateway).await;
    assert_eq!(spread, [0, 20]);
    let host = hanging.address();
    for request in hanging.received().into_iter().take(3) {
        let request = String::from_utf8(request).expect("text");
        let expected = format!(
            "GET /whoami?deep=1 HTTP/1.1\r\nhost: {host}\r\nuser-agent: portcullis-health-check\r\n\r\n"
        );
        assert_eq!(request.to_lowercase(), expected.to_lowercase());
    }
}

#[tokio::test]
async fn only_pods_of_services_that_want_it_are_asked() {
    let (asked, other) = (echo("asked").await, echo("other").await);
    let service = Service::new("asked")
        .annotation("health-check", "/whoami")
        .annotation("health-check-interval", "1s")
        .pod(&asked);
    let _gateway = Gateway::start(World::web(&other).with(service)).await;
    let mut counts = asked.counts();
    let twice = counts.wait_for(|counts| counts.started >= 2);
    soon("two checks", twice).await.expect("it is watched");
    assert_eq!(other.counts().borrow().started, 0);
}
