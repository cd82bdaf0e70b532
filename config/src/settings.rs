//! The configuration file: what is decided once for a gateway, not by the resources that it reads.
//!
//! Every field has a default but `zone` and `source`. `docs/configuration.md` and
//! `docs/configuration.schema.json` are generated from these types; a test compares them.

pub mod access;
pub mod acme;
mod check;
pub mod hostname;
mod read;
pub mod reference;
pub mod telemetry;
pub mod tls;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::duration;

pub use self::acme::AcmeSettings;
pub use self::read::{MAX_FILE_BYTES, MAX_PROBLEMS};
pub use self::telemetry::{ProbeSettings, TelemetrySettings};
pub use self::tls::{HstsSettings, TlsPolicy};

/// The configuration of `portcullis gateway`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The DNS domain that the gateway answers for, such as `apps.example.com`. One wildcard DNS
    /// record points it at the gateway.
    pub zone: String,
    /// How a hostname is made from a service and its environment. `{service}`, `{environment}` and
    /// `{zone}` are replaced.
    #[serde(default = "default_hostname")]
    pub hostname: String,
    /// The environment whose services are `{service}.{zone}`, without the environment's name.
    #[serde(default)]
    pub default_environment: Option<String>,
    /// Where resources come from.
    pub source: SourceSettings,
    /// Where connections are accepted.
    #[serde(default)]
    pub listeners: ListenerSettings,
    /// The listener for the kubelet's probes.
    #[serde(default)]
    pub probes: ProbeSettings,
    /// The listener for metrics.
    #[serde(default)]
    pub telemetry: TelemetrySettings,
    /// The listener for the live table, for explanations and for orders, on this machine alone.
    #[serde(default)]
    pub admin: AdminSettings,
    /// Certificates to serve.
    #[serde(default)]
    pub certificates: Vec<CertificateSettings>,
    /// Certificates that the gateway orders by itself, for names that `certificates` do not cover;
    /// without it, none.
    #[serde(default)]
    pub acme: Option<AcmeSettings>,
    /// Networks whose `X-Forwarded-*`, `Forwarded`, `X-Request-Id` and trace headers are believed
    /// and appended to; from all others they are replaced.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_networks: Vec<IpNet>,
    /// Whether a `Forwarded` header (RFC 7239) is sent to backends beside the `X-Forwarded-*`
    /// ones.
    #[serde(default)]
    pub forwarded_header: bool,
    /// How callers are known.
    #[serde(default)]
    pub access: access::AccessSettings,
    /// How connections to backends are made.
    #[serde(default)]
    pub upstreams: UpstreamSettings,
    /// Limits in number and size.
    #[serde(default)]
    pub limits: Limits,
    /// Limits in time.
    #[serde(default)]
    pub timeouts: TimeoutSettings,
    /// How the gateway stops.
    #[serde(default)]
    pub drain: DrainSettings,
    /// The access log.
    #[serde(default)]
    pub access_log: AccessLogSettings,
    /// Threads that serve requests; the default is one for each CPU that the process may use.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
}

/// Where resources come from: one of the two.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SourceSettings {
    /// A Kubernetes API server.
    Kubernetes(KubernetesSettings),
    /// A folder of manifests, as for `kubectl apply -f`, read anew when it changes.
    Directory(PathBuf),
}

/// How the Kubernetes API server is reached.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KubernetesSettings {
    /// A kubeconfig file; without it, the pod's ServiceAccount, else `KUBECONFIG` or
    /// `~/.kube/config`.
    #[serde(default)]
    pub kubeconfig: Option<PathBuf>,
    /// The kubeconfig's context; without it, the current one.
    #[serde(default)]
    pub context: Option<String>,
    /// Whether problems are told as Events on the resources that have them.
    #[serde(default = "yes")]
    pub events: bool,
}

/// Where connections are accepted.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ListenerSettings {
    /// Plain HTTP.
    pub http: HttpListenerSettings,
    /// HTTPS.
    pub https: HttpsListenerSettings,
    /// Whether every connection must begin with a PROXY protocol header, version 1 or 2.
    pub proxy_protocol: bool,
}

/// The listener for plain HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpListenerSettings {
    /// The address; `null` for no such listener.
    pub address: Option<SocketAddr>,
    /// What plain HTTP gets.
    pub mode: PlainHttp,
    /// The port of HTTPS as clients see it, for redirects; it differs from the listener's where
    /// something maps ports in front.
    pub redirect_port: u16,
}

/// What plain HTTP gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlainHttp {
    /// A redirect to HTTPS (308), for every name alike.
    Redirect,
    /// The same as HTTPS.
    Serve,
}

/// The listener for HTTPS.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpsListenerSettings {
    /// The address; `null` for no such listener.
    pub address: Option<SocketAddr>,
    /// What of TLS is agreed to.
    pub policy: TlsPolicy,
    /// `Strict-Transport-Security` on every answer over TLS, whatever the host, in the place of
    /// what backends say; `null` for none of ours, and backends' own as they are.
    pub hsts: Option<HstsSettings>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdminSettings {
    /// The address, which must be a loopback address; `null` for no such listener. It shows every
    /// hostname and takes orders: reach it by `kubectl exec` or `kubectl port-forward`.
    pub address: Option<SocketAddr>,
}

/// One certificate: files, or a Secret of type `kubernetes.io/tls`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CertificateSettings {
    /// PEM files, read anew when they change.
    Files {
        /// The chain, leaf first.
        certificate: PathBuf,
        /// The private key.
        key: PathBuf,
    },
    /// A Secret of type `kubernetes.io/tls`, by name.
    Secret {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// How connections to backends are made.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpstreamSettings {
    /// A PEM file with the authorities that certificates of pods with `appProtocol: https` are
    /// checked against; without it, no such pod is reached.
    pub certificate_authorities: Option<PathBuf>,
}

/// Limits in number and size.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections from clients, over all listeners and workers.
    pub connections: NonZeroUsize,
    /// Connections from one client address (IPv6: one /64).
    pub connections_per_client: NonZeroUsize,
    /// Octets of a request's line and headers.
    pub request_head_bytes: NonZeroUsize,
    /// Header fields of a request.
    pub request_headers: NonZeroUsize,
    /// Octets of a response's line and headers, from a backend.
    pub response_head_bytes: NonZeroUsize,
    /// Concurrent streams of one HTTP/2 connection.
    pub http2_streams: NonZeroU32,
    /// Octets that one HTTP/2 stream may have under way from the client before they are read.
    pub http2_stream_window: NonZeroU32,
    /// Octets that the request heads of one connection may hold in memory. Requests beyond it are
    /// refused: over HTTP/2 by a reset of their stream (REFUSED_STREAM), over HTTP/1.1 by 503.
    pub request_memory_per_connection: NonZeroUsize,
    /// Octets that the request heads of one client address (IPv6: one /64) may hold in memory, over
    /// all of its connections; each connection has 16 KiB besides.
    pub request_memory_per_client: NonZeroUsize,
    /// Idle connections kept to one endpoint by one worker.
    pub idle_connections_per_endpoint: NonZeroUsize,
    /// Connections in all to one endpoint by one worker; requests beyond it get 503.
    pub connections_per_endpoint: NonZeroUsize,
}

/// Limits in time.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutSettings {
    /// For a client's TLS handshake and PROXY protocol header.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub handshake: Duration,
    /// For a request's head, from its first octet on.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub request_head: Duration,
    /// How long a client's connection is kept without a request.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub client_idle: Duration,
    /// How long a body, either way, may stand still. WebSockets and HTTP/2 streams too.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stream_idle: Duration,
    /// How long a client may accept nothing of a backend's response that waits for it.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub client_read: Duration,
    /// How long a client may take to accept an answer of the gateway's own (404, a redirect, a page
    /// of the portal). After that its HTTP/2 stream is reset, or its HTTP/1.1 connection closed.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub local_reply: Duration,
    /// For a connection to a backend, TLS included.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub connect: Duration,
    /// From the request sent to a backend to the head of its response.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub response_head: Duration,
    /// How long an idle connection to a backend is kept.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub upstream_idle: Duration,
}

/// How the gateway stops after SIGTERM.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainSettings {
    /// How long connections are still accepted, while `/readyz` already says no: the time that
    /// load balancers need to notice.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub delay: Duration,
    /// How long requests under way may take after that.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub deadline: Duration,
}

/// The access log.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogSettings {
    /// How a line looks.
    pub format: AccessLogFormat,
    /// A file to append to; without it, standard output.
    pub file: Option<PathBuf>,
}

/// How a line of the access log looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// The "combined" format of Apache's and nginx' logs.
    Combined,
    /// No access log.
    None,
}

fn default_hostname() -> String {
    "{service}--{environment}.{zone}".to_owned()
}

fn yes() -> bool {
    true
}

const fn size(number: usize) -> NonZeroUsize {
    match NonZeroUsize::new(number) {
        Some(number) => number,
        None => NonZeroUsize::MIN,
    }
}

const fn count(number: u32) -> NonZeroU32 {
    match NonZeroU32::new(number) {
        Some(number) => number,
        None => NonZeroU32::MIN,
    }
}

// === impl HttpListenerSettings ===

impl Default for HttpListenerSettings {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 8080))),
            mode: PlainHttp::Redirect,
            redirect_port: 443,
        }
    }
}

impl Default for HttpsListenerSettings {
    fn default() -> Self {
        Self {
            address: Some(SocketAddr::from(([0, 0, 0, 0, 0, 0, 0, 0], 8443))),
            policy: TlsPolicy::Intermediate,
            hsts: Some(HstsSettings::default()),
        }
    }
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self { address: Some(SocketAddr::from(([127, 0, 0, 1], 9901))) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: size(20_000),
            connections_per_client: size(1_000),
            request_head_bytes: size(64 * 1024),
            request_headers: size(100),
            response_head_bytes: size(64 * 1024),
            http2_streams: count(250),
            http2_stream_window: count(256 * 1024),
            request_memory_per_connection: size(2 * 1024 * 1024),
            request_memory_per_client: size(16 * 1024 * 1024),
            idle_connections_per_endpoint: size(256),
            connections_per_endpoint: size(1_024),
        }
    }
}

impl Default for TimeoutSettings {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(10),
            request_head: Duration::from_secs(10),
            client_idle: Duration::from_secs(75),
            stream_idle: Duration::from_secs(300),
            client_read: Duration::from_secs(60),
            local_reply: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(30),
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { delay: Duration::from_secs(5), deadline: Duration::from_secs(30) }
    }
}

impl Default for AccessLogSettings {
    fn default() -> Self {
        Self { format: AccessLogFormat::Json, file: None }
    }
}
