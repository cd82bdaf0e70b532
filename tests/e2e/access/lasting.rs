//! Open requests of anonymous callers end with what admitted them.

use std::time::Duration;

use futures::StreamExt;
use portcullis_echo::grpc::{Client, EchoRequest};
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;

use super::{SOON, eventually};
use crate::harness::{Echo, Gateway, Raw, Service, World, client, echo, soon};

const WEB: &str = "web--staging.apps.test";
const CALLS: &str = "calls--staging.apps.test";
const OTHER: &str = "other--others.apps.test";
const PUBLIC: &str = "web--public.apps.test";
const ENDLESS: &str = "/events/1000000?interval=20ms";

struct Stage {
    pod: Echo,
    gateway: Gateway,
}

/// Open services, one with a public path, and one that no test changes.
fn world(pod: &Echo, web: Service, calls: Service, public: Service) -> World {
    World::empty()
        .with(web.pod(pod))
        .with(calls.port_name("grpc").pod(pod))
        .with(public.environment("public").annotation("require", "app").pod(pod))
        .with(Service::new("other").environment("others").pod(pod))
}

fn open(pod: &Echo) -> World {
    let public = Service::new("web").annotation("public-paths", "/events");
    world(pod, Service::new("web"), Service::new("calls"), public)
}

// === impl Stage ===

impl Stage {
    /// Starts an open request, which is complete when it is broken off, and waits until the pod has
    /// it.
    async fn begin(&self, request: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let (before, mut counts) = (self.pod.counts().borrow().started, self.pod.counts());
        let open = tokio::spawn(request);
        soon("the request reaches the pod", counts.wait_for(|counts| counts.started > before))
            .await
            .expect("the pod counts");
        open
    }

    async fn events(&self, host: &str, version: &str) -> JoinHandle<()> {
        let curl = self.gateway.curl(host, ENDLESS).arg(version);
        self.begin(async move {
            let answer = curl.run().await;
            assert_ne!(answer.exit, 0, "it is broken off: {answer:?}");
        })
        .await
    }

    /// A WebSocket.
    async fn socket(&self) -> JoinHandle<()> {
        let stream = client::tls(&self.gateway, WEB, &["http/1.1"]).await.expect("a connection");
        self.begin(async move {
            let url = format!("wss://{WEB}/chat");
            let (mut socket, _) =
                tokio_tungstenite::client_async(url, stream).await.expect("a handshake");
            while let Some(Ok(message)) = socket.next().await {
                assert!(!matches!(message, Message::Close(_)), "it is broken off");
            }
        })
        .await
    }

    /// An upload that does not end.
    async fn upload(&self) -> JoinHandle<()> {
        let mut raw = Raw::connect(self.gateway.http()).await;
        self.begin(async move {
            let head = format!(
                "POST /echo HTTP/1.1\r\nHost: {WEB}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n"
            );
            raw.send(head).await;
            raw.rest().await;
        })
        .await
    }

    /// A gRPC call whose client does not end its stream.
    async fn call(&self) -> JoinHandle<()> {
        let mut client = Client::new(client::grpc(&self.gateway, CALLS).await);
        self.begin(async move {
            let endless = futures::stream::iter([EchoRequest::new("hello")])
                .chain(futures::stream::pending());
            client.client_stream(endless).await.expect_err("it is broken off");
        })
        .await
    }
}

#[tokio::test]
async fn open_requests_of_anonymous_callers_end_with_what_admitted_them() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(open(&pod)).await;
    let stage = Stage { pod, gateway };
    let pod = &stage.pod;
    let (service, public) = (Service::new, || Service::new("web"));
    let lists = |service: Service, key: &str, value: &str| service.annotation(key, value);
    let with = |key: &str, value: &str| {
        let changed = |name| lists(service(name), key, value);
        world(pod, changed("web"), changed("calls"), public())
    };
    let changes = [
        ("closed", open(pod).annotation("staging", "require", "app")),
        ("no such path", with("paths", "/elsewhere")),
        ("not exposed", with("expose", "false")),
        ("no environment", open(pod).without_label("staging").without_label("public")),
        ("deleted", World::empty().with(service("other").environment("others").pod(pod))),
    ];
    let unchanged = stage.events(OTHER, "--http1.1").await;
    for (change, changed) in changes {
        stage.gateway.apply(&open(pod));
        for (host, path) in [(WEB, "/"), (PUBLIC, "/events/1")] {
            eventually("the services are open", || async {
                stage.gateway.curl(host, path).run().await.status == 200
            })
            .await;
        }
        let streams = [
            stage.events(WEB, "--http1.1").await,
            stage.events(WEB, "--http2").await,
            stage.socket().await,
            stage.upload().await,
            stage.call().await,
        ];
        let public = stage.events(PUBLIC, "--http1.1").await;
        stage.gateway.apply(&changed);
        let all = futures::future::join_all(streams);
        let ended = tokio::time::timeout(SOON + Duration::from_secs(3), all).await;
        let ended = ended.unwrap_or_else(|_| panic!("{change}: all end soon"));
        assert!(ended.iter().all(Result::is_ok), "{change}: {ended:?}");
        // Its path is not public any more, or its Service is gone, except where others change.
        if change == "closed" {
            assert!(!public.is_finished(), "{change}");
            public.abort();
        } else {
            soon("the stream of the public path ends", public).await.expect("it is broken off");
        }
    }
    assert!(!unchanged.is_finished(), "changes of other services close nothing");
    unchanged.abort();
}
