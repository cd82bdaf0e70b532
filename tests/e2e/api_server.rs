//! The Kubernetes API server is never exposed: not by its Namespace, not by its own annotations,
//! not by EndpointSlices of another Service.

use serde_json::json;

use crate::harness::{Echo, Gateway, Service, World, echo, eventually, without_ids};

/// The Namespace `default`, as an environment that exposes all, with the API server's Service and
/// one of its own. `annotations` are the API server's Service's own.
fn default_namespace(api_server: &Echo, annotations: serde_json::Value) -> String {
    let address = api_server.address();
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {
                "name": "default",
                "labels": {"portcullis.dev/environment": "staging"},
                "annotations": {"portcullis.dev/expose": "all", "portcullis.dev/require": "none"},
            },
        },
        {
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default", "annotations": annotations},
            "spec": {
                "clusterIP": "10.96.0.1",
                "ports": [{"name": "https", "port": 443, "appProtocol": "http"}],
            },
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": "kubernetes", "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": address.port()}],
            "endpoints": [{"addresses": [address.ip()], "conditions": {"ready": true}}],
        },
    ]})
    .to_string()
}

async fn face(gateway: &Gateway, host: &str, path: &str) -> (u16, String) {
    let answer = gateway.curl(host, path).run().await;
    (answer.status, without_ids(&answer.text()))
}

#[tokio::test]
async fn the_api_servers_service_is_never_exposed() {
    let api_server = echo("api-server").await;
    for annotations in [
        json!({}),
        json!({
            "portcullis.dev/expose": "true",
            "portcullis.dev/require": "none",
            "portcullis.dev/public-paths": "/version, /healthz",
            "portcullis.dev/hostnames": "further.apps.test",
            "portcullis.dev/port": "https",
        }),
    ] {
        let world = World::empty()
            .with(Service::new("web").environment("team").pod(&api_server))
            .with_file("default.json", &default_namespace(&api_server, annotations));
        let gateway = Gateway::start(world).await;
        for path in ["/version", "/healthz", "/whoami"] {
            let unknown = face(&gateway, "nothing--staging.apps.test", path).await;
            assert_eq!(unknown.0, 404);
            for host in ["kubernetes--staging.apps.test", "further.apps.test"] {
                assert_eq!(face(&gateway, host, path).await, unknown, "{host}{path}");
            }
        }
        // Through the slices of another Service it has no endpoint at all.
        assert_eq!(gateway.curl("web--team.apps.test", "/whoami").run().await.status, 503);
        gateway.has_written("it is the Kubernetes API server, which is never exposed").await;
        gateway.has_written("is an address of the Kubernetes API server").await;
    }
    assert_eq!(api_server.counts().borrow().started, 0);
}

#[tokio::test]
async fn another_services_endpoints_are_followed_when_the_api_server_moves() {
    let (first, second) = (echo("first").await, echo("second").await);
    let world = |api_server: &Echo| {
        World::empty()
            .with(Service::new("web").environment("team").pod(&first).pod(&second))
            .with_file("default.json", &default_namespace(api_server, json!({})))
    };
    let gateway = Gateway::start(world(&first)).await;
    let who = || async {
        gateway.curl("web--team.apps.test", "/whoami").run().await.text().trim().to_owned()
    };
    for _ in 0..10 {
        assert_eq!(who().await, "second");
    }
    gateway.apply(&world(&second));
    eventually("the API server's new address gets nothing", || async {
        let mut others = true;
        for _ in 0..10 {
            others &= who().await == "first";
        }
        others
    })
    .await;
}

#[tokio::test]
async fn the_api_server_of_the_pods_environment_is_not_an_endpoint() {
    let (api_server, pod) = (echo("api-server").await, echo("pod-1").await);
    let service = Service::new("web").pod(&api_server).pod(&pod);
    let gateway = Gateway::of(World::empty().with(service))
        .variable("KUBERNETES_SERVICE_HOST", api_server.address().ip().to_string())
        .variable("KUBERNETES_SERVICE_PORT", api_server.address().port().to_string())
        .start()
        .await;
    for _ in 0..10 {
        let answer = gateway.curl("web--staging.apps.test", "/whoami").run().await;
        assert_eq!(answer.text().trim(), "pod-1");
    }
    assert_eq!(api_server.counts().borrow().started, 0);
}

#[tokio::test]
async fn services_of_the_gateways_namespace_need_their_own_annotation() {
    let pod = echo("pod-1").await;
    let world = World::empty()
        .with(Service::new("console").environment("gateway").pod(&pod))
        .with(Service::new("docs").environment("gateway").annotation("expose", "true").pod(&pod))
        .with(Service::new("metrics").environment("kube-system").pod(&pod));
    let gateway = Gateway::of(world).variable("POD_NAMESPACE", "gateway").start().await;
    for (host, status) in [
        ("console--gateway.apps.test", 404),
        ("metrics--kube-system.apps.test", 404),
        ("docs--gateway.apps.test", 200),
    ] {
        assert_eq!(gateway.curl(host, "/whoami").run().await.status, status, "{host}");
    }
}
