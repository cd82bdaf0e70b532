//! The gateway, and its backend.

use std::future::{Future, poll_fn};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use portcullis_config::installation::Installation;
use portcullis_config::live::Live;
use portcullis_config::resources::{Change, Resources};
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::{Listener, Snapshot};
use portcullis_config::source::Secrets;
use portcullis_config::source::manifest::read_manifests;
use portcullis_config::translate::translate;
use portcullis_identity::authenticator::Authenticated;
use portcullis_identity::caller::{Caller, User};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, LocalOptions, LocalRuntime};
use tokio::sync::watch;
use tokio::task::spawn_local;

use super::{Access, requests};
use crate::access::caller_cache::CachedCaller;
use crate::access::{Fields, PresentedCredentials};
use crate::exchange::Peer;
use crate::gateway::startup::Startup;
use crate::listen::connection::ListenerContext;
use crate::listen::drain::Drains;
use crate::listen::placement::Placement;
use crate::listen::socket::Protocol;
use crate::worker::{self, Phase};
use crate::worker_context::WorkerContext;

/// The body of every response.
pub(super) const BODY: &[u8] = b"{\"id\":1024,\"name\":\"item\"}";

/// What the backend answers, in one write.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Content-Type: application/json\r\n\
    Content-Length: 25\r\n\
    Cache-Control: no-cache\r\n\
    ETag: \"5f2a-60c1\"\r\n\
    Date: Tue, 01 Dec 2026 10:15:00 GMT\r\n\r\n\
    {\"id\":1024,\"name\":\"item\"}";

/// The access log is written out more often than this.
const LOG_INTERVAL: Duration = Duration::from_millis(250);

/// Whether what is executed is counted. Outside of what is counted, the name of [`poll_peer`] has the
/// opposite effect, so it is called only meanwhile.
static IS_COUNTED: AtomicBool = AtomicBool::new(false);

/// A worker with its backend, on a runtime of their own.
pub(super) struct Fixture {
    pub(super) runtime: LocalRuntime,
    pub(super) listener: Rc<ListenerContext>,
    drains: Drains,
    _phase: watch::Sender<Phase>,
}

// === impl Fixture ===

impl Fixture {
    pub(super) fn new() -> Self {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build_local(LocalOptions::default())
            .unwrap();
        let (phase, phases) = watch::channel(Phase::Serving);
        let listener = runtime.block_on(async {
            let settings = Arc::new(settings());
            let live = Arc::new(Live::default());
            live.publish(Arc::new(snapshot(&settings, backend().await)), Vec::new());
            // Nothing of the control plane runs meanwhile: its tasks end with `startup`.
            let mut startup = Startup::new(settings, live).unwrap();
            let telemetry = startup.telemetry(None).unwrap();
            let (authenticator, portal) = startup.access(None, &telemetry).unwrap();
            let shared = startup.shared(phases, authenticator, portal, telemetry).unwrap();
            let placement = Placement::of_workers(1).into_iter().map(|(one, _)| Rc::new(one));
            let placement = placement.last().unwrap();
            Rc::new(ListenerContext {
                worker: Rc::new(worker::context(0, &shared)),
                listener: Listener::HTTPS,
                tls: None,
                admission: Arc::clone(&shared.admission),
                placement,
                streams: Rc::default(),
            })
        });
        let fixture = Self { runtime, listener, drains: Drains::default(), _phase: phase };
        fixture.admit_caller();
        fixture
    }

    pub(super) fn worker(&self) -> &Rc<WorkerContext> {
        &self.listener.worker
    }

    /// A client over TLS. The pipe has none: the cost of TLS is not the gateway's own.
    pub(super) fn peer() -> Peer {
        Peer {
            client: ([192, 0, 2, 7], 40_000).into(),
            tls: true,
            trusted: false,
            listener: Listener::HTTPS,
            certificate: None,
        }
    }

    /// Serves a connection in a task.
    pub(super) fn serve(&self, stream: DuplexStream, protocol: Protocol) {
        let (listener, drain) = (Rc::clone(&self.listener), self.drains.handle());
        self.runtime.block_on(async {
            spawn_local(async move {
                let peer = Self::peer();
                let mut permit = listener.admission.admit().map_err(drop).unwrap();
                permit.claim(peer.client.ip()).map_err(drop).unwrap();
                let account = listener.account(&permit);
                listener.http(protocol, stream, peer, account, drain).await;
            });
        });
    }

    /// Waits until the thread of the access log has taken the lines so far.
    pub(super) fn await_access_log(&self) {
        self.runtime.block_on(async { tokio::time::sleep(LOG_INTERVAL).await });
    }

    /// Does what the first request with the token does: a verified caller is cached. Signatures are
    /// not counted, since a token costs one on its first request alone.
    fn admit_caller(&self) {
        let access = Access::Token;
        let headers = requests::normalized(&requests::http1(access, access.host())).headers;
        let fields = Fields::of(&headers);
        let caller = CachedCaller::new(
            PresentedCredentials::read(&fields, None),
            Authenticated { caller: caller(), token: true, ..Authenticated::default() },
        );
        let worker = self.worker();
        let generation = worker.authenticator.generation();
        worker.caller_cache.insert(&fields, access.host(), generation, &Rc::new(caller));
    }
}

fn settings() -> Settings {
    serde_json::from_value(json!({
        "zone": "example.test",
        "source": { "directory": "." },
        "accessLog": { "file": "/dev/null" },
    }))
    .unwrap()
}

/// A user who calls through an application.
fn caller() -> Caller {
    let user = User {
        name: "ann@example.com".into(),
        prefix: 0,
        email: Some("ann@example.com".into()),
        preferred_username: None,
        groups: ["dev".into(), "ops".into()].into(),
        issuer: "corp".into(),
        subject: "248289761001".into(),
    };
    Caller { application: Some("shop".into()), user: Some(Arc::new(user)), until: None }
}

/// The routing table: an open service, one that requires a token, and one with a canary.
fn snapshot(settings: &Settings, backend: u16) -> Snapshot {
    let manifests = [
        namespace("open", "portcullis.dev/require: none"),
        service("open", "web", "", backend),
        namespace(
            "closed",
            "portcullis.dev/allow-apps: shop, portcullis.dev/allow-users: '*@example.com'",
        ),
        service("closed", "web", "", backend),
        service("closed", "split", "", backend),
        service(
            "closed",
            "split-canary",
            "portcullis.dev/canary-of: split, portcullis.dev/canary-weight: '5'",
            backend,
        ),
    ]
    .concat();
    let file = Arc::new(PathBuf::from("counted.yaml"));
    let read = read_manifests(&file, manifests.as_bytes(), &Secrets::of(settings));
    assert!(read.problems.is_empty(), "{:?}", read.problems);
    let mut resources = Resources::new(Installation::default(), settings);
    for object in read.objects {
        resources.apply(Change::Upsert(object));
    }
    let translation = translate(settings, &resources);
    assert!(translation.problems.is_empty(), "{:?}", translation.problems);
    translation.snapshot
}

fn namespace(name: &str, annotations: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Namespace
metadata:
  name: {name}
  labels: {{portcullis.dev/environment: {name}}}
  annotations: {{portcullis.dev/expose: all, {annotations}}}
"
    )
}

fn service(namespace: &str, name: &str, annotations: &str, port: u16) -> String {
    format!(
        "---
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: {namespace}, annotations: {{{annotations}}}}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}, protocol: TCP}}]
endpoints: [{{addresses: [127.0.0.1], conditions: {{ready: true}}}}]
"
    )
}

/// Starts the backend on the current runtime, and returns its port.
async fn backend() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            spawn_local(uncounted(respond(stream)));
        }
    });
    port
}

/// Responds to each read: a request is one write, and has no body.
async fn respond(mut stream: TcpStream) {
    let mut request = [0; 4096];
    while let Ok(1..) = stream.read(&mut request).await {
        stream.write_all(RESPONSE).await.unwrap();
    }
}

/// Executes what is counted.
pub(super) fn counted(run: impl FnOnce()) {
    IS_COUNTED.store(true, Ordering::Relaxed);
    run();
    IS_COUNTED.store(false, Ordering::Relaxed);
}

/// A future of a client or a backend. What it executes is not counted: the bench excludes
/// [`poll_peer`] by its name.
pub(super) async fn uncounted<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|cx| {
        if IS_COUNTED.load(Ordering::Relaxed) {
            poll_peer(future.as_mut(), cx)
        } else {
            future.as_mut().poll(cx)
        }
    })
    .await
}

#[inline(never)]
fn poll_peer<F: Future>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(cx)
}
