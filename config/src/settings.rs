//! The configuration file: settings of a gateway, as opposed to the resources that it reads.
//!
//! Every field except `zone` and `source` has a default. `docs/configuration.md` and
//! `docs/configuration.schema.json` are generated from these types; a test compares them.

pub mod access;
pub mod acme;
mod check;
pub mod cors;
pub mod endpoints;
pub mod environments;
mod files;
pub mod hostname;
mod read;
pub mod reference;
pub mod telemetry;
pub mod tls;

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::duration;

pub use self::acme::AcmeSettings;
pub use self::check::issuer_problems;
pub use self::endpoints::EndpointSettings;
pub use self::environments::EnvironmentSettings;
pub use self::read::{MAX_FILE_BYTES, MAX_PROBLEMS};
pub use self::telemetry::{ProbeSettings, TelemetrySettings};
pub use self::tls::{HstsSettings, TlsPolicy};

/// The configuration of `portcullis gateway`.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The DNS domain that the gateway serves, such as `apps.example.com`. One wildcard DNS
    /// record points it at the gateway.
    pub zone: String,
    /// The template of hostnames of services in environments. `{service}`, `{environment}` and
    /// `{zone}` are replaced.
    #[serde(default = "default_hostname")]
    pub hostname: String,
    /// The environment whose services are `{service}.{zone}`, without the name of the environment.
    #[serde(default)]
    pub default_environment: Option<String>,
    /// The source of resources.
    pub source: SourceSettings,
    /// The environments that this gateway serves.
    #[serde(default)]
    pub environments: EnvironmentSettings,
    /// The listeners for clients.
    #[serde(default)]
    pub listeners: ListenerSettings,
    /// The listener for the kubelet's probes.
    #[serde(default)]
    pub probes: ProbeSettings,
    /// The listener for metrics.
    #[serde(default)]
    pub telemetry: TelemetrySettings,
    /// The listener for live routes, explanations and admin commands, on loopback only.
    #[serde(default)]
    pub admin: AdminSettings,
    /// Certificates to serve.
    #[serde(default)]
    pub certificates: Vec<CertificateSettings>,
    /// Certificates that the gateway orders, for names that `certificates` do not cover; without
    /// it, none.
    #[serde(default)]
    pub acme: Option<AcmeSettings>,
    /// Networks whose `X-Forwarded-*`, `Forwarded`, `X-Request-Id` and trace headers are trusted
    /// and appended to; from all others they are replaced.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub trusted_networks: Vec<IpNet>,
    /// Whether a `Forwarded` header (RFC 7239) is sent to backends besides the `X-Forwarded-*`
    /// ones.
    #[serde(default)]
    pub forwarded_header: bool,
    /// Whether responses of services with variants name the one that answered, in
    /// `X-Portcullis-Variant`.
    #[serde(default)]
    pub variant_header: bool,
    /// Which header of trusted networks describes the client: its address, scheme and host. The
    /// proxies must set or extend this one, and the other one has no effect.
    #[serde(default)]
    pub trusted_header: TrustedHeader,
    /// How callers are authenticated.
    #[serde(default)]
    pub access: access::AccessSettings,
    /// The addresses that EndpointSlices may have.
    #[serde(default)]
    pub endpoints: EndpointSettings,
    /// Which web pages of other origins may call services.
    #[serde(default)]
    pub cors: cors::CorsSettings,
    /// Connections to backends.
    #[serde(default)]
    pub upstreams: UpstreamSettings,
    /// Limits on numbers and sizes.
    #[serde(default)]
    pub limits: Limits,
    /// Timeouts.
    #[serde(default)]
    pub timeouts: TimeoutSettings,
    /// How the gateway stops.
    #[serde(default)]
    pub drain: DrainSettings,
    /// The access log.
    #[serde(default)]
    pub access_log: AccessLogSettings,
    /// The number of worker threads; the default is the number of CPUs available to the process.
    #[serde(default)]
    pub workers: Option<NonZeroUsize>,
}

/// The source of resources: one of the two.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum SourceSettings {
    /// A Kubernetes API server.
    Kubernetes(KubernetesSettings),
    /// A folder of manifests, as for `kubectl apply -f`; reloaded when it changes.
    Directory(PathBuf),
}

/// Access to the Kubernetes API server.
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
    /// Whether problems are reported as Events on the resources.
    #[serde(default = "yes")]
    pub events: bool,
}

/// The listeners for clients.
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

/// Which header of trusted networks describes the client.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TrustedHeader {
    /// `X-Forwarded-For`, `-Proto`, `-Host` and `-Port`, else `X-Real-IP`.
    #[default]
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The listener for plain HTTP.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpListenerSettings {
    /// The address; `null` for no such listener.
    pub address: Option<SocketAddr>,
    /// How plain HTTP is handled.
    pub mode: PlainHttp,
    /// The public port of HTTPS, for redirects; it differs from the listener's where ports are
    /// mapped in front of the gateway.
    pub redirect_port: u16,
    /// Further public ports of HTTP, such as those of nodes, each with that of HTTPS. A request
    /// whose `Host` has a port that is not listed is redirected to `redirectPort`.
    pub redirect_ports: Vec<RedirectPorts>,
}

/// The public ports of clients that share a way to the gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RedirectPorts {
    /// That of HTTP.
    pub http: NonZeroU16,
    /// That of HTTPS.
    pub https: NonZeroU16,
}

/// How plain HTTP is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum PlainHttp {
    /// Every request is redirected to HTTPS (308), whatever its host.
    Redirect,
    /// Served like HTTPS.
    Serve,
}

/// The listener for HTTPS.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct HttpsListenerSettings {
    /// The address; `null` for no such listener.
    pub address: Option<SocketAddr>,
    /// The TLS versions and cipher suites that are accepted.
    pub policy: TlsPolicy,
    /// `Strict-Transport-Security` on every response over TLS, whatever the host; it replaces that
    /// of backends. With `null` none is added, and that of backends is kept.
    pub hsts: Option<HstsSettings>,
}

/// The admin listener.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AdminSettings {
    /// The address, which must be a loopback address; `null` for no such listener. It exposes every
    /// hostname and accepts commands: reach it by `kubectl exec` or `kubectl port-forward`.
    pub address: Option<SocketAddr>,
}

/// One certificate: files, or a Secret of type `kubernetes.io/tls`.
#[derive(
    Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize, JsonSchema,
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub enum CertificateSettings {
    /// PEM files, reloaded when they change.
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

/// Connections to backends.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UpstreamSettings {
    /// A PEM file with the authorities that certificates of pods with `appProtocol: https` are
    /// verified against; without it, such pods are not reachable.
    pub certificate_authorities: Option<PathBuf>,
    /// How long a pod that is new in its Service gets fewer requests than the others, up to `1h`;
    /// `0s` for no such slow start.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub slow_start: Duration,
    /// The topology zone of the gateway, for EndpointSlices with hints and Services with a
    /// `trafficDistribution`; without it, that of the variable `POD_ZONE`.
    pub zone: Option<String>,
    /// The node of the gateway; without it, that of the variable `NODE_NAME`.
    pub node: Option<String>,
}

/// Limits on numbers and sizes.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Limits {
    /// Connections from clients, for all listeners and workers together.
    pub connections: NonZeroUsize,
    /// Connections from one client address (IPv6: one /64).
    pub connections_per_client: NonZeroUsize,
    /// Bytes of the request line and headers.
    pub request_head_bytes: NonZeroUsize,
    /// Header fields of a request, at most 10,000; `Cookie` counts as one, in any number of pieces.
    pub request_headers: NonZeroUsize,
    /// Bytes of the status line and headers of a backend's response.
    pub response_head_bytes: NonZeroUsize,
    /// Concurrent streams of one HTTP/2 connection.
    pub http2_streams: NonZeroU32,
    /// The flow-control window of an HTTP/2 stream from a client, in bytes.
    pub http2_stream_window: NonZeroU32,
    /// Bytes of memory for the request heads of one connection. Requests beyond it are rejected:
    /// over HTTP/2 by a stream reset (REFUSED_STREAM), over HTTP/1.1 by 503.
    pub request_memory_per_connection: NonZeroUsize,
    /// Bytes of memory for the request heads of one client address (IPv6: one /64), for all of its
    /// connections together; each connection has 16 KiB in addition.
    pub request_memory_per_client: NonZeroUsize,
    /// Bytes of a request that are read and discarded after an early response, before the connection
    /// is closed or the HTTP/2 stream reset: many clients read the response only when they have sent
    /// everything.
    pub unread_body_bytes: NonZeroUsize,
    /// Idle connections of one worker to one endpoint.
    pub idle_connections_per_endpoint: NonZeroUsize,
    /// Requests of one worker in flight to one endpoint, and so its connections; those beyond it
    /// wait. Over HTTP/2, what the endpoint allows in 8 connections.
    pub connections_per_endpoint: NonZeroUsize,
    /// Requests of one worker that wait, for `timeouts.connect`, because all endpoints of their
    /// service are full; those beyond it get 503.
    pub waiting_per_service: NonZeroUsize,
    /// Copies of requests to shadows that are in flight from one worker. Half of them may be of one
    /// Namespace, and a quarter of one service; requests beyond it are not copied.
    pub shadows: NonZeroUsize,
    /// Bytes of memory for copies of requests on one worker, in the same shares.
    pub shadow_memory: NonZeroUsize,
    /// Bytes of a shadow's response that are read, before its connection is closed or the HTTP/2
    /// stream reset.
    pub shadow_response_bytes: NonZeroUsize,
    /// Bytes of memory to count the clients of all rate limits. A Namespace gets at most as much as
    /// it leaves to others; its limits then count further clients together.
    pub rate_limit_memory: NonZeroUsize,
}

/// Timeouts.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct TimeoutSettings {
    /// Timeout of a client's TLS handshake and PROXY protocol header.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub handshake: Duration,
    /// Timeout of a request's head, from its first byte.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub request_head: Duration,
    /// How long a client's connection may be idle between requests.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub client_idle: Duration,
    /// How long a body may be idle in either direction, also of a WebSocket or an HTTP/2 stream;
    /// `portcullis.dev/idle-timeout` of a Service replaces it, else a longer
    /// `portcullis.dev/timeout`.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub stream_idle: Duration,
    /// How long a client may read nothing of a pending response of a backend.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub client_read: Duration,
    /// How long a client may take to read a response of the gateway itself (404, a redirect, a page
    /// of the portal). After that its HTTP/2 stream is reset, or its HTTP/1.1 connection closed.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub local_reply: Duration,
    /// How long the rest of a request is read and discarded after an early response, before the
    /// connection is closed or the HTTP/2 stream reset.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub unread_body: Duration,
    /// Timeout of connecting to a backend, including TLS, and of waiting for one of its endpoints
    /// if all are full; `portcullis.dev/connect-timeout` of a Service replaces it.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub connect: Duration,
    /// Timeout from the request sent to a backend to the head of its response;
    /// `portcullis.dev/first-byte-timeout` of a Service replaces it, else `portcullis.dev/timeout`.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub response_head: Duration,
    /// How long an idle connection to a backend is kept open.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub upstream_idle: Duration,
    /// How long a copy of a request to a shadow may take, from connecting to the end of the
    /// response.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub shadow: Duration,
}

/// How the gateway stops after SIGTERM.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DrainSettings {
    /// How long connections are accepted while `/readyz` already fails: the time that load
    /// balancers need to notice.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub delay: Duration,
    /// How long requests in flight may take after that.
    #[serde(with = "duration")]
    #[schemars(with = "duration::Text")]
    pub deadline: Duration,
}

/// The access log.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AccessLogSettings {
    /// The format of a line.
    pub format: AccessLogFormat,
    /// A file to append to; without it, standard output.
    pub file: Option<PathBuf>,
}

/// The format of a line of the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum AccessLogFormat {
    /// One JSON object.
    Json,
    /// The "combined" format of Apache and nginx.
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
            redirect_ports: Vec::new(),
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

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self {
            certificate_authorities: None,
            slow_start: Duration::from_secs(30),
            zone: None,
            node: None,
        }
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
            unread_body_bytes: size(128 * 1024 * 1024),
            idle_connections_per_endpoint: size(256),
            connections_per_endpoint: size(1_024),
            waiting_per_service: size(1_024),
            shadows: size(256),
            shadow_memory: size(16 * 1024 * 1024),
            shadow_response_bytes: size(1024 * 1024),
            rate_limit_memory: size(64 * 1024 * 1024),
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
            unread_body: Duration::from_secs(10),
            connect: Duration::from_secs(5),
            response_head: Duration::from_secs(60),
            upstream_idle: Duration::from_secs(30),
            shadow: Duration::from_secs(10),
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
