//! Tests of a gateway over real sockets: listeners, TLS, limits and draining.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_config::snapshot::Snapshot;
use portcullis_config::snapshot::certificate::Certificate;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::*;
use crate::certificates::testing::certificate;
use crate::live_table::Table;

/// The timeout of each step.
const TIMEOUT: Duration = Duration::from_secs(30);

struct Running {
    gateway: Gateway,
    live: Arc<Live>,
}

impl Running {
    async fn start(changes: Value) -> Self {
        let mut settings = json!({
            "zone": "example.com",
            "source": { "directory": "." },
            "listeners": { "http": { "address": "127.0.0.1:0", "mode": "serve" }, "https": { "address": "127.0.0.1:0" } },
            "probes": { "address": "127.0.0.1:0" },
            "telemetry": { "address": "127.0.0.1:0" },
            "admin": { "address": "127.0.0.1:0" },
            "accessLog": { "format": "none" },
            "drain": { "delay": "0s", "deadline": "30s" },
            "workers": 2,
        });
        merge(&mut settings, changes);
        let settings: Settings = serde_json::from_value(settings).expect("settings");
        let live = Arc::new(Live::default());
        let gateway = Gateway::start(Arc::new(settings), Arc::clone(&live), Stores::default())
            .await
            .expect("started");
        Self { gateway, live }
    }

    fn http(&self) -> SocketAddr {
        self.gateway.addresses().http.expect("an address")
    }

    fn https(&self) -> SocketAddr {
        self.gateway.addresses().https.expect("an address")
    }

    fn publish(&self, certificates: Vec<Certificate>) {
        self.live.publish(Arc::new(Snapshot { certificates, ..Snapshot::default() }), Vec::new());
        self.live.set_synced();
    }

    /// Returns the response of the admin listener.
    async fn admin(&self, request: &str) -> String {
        self.get(self.gateway.addresses().admin, request).await
    }

    /// Returns the response of the probes listener.
    async fn probe(&self, request: &str) -> String {
        self.get(self.gateway.addresses().probes, request).await
    }

    /// Returns all metrics.
    async fn metrics(&self) -> String {
        self.get(self.gateway.addresses().telemetry, "GET /metrics").await
    }

    async fn get(&self, address: Option<SocketAddr>, request: &str) -> String {
        let request = format!("{request} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        exchange(address.expect("an address"), request.as_bytes()).await
    }

    async fn metric(&self, line: &str) -> bool {
        self.metrics().await.lines().any(|found| found.starts_with(line))
    }

    /// Waits until the metrics have a line that starts with `line`.
    async fn counted(&self, line: &str) {
        let counted = async {
            while !self.metric(line).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(TIMEOUT, counted).await.is_err() {
            panic!("no `{line}` in\n{}", self.metrics().await);
        }
    }
}

fn merge(base: &mut Value, changes: Value) {
    match (base, changes) {
        (Value::Object(base), Value::Object(changes)) => {
            for (key, change) in changes {
                merge(base.entry(key).or_insert(Value::Null), change);
            }
        }
        (base, change) => *base = change,
    }
}

/// Sends octets, and reads until the connection is closed or reset.
async fn exchange(address: SocketAddr, octets: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let mut answer = Vec::new();
    let done = timeout(TIMEOUT, async {
        let _ = stream.write_all(octets).await;
        let _ = stream.read_to_end(&mut answer).await;
    });
    done.await.expect("closed in time");
    String::from_utf8_lossy(&answer).into_owned()
}

/// Opens a keep-alive connection and sends one request.
async fn keep_alive(address: SocketAddr, before: &str) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("connected");
    stream
        .write_all(format!("{before}GET / HTTP/1.1\r\nHost: nobody.example.com\r\n\r\n").as_bytes())
        .await
        .expect("written");
    let mut head = [0; 12];
    timeout(TIMEOUT, stream.read_exact(&mut head)).await.expect("in time").expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 404");
    stream
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: nobody.example.com\r\nConnection: close\r\n\r\n";

/// Accepts any certificate: the tests verify it.
#[derive(Debug)]
struct AcceptAny;

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        rustls::crypto::aws_lc_rs::default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// The result of a TLS handshake.
struct Handshake {
    leaf: Vec<u8>,
    alpn: Option<Vec<u8>>,
    resumed: bool,
}

fn client(
    versions: &[&'static rustls::SupportedProtocolVersion],
    alpn: &[&str],
) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAny))
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    Arc::new(config)
}

async fn handshake(
    address: SocketAddr,
    name: &str,
    config: Arc<ClientConfig>,
) -> io::Result<Handshake> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut tls = timeout(TIMEOUT, TlsConnector::from(config).connect(name, stream))
        .await
        .expect("in time")?;
    // The response follows the session tickets, so that the client has received them.
    tls.write_all(REQUEST).await?;
    let mut octet = [0];
    let _ = timeout(TIMEOUT, tls.read(&mut octet)).await.expect("in time");
    let connection = tls.get_ref().1;
    let leaf = connection
        .peer_certificates()
        .and_then(|chain| chain.first())
        .map(|leaf| leaf.to_vec())
        .unwrap_or_default();
    let resumed = connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
    Ok(Handshake { leaf, alpn: connection.alpn_protocol().map(<[u8]>::to_vec), resumed })
}

async fn leaf(address: SocketAddr, name: &str) -> Vec<u8> {
    handshake(address, name, client(rustls::ALL_VERSIONS, &["http/1.1"]))
        .await
        .expect("a handshake")
        .leaf
}

fn der(certificate: &Certificate) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    CertificateDer::from_pem_slice(&certificate.chain).expect("a certificate").to_vec()
}

#[tokio::test]
async fn readiness_reports_what_is_missing() {
    let running = Running::start(
        json!({ "certificates": [{ "secret": { "namespace": "gateway", "name": "one" } }] }),
    )
    .await;
    let answer = running.probe("GET /readyz").await;
    assert!(
        answer.starts_with("HTTP/1.0 503")
            && answer.contains("not been read")
            && answer.contains("certificate"),
        "{answer}"
    );
    running.publish(vec![certificate("one", &["*.example.com"])]);
    timeout(TIMEOUT, running.gateway.ready()).await.expect("ready");
    assert!(running.probe("GET /readyz").await.starts_with("HTTP/1.0 200"));
    assert!(running.probe("HEAD /livez").await.starts_with("HTTP/1.0 200"));
    assert!(running.probe("POST /livez").await.starts_with("HTTP/1.0 405"));
    assert!(
        running.admin("POST /sessions/rotate").await.starts_with("HTTP/1.0 409"),
        "no session keys are issued"
    );
    assert!(running.admin("GET /secrets").await.starts_with("HTTP/1.0 404"));
}

#[tokio::test]
async fn the_admin_listener_serves_routes_and_explanations() {
    let running = Running::start(json!({})).await;
    running.publish(vec![certificate("one", &["*.example.com"])]);
    running.counted("portcullis_certificate").await;
    let answer = running.admin("GET /routes").await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let table: Table = serde_json::from_str(body).expect("a table");
    assert!(table.ready);
    assert_eq!(table.certificates[0].names, ["*.example.com"]);
    let explained = running.admin("GET /explain?url=https%3A%2F%2Fa.example.com%2F").await;
    assert!(explained.contains(r#""outcome":"unreachable""#), "{explained}");
    assert!(running.admin("GET /explain?url=nothing").await.starts_with("HTTP/1.0 400"));
}

#[tokio::test]
async fn certificates_are_selected_by_name_and_hot_swapped() {
    let running = Running::start(json!({})).await;
    let first = certificate("one", &["*.example.com"]);
    running.publish(vec![first.clone()]);
    running.counted("portcullis_certificate").await;
    assert_eq!(leaf(running.https(), "a.example.com").await, der(&first));
    let second = certificate("one", &["*.example.com"]);
    running.publish(vec![second.clone()]);
    let replaced = async { while leaf(running.https(), "a.example.com").await != der(&second) {} };
    timeout(TIMEOUT, replaced).await.expect("replaced");
}

#[tokio::test]
async fn unknown_names_get_the_same_placeholder() {
    let running = Running::start(json!({})).await;
    running.publish(vec![certificate("one", &["*.example.com"])]);
    running.counted("portcullis_certificate").await;
    let placeholder = leaf(running.https(), "example.org").await;
    for name in ["a.b.example.com", "example.com", "192.0.2.1", "localhost"] {
        assert_eq!(leaf(running.https(), name).await, placeholder, "{name}");
    }
}

#[tokio::test]
async fn the_protocol_is_negotiated_by_alpn() {
    let running = Running::start(json!({})).await;
    let alpn = async |protocols: &[&str]| {
        handshake(running.https(), "a.example.com", client(rustls::ALL_VERSIONS, protocols))
            .await
            .map(|handshake| handshake.alpn)
    };
    assert_eq!(alpn(&["http/1.1", "h2"]).await.expect("agreed"), Some(b"h2".to_vec()));
    assert_eq!(alpn(&["http/1.1"]).await.expect("agreed"), Some(b"http/1.1".to_vec()));
    assert_eq!(alpn(&[]).await.expect("agreed"), None);
    // RFC 7301 §3.2: no overlap is a fatal alert.
    assert!(alpn(&["spdy/3"]).await.is_err());
}

#[tokio::test]
async fn tls_sessions_are_resumed_on_any_worker() {
    let running = Running::start(json!({ "workers": 3 })).await;
    for version in [&[&rustls::version::TLS12], &[&rustls::version::TLS13]] {
        let config = client(version, &["http/1.1"]);
        assert!(
            !handshake(running.https(), "a.example.com", Arc::clone(&config))
                .await
                .expect("a handshake")
                .resumed
        );
        for _ in 0..8 {
            assert!(
                handshake(running.https(), "a.example.com", Arc::clone(&config))
                    .await
                    .expect("a handshake")
                    .resumed
            );
        }
    }
}

#[tokio::test]
async fn incomplete_handshakes_time_out() {
    let running = Running::start(json!({ "timeouts": { "handshake": "50ms" } })).await;
    assert_eq!(exchange(running.https(), b"\x16\x03\x01").await, "");
    running
        .counted(r#"portcullis_connections_refused_total{listener="https",reason="timeout"} 1"#)
        .await;
}

#[tokio::test]
async fn connections_without_tls_are_rejected_and_counted() {
    let running = Running::start(json!({})).await;
    assert!(!exchange(running.https(), REQUEST).await.contains("HTTP/1.1"));
    running
        .counted(r#"portcullis_connections_refused_total{listener="https",reason="tls"} 1"#)
        .await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_and_counted() {
    let running = Running::start(json!({ "limits": { "connections": 1 } })).await;
    let open = keep_alive(running.http(), "").await;
    assert_eq!(exchange(running.http(), REQUEST).await, "");
    running
        .counted(r#"portcullis_connections_refused_total{listener="http",reason="connections"} 1"#)
        .await;
    drop(open);
    let served =
        async { while !exchange(running.http(), REQUEST).await.starts_with("HTTP/1.1 404") {} };
    timeout(TIMEOUT, served).await.expect("served again");
}

#[tokio::test]
async fn the_limit_per_client_does_not_apply_to_trusted_proxies() {
    let running = Running::start(json!({ "limits": { "connectionsPerClient": 1 } })).await;
    let _open = keep_alive(running.http(), "").await;
    assert_eq!(exchange(running.http(), REQUEST).await, "");
    running.counted(r#"portcullis_connections_refused_total{listener="http",reason="connections_per_client"} 1"#).await;

    let trusting = Running::start(
        json!({ "limits": { "connectionsPerClient": 1 }, "trustedNetworks": ["127.0.0.0/8"] }),
    )
    .await;
    let _open = keep_alive(trusting.http(), "").await;
    assert!(exchange(trusting.http(), REQUEST).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_proxy_protocol_is_required_if_enabled() {
    let running = Running::start(
        json!({ "listeners": { "proxyProtocol": true }, "limits": { "connectionsPerClient": 1 } }),
    )
    .await;
    let from = |client: &str| {
        [format!("PROXY TCP4 {client} 192.0.2.9 4242 80\r\n").as_bytes(), REQUEST].concat()
    };
    assert!(exchange(running.http(), &from("192.0.2.1")).await.starts_with("HTTP/1.1 404"));
    assert_eq!(exchange(running.http(), REQUEST).await, "");
    running
        .counted(
            r#"portcullis_connections_refused_total{listener="http",reason="proxy_protocol"} 1"#,
        )
        .await;
    // The limit is that of the client, not of the balancer.
    let _open = keep_alive(running.http(), "PROXY TCP4 192.0.2.7 192.0.2.9 4242 80\r\n").await;
    assert_eq!(exchange(running.http(), &from("192.0.2.7")).await, "");
    assert!(exchange(running.http(), &from("192.0.2.8")).await.starts_with("HTTP/1.1 404"));
}

#[tokio::test]
async fn the_plain_listener_serves_http1_and_http2_by_prior_knowledge() {
    let running = Running::start(json!({})).await;
    assert!(exchange(running.http(), REQUEST).await.starts_with("HTTP/1.1 404"));
    let stream = TcpStream::connect(running.http()).await.expect("connected");
    let (mut requests, connection) = h2::client::handshake(stream).await.expect("a handshake");
    let connection = tokio::spawn(connection);
    let request = http::Request::get("http://nobody.example.com/").body(()).expect("a request");
    let (response, _) = requests.send_request(request, true).expect("sent");
    assert_eq!(
        timeout(TIMEOUT, response).await.expect("in time").expect("a response").status(),
        404
    );
    connection.abort();
}

#[tokio::test]
async fn a_draining_gateway_serves_during_the_delay_and_then_stops() {
    let running = Running::start(json!({ "drain": { "delay": "300ms" } })).await;
    running.publish(Vec::new());
    let probes = running.gateway.addresses().probes.expect("an address");
    let http = running.http();
    let mut idle = keep_alive(http, "").await;
    let drained = tokio::spawn(running.gateway.drain());
    let unready = async {
        while !exchange(probes, b"GET /readyz HTTP/1.0\r\n\r\n").await.contains("draining") {}
    };
    timeout(TIMEOUT, unready).await.expect("unready");
    assert!(exchange(http, REQUEST).await.starts_with("HTTP/1.1 404"));
    // The idle connection is closed, so that draining completes.
    let mut rest = Vec::new();
    timeout(TIMEOUT, idle.read_to_end(&mut rest)).await.expect("closed").expect("closed in order");
    timeout(TIMEOUT, drained).await.expect("drained in time").expect("drained");
    assert!(TcpStream::connect(http).await.is_err());
}

#[tokio::test]
async fn connections_are_closed_after_the_drain_deadline() {
    let running = Running::start(json!({ "drain": { "deadline": "50ms" } })).await;
    let mut slow = TcpStream::connect(running.http()).await.expect("connected");
    slow.write_all(b"GET / HTTP/1.1\r\nHost: ").await.expect("written");
    running.counted(r#"portcullis_connections_open{listener="http",protocol="http1"} 1"#).await;
    timeout(TIMEOUT, running.gateway.drain()).await.expect("drained");
    let mut rest = Vec::new();
    let _ = timeout(TIMEOUT, slow.read_to_end(&mut rest)).await.expect("cut");
}

#[tokio::test]
async fn all_addresses_in_use_are_reported_together() {
    let running = Running::start(json!({})).await;
    let Addresses { http, https, probes, telemetry, admin } = running.gateway.addresses().clone();
    let settings = json!({
        "zone": "example.com",
        "source": { "directory": "." },
        "listeners": { "http": { "address": http }, "https": { "address": https } },
        "probes": { "address": probes },
        "telemetry": { "address": telemetry },
        "admin": { "address": admin },
    });
    let settings: Settings = serde_json::from_value(settings).expect("settings");
    let Err(StartError::Bind(errors)) =
        Gateway::start(Arc::new(settings), Arc::new(Live::default()), Stores::default()).await
    else {
        panic!("it started");
    };
    assert_eq!(errors.len(), 5);
}
