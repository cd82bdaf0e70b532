//! From manifests to requests: new Services are routed, pods that are not ready get no requests,
//! and denied hosts look like unknown ones.

use std::collections::BTreeMap;

use serde_json::json;

use crate::harness::{
    Answer, Echo, Gateway, Raw, Service, WEB, World, echo, eventually, without_ids,
};

async fn who(gateway: &Gateway, host: &str) -> String {
    gateway.curl(host, "/whoami").run().await.text().trim().to_owned()
}

async fn spread(gateway: &Gateway, host: &str, requests: usize) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        *counts.entry(who(gateway, host).await).or_default() += 1;
    }
    counts
}

/// The status and the headers without what differs between requests.
fn face(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.headers.iter().map(|(name, value)| {
        (name.clone(), if name == "date" { String::new() } else { without_ids(value) })
    });
    // With --head, curl writes the head where the body would be.
    let text: String = answer.text().lines().filter(|line| !line.starts_with("date: ")).collect();
    (answer.status, headers.collect(), without_ids(&text))
}

#[tokio::test]
async fn a_service_that_appears_is_routed() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::empty()).await;
    assert_eq!(gateway.curl(WEB, "/").run().await.status, 404);
    gateway.apply(&World::web(&pod));
    eventually("the service is routed", || async { who(&gateway, WEB).await == "pod-1" }).await;
    gateway.apply(&World::empty());
    eventually("the service is gone", || async {
        gateway.curl(WEB, "/").run().await.status == 404
    })
    .await;
}

#[tokio::test]
async fn requests_are_balanced_over_ready_pods_only() {
    let (first, second, third) = (echo("pod-1").await, echo("pod-2").await, echo("pod-3").await);
    let service = Service::new("web").pod(&first).pod(&second).unready_pod(&third);
    let gateway = Gateway::start(World::empty().with(service)).await;
    let counts = spread(&gateway, WEB, 40).await;
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["pod-1", "pod-2"], "{counts:?}");
    assert_eq!(third.counts().borrow().started, 0);
}

#[tokio::test]
async fn a_not_ready_pod_gets_no_new_request() {
    let (first, second) = (echo("pod-1").await, echo("pod-2").await);
    let both = World::empty().with(Service::new("web").pod(&first).pod(&second));
    let gateway = Gateway::start(both).await;
    gateway.apply(&World::empty().with(Service::new("web").unready_pod(&first).pod(&second)));
    eventually("requests go to the other pod alone", || async {
        spread(&gateway, WEB, 10).await.keys().eq(["pod-2"])
    })
    .await;
    let before = first.counts().borrow().started;
    spread(&gateway, WEB, 30).await;
    assert_eq!(first.counts().borrow().started, before);
}

#[tokio::test]
async fn a_request_in_progress_survives_the_removal_of_its_endpoint() {
    let (first, second) = (echo("pod-1").await, echo("pod-2").await);
    let gateway = Gateway::start(World::web(&first)).await;
    let slow = tokio::spawn(gateway.curl(WEB, "/delay/2s").run());
    first.counts().wait_for(|counts| counts.started == 1).await.unwrap();
    gateway.apply(&World::web(&second));
    eventually("new requests go to the new pod", || async { who(&gateway, WEB).await == "pod-2" })
        .await;
    assert!(!slow.is_finished());
    assert_eq!(slow.await.unwrap().text(), "Hello from pod-1\n");
}

#[tokio::test]
async fn draining_pods_serve_only_if_no_pod_is_ready() {
    let (first, second) = (echo("pod-1").await, echo("pod-2").await);
    let gateway =
        Gateway::start(World::empty().with(Service::new("web").draining_pod(&first).pod(&second)))
            .await;
    assert!(spread(&gateway, WEB, 20).await.keys().eq(["pod-2"]));
    gateway
        .apply(&World::empty().with(Service::new("web").draining_pod(&first).unready_pod(&second)));
    eventually("the draining pod takes over", || async {
        spread(&gateway, WEB, 5).await.keys().eq(["pod-1"])
    })
    .await;
}

#[tokio::test]
async fn no_ready_pod_is_503() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::empty().with(Service::new("web").unready_pod(&pod))).await;
    for (accept, kind) in [
        ("application/json", "application/json"),
        ("text/html", "text/html"),
        ("text/plain", "text/plain"),
    ] {
        let answer = gateway.curl(WEB, "/").header(&format!("Accept: {accept}")).run().await;
        assert_eq!(answer.status, 503);
        assert!(answer.header("content-type").unwrap().starts_with(kind), "{answer:?}");
        assert!(
            without_ids(&answer.text()).contains("ID"),
            "the request's id is there: {answer:?}"
        );
    }
}

#[tokio::test]
async fn environments_are_isolated() {
    let (staging, production) = (echo("in-staging").await, echo("in-production").await);
    let world =
        World::web(&staging).with(Service::new("web").environment("production").pod(&production));
    let gateway = Gateway::start(world).await;
    assert_eq!(who(&gateway, WEB).await, "in-staging");
    assert_eq!(who(&gateway, "web--production.apps.test").await, "in-production");
    assert_eq!(gateway.curl("web.apps.test", "/").run().await.status, 404);
}

#[tokio::test]
async fn the_default_environment_needs_no_name() {
    let (staging, production) = (echo("in-staging").await, echo("in-production").await);
    let world =
        World::web(&staging).with(Service::new("web").environment("production").pod(&production));
    let gateway =
        Gateway::of(world).settings(json!({ "defaultEnvironment": "production" })).start().await;
    assert_eq!(who(&gateway, "web.apps.test").await, "in-production");
    assert_eq!(who(&gateway, WEB).await, "in-staging");
}

#[tokio::test]
async fn hosts_are_compared_without_case_port_or_trailing_dot() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    for host in [WEB.to_uppercase(), format!("{WEB}:8443"), format!("{WEB}.")] {
        let mut client = Raw::connect(gateway.http()).await;
        client.send(format!("GET /whoami HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(client.response().await.unwrap().text(), "pod-1\n", "{host}");
    }
}

#[tokio::test]
async fn denied_and_unknown_hosts_are_indistinguishable() {
    let pod = echo("pod-1").await;
    let world = World::web(&pod)
        .with(Service::new("web").environment("closed").pod(&pod))
        .with(Service::new("down").environment("closed"));
    let gateway = Gateway::start(world).await;
    let calls: [&[&str]; 7] = [
        &[],
        &["--http1.1"],
        &["--head"],
        &["--request", "POST", "--data", "x"],
        &["--header", "Accept: application/json"],
        &[
            "--request",
            "OPTIONS",
            "--header",
            "Origin: https://a.test",
            "--header",
            "Access-Control-Request-Method: GET",
        ],
        &["--header", "Authorization: Bearer x", "--header", "Cookie: a=b"],
    ];
    for arguments in calls {
        let call = async |host: &str| {
            let curl = arguments
                .iter()
                .fold(gateway.curl(host, "/whoami?a=b"), |curl, argument| curl.arg(argument));
            face(&curl.run().await)
        };
        let unknown = call("web--nowhere.apps.test").await;
        assert_eq!(unknown.0, 404, "{arguments:?}");
        for host in [
            "web--closed.apps.test",
            "down--closed.apps.test",
            "nothing--closed.apps.test",
            "nothing--staging.apps.test",
        ] {
            assert_eq!(call(host).await, unknown, "{host} {arguments:?}");
        }
    }
    assert_eq!(pod.counts().borrow().started, 0);
}

#[tokio::test]
async fn only_the_paths_of_a_service_are_routed() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(
        World::empty().with(Service::new("web").annotation("paths", "/echo,/status").pod(&pod)),
    )
    .await;
    for (path, status) in [
        ("/echo", 200),
        ("/echo/deep", 200),
        ("/status/201", 201),
        ("/echoes", 404),
        ("/whoami", 404),
        ("/", 404),
    ] {
        assert_eq!(gateway.curl(WEB, path).run().await.status, status, "{path}");
    }
}

#[tokio::test]
async fn additional_hostnames_route_to_the_same_service() {
    let pod = echo("pod-1").await;
    let service = Service::new("web").annotation("hostnames", "shop.apps.test").pod(&pod);
    let gateway = Gateway::start(World::empty().with(service)).await;
    assert_eq!(who(&gateway, "shop.apps.test").await, "pod-1");
    assert_eq!(who(&gateway, WEB).await, "pod-1");
}

#[tokio::test]
async fn an_invalid_file_takes_nothing_down() {
    let (pod, other) = (echo("pod-1").await, echo("pod-2").await);
    let gateway = Gateway::start(World::web(&pod)).await;
    let broken = World::web(&pod)
        .with_file("broken.yaml", "apiVersion: v1\nkind: Service\nmetadata: [\n")
        .with(Service::new("other").pod(&other));
    gateway.apply(&broken);
    eventually("what is good beside it takes effect", || async {
        who(&gateway, "other--staging.apps.test").await == "pod-2"
    })
    .await;
    assert_eq!(who(&gateway, WEB).await, "pod-1");
    gateway.has_written("broken.yaml").await;
}

#[tokio::test]
async fn the_live_table_can_be_read() {
    let pod: Echo = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let routes = gateway.admin_page("/routes").await;
    assert_eq!(routes.status, 200);
    assert!(
        routes.text().contains(WEB) && routes.text().contains(&pod.address().to_string()),
        "{routes:?}"
    );
    assert_eq!(gateway.admin_page("/livez").await.status, 200);
}

#[tokio::test]
async fn a_redirect_to_https_keeps_clients_of_node_ports_on_these() {
    let ports = json!([{ "http": 30080, "https": 30443 }]);
    let http = json!({ "mode": "redirect", "redirectPorts": ports });
    let settings = json!({ "listeners": { "http": http } });
    let gateway = Gateway::of(World::empty()).settings(settings).start().await;
    for host in [WEB, "nothing--nowhere.apps.test"] {
        for (port, expected) in [(":30080", ":30443"), (":80", ""), (":30081", ""), ("", "")] {
            let field = format!("Host: {host}{port}");
            let answer = gateway.curl_plain(host, "/a?b").args(["--header", &field]).run().await;
            let location = format!("https://{host}{expected}/a?b");
            assert_eq!(answer.header("location"), Some(&*location), "{port}");
        }
    }
}
