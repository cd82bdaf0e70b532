//! Validation of settings beyond what the types express.

mod access;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::{
    CertificateSettings, Settings, SourceSettings, acme, endpoints, environments, telemetry, tls,
};
use crate::model::{Hostname, check_label};
use crate::problem::Problem;
use crate::settings::hostname::InvalidTemplate;

/// Receives the keys that lead to a value, what is wrong with it, and how to fix it.
pub(super) type ErrorSink<'a> = dyn FnMut(&[&str], String, String) + 'a;

/// The marker of certificates in a PEM file.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// The most header fields of a request: the map of fields has a limit of its own, which includes the
/// fields that the gateway adds.
const MAX_HEADERS: usize = 10_000;
/// The largest window of an HTTP/2 stream (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The longest slow start: an endpoint that is new for longer is only loaded less.
const MAX_SLOW_START: Duration = Duration::from_secs(3_600);

/// Validates everything that does not depend on other files.
pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    names(settings, report);
    listeners(settings, report);
    telemetry::validate(settings, report);
    tls::validate(settings, report);
    secrets(settings, report);
    limits(settings, report);
    timeouts(settings, report);
    upstreams(settings, report);
    access::validate(settings, report);
    endpoints::validate(settings, report);
    environments::validate(settings, report);
    acme::check::validate(settings, report);
}

pub use self::access::issuer_problems;

impl Settings {
    /// Settings that are valid, but are probably not what was intended.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        access::warnings(self).chain(endpoints::warnings(self)).collect()
    }
}

fn names(settings: &Settings, report: &mut ErrorSink<'_>) {
    for wrong in InvalidTemplate::all(settings) {
        report(&[wrong.key()], wrong.to_string(), wrong.help().to_owned());
    }
}

fn listeners(settings: &Settings, report: &mut ErrorSink<'_>) {
    let listeners = &settings.listeners;
    let addresses: [(&[&str], Option<SocketAddr>); 5] = [
        (&["listeners", "http", "address"], listeners.http.address),
        (&["listeners", "https", "address"], listeners.https.address),
        (&["probes", "address"], settings.probes.address),
        (&["telemetry", "address"], settings.telemetry.address),
        (&["admin", "address"], settings.admin.address),
    ];
    for (index, (keys, address)) in addresses.iter().enumerate() {
        for (other_keys, other) in addresses.iter().take(index) {
            if let (Some(address), Some(other)) = (address, other)
                && clash(*address, *other)
            {
                let message = format!("{address} is taken by `{}`", other_keys.join("."));
                report(keys, message, "give each listener its own address".to_owned());
            }
        }
    }
    if listeners.http.address.is_none() && listeners.https.address.is_none() {
        report(
            &["listeners"],
            "there is no listener for clients".to_owned(),
            "set `listeners.https.address` or `listeners.http.address`".to_owned(),
        );
    }
    if listeners.http.redirect_port == 0 {
        report(
            &["listeners", "http", "redirectPort"],
            "0 is not a port".to_owned(),
            "write the public port of HTTPS".to_owned(),
        );
    }
}

/// Whether two listeners cannot bind both addresses. Port 0 is any free port.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// Whether `all` is an unspecified address that includes `one`; `[::]` includes IPv4.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

fn secrets(settings: &Settings, report: &mut ErrorSink<'_>) {
    for (index, certificate) in settings.certificates.iter().enumerate() {
        let CertificateSettings::Secret { namespace, name } = certificate else { continue };
        let index = index.to_string();
        // In Kubernetes names of Namespaces are labels, those of Secrets are subdomains (RFC 1123).
        if let Err(error) = check_label(namespace) {
            let help = "write the name of a Namespace".to_owned();
            report(
                &["certificates", &index, "secret", "namespace"],
                format!("no Namespace can have this name: it {error}"),
                help,
            );
        }
        if let Err(error) = name.parse::<Hostname>() {
            let help = "write the name of a Secret".to_owned();
            report(
                &["certificates", &index, "secret", "name"],
                format!("no Secret can have this name: it {error}"),
                help,
            );
        }
    }
}

fn limits(settings: &Settings, report: &mut ErrorSink<'_>) {
    let limits = &settings.limits;
    if limits.http2_stream_window.get() > MAX_WINDOW {
        let message = format!("{} is more than HTTP/2 allows", limits.http2_stream_window);
        report(&["limits", "http2StreamWindow"], message, format!("write at most {MAX_WINDOW}"));
    }
    if limits.request_headers.get() > MAX_HEADERS {
        let message = format!("a request cannot have {} header fields", limits.request_headers);
        report(&["limits", "requestHeaders"], message, format!("write at most {MAX_HEADERS}"));
    }
    let head = limits.request_head_bytes.get();
    for (name, memory) in [
        ("requestMemoryPerConnection", limits.request_memory_per_connection),
        ("requestMemoryPerClient", limits.request_memory_per_client),
    ] {
        if memory.get() < head.saturating_mul(2) {
            report(
                &["limits", name],
                "it is too small for a request head of `requestHeadBytes`".to_owned(),
                format!("write at least {}, which is twice that", head.saturating_mul(2)),
            );
        }
    }
    if limits.idle_connections_per_endpoint > limits.connections_per_endpoint {
        report(
            &["limits", "idleConnectionsPerEndpoint"],
            "more connections may be idle than are allowed".to_owned(),
            format!(
                "write at most {}, which is `connectionsPerEndpoint`",
                limits.connections_per_endpoint
            ),
        );
    }
}

fn timeouts(settings: &Settings, report: &mut ErrorSink<'_>) {
    let timeouts = &settings.timeouts;
    let all = [
        ("handshake", timeouts.handshake),
        ("requestHead", timeouts.request_head),
        ("clientIdle", timeouts.client_idle),
        ("streamIdle", timeouts.stream_idle),
        ("clientRead", timeouts.client_read),
        ("localReply", timeouts.local_reply),
        ("unreadBody", timeouts.unread_body),
        ("connect", timeouts.connect),
        ("responseHead", timeouts.response_head),
        ("upstreamIdle", timeouts.upstream_idle),
        ("shadow", timeouts.shadow),
    ];
    for (name, timeout) in all {
        if timeout.is_zero() {
            report(
                &["timeouts", name],
                "a timeout must be longer than zero".to_owned(),
                "write a duration such as `5s`".to_owned(),
            );
        }
    }
}

fn upstreams(settings: &Settings, report: &mut ErrorSink<'_>) {
    if settings.upstreams.slow_start > MAX_SLOW_START {
        report(
            &["upstreams", "slowStart"],
            "a slow start of more than an hour is not allowed".to_owned(),
            "write a duration such as `30s`".to_owned(),
        );
    }
}

/// Validates the files that the settings refer to.
pub(super) fn files(settings: &Settings, report: &mut ErrorSink<'_>) {
    match &settings.source {
        SourceSettings::Directory(path) => {
            if let Err(error) = fs::read_dir(path) {
                report(
                    &["source", "directory"],
                    format!("the folder {} cannot be read: {error}", path.display()),
                    "name a folder that can be read".to_owned(),
                );
            }
        }
        SourceSettings::Kubernetes(kubernetes) => {
            if let Some(path) = &kubernetes.kubeconfig {
                readable(path, &["source", "kubernetes", "kubeconfig"], report);
            }
        }
    }
    for (index, certificate) in settings.certificates.iter().enumerate() {
        if let CertificateSettings::Files { certificate, key } = certificate {
            let index = index.to_string();
            contains(
                certificate,
                CERTIFICATE,
                &["certificates", &index, "files", "certificate"],
                report,
            );
            contains(key, "PRIVATE KEY-----", &["certificates", &index, "files", "key"], report);
        }
    }
    acme::check::files(settings, report);
    telemetry::files(settings, report);
    if let Some(path) = &settings.upstreams.certificate_authorities {
        contains(path, CERTIFICATE, &["upstreams", "certificateAuthorities"], report);
    }
    if let Some(folder) = settings.access_log.file.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        report(
            &["accessLog", "file"],
            format!("there is no folder {}", folder.display()),
            "create it, or name another file".to_owned(),
        );
    }
    access::files(settings, report);
}

pub(super) fn readable(path: &Path, keys: &[&str], report: &mut ErrorSink<'_>) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            report(
                keys,
                format!("{} cannot be read: {error}", path.display()),
                "name a file that can be read".to_owned(),
            );
            None
        }
    }
}

/// Checks that a PEM file contains `mark`. Whether certificate and key match, and are valid now, is
/// checked where they are served.
pub(super) fn contains(path: &Path, mark: &str, keys: &[&str], report: &mut ErrorSink<'_>) {
    let Some(bytes) = readable(path, keys, report) else { return };
    if !String::from_utf8_lossy(&bytes).contains(mark) {
        report(
            keys,
            format!("{} has no line with `{mark}`", path.display()),
            "name a file in PEM format".to_owned(),
        );
    }
}

/// Checks that a file with a secret is not empty. Its content is not reported.
pub(super) fn secret(path: &Path, keys: &[&str], report: &mut ErrorSink<'_>) {
    if readable(path, keys, report).is_some_and(|bytes| bytes.trim_ascii().is_empty()) {
        report(
            keys,
            format!("{} is empty", path.display()),
            "name a file with the secret in it".to_owned(),
        );
    }
}
