//! What types cannot say about settings.

mod access;

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::{CertificateSettings, Settings, SourceSettings, acme, telemetry, tls};
use crate::model::{Hostname, check_label};
use crate::problem::Problem;
use crate::settings::hostname::InvalidTemplate;

/// Takes the keys that lead to a value, what is wrong with it, and how to mend it.
pub(super) type Complain<'a> = dyn FnMut(&[&str], String, String) + 'a;

/// What stands in a PEM file with certificates.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// The largest window of an HTTP/2 stream (RFC 9113 §6.9.1).
const MAX_WINDOW: u32 = (1 << 31) - 1;

/// Checks all that needs no look at other files.
pub(super) fn meaning(settings: &Settings, complain: &mut Complain<'_>) {
    names(settings, complain);
    listeners(settings, complain);
    telemetry::meaning(settings, complain);
    tls::meaning(settings, complain);
    secrets(settings, complain);
    limits(settings, complain);
    timeouts(settings, complain);
    access::meaning(settings, complain);
    acme::check::meaning(settings, complain);
}

impl Settings {
    /// What is in effect, but is probably not what was meant.
    #[must_use]
    pub fn warnings(&self) -> Vec<Problem> {
        access::warnings(self).collect()
    }
}

fn names(settings: &Settings, complain: &mut Complain<'_>) {
    for wrong in InvalidTemplate::all(settings) {
        complain(&[wrong.key()], wrong.to_string(), wrong.help().to_owned());
    }
}

fn listeners(settings: &Settings, complain: &mut Complain<'_>) {
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
                complain(keys, message, "give each listener an address of its own".to_owned());
            }
        }
    }
    if listeners.http.address.is_none() && listeners.https.address.is_none() {
        complain(
            &["listeners"],
            "there is no listener for clients".to_owned(),
            "give `listeners.https.address` or `listeners.http.address`".to_owned(),
        );
    }
    if listeners.http.redirect_port == 0 {
        complain(
            &["listeners", "http", "redirectPort"],
            "0 is no port to redirect to".to_owned(),
            "write the port of HTTPS as clients see it".to_owned(),
        );
    }
}

/// Whether two listeners cannot both have their address. Port 0 is a free port.
fn clash(a: SocketAddr, b: SocketAddr) -> bool {
    a.port() == b.port()
        && a.port() != 0
        && (a.ip() == b.ip() || covers(a.ip(), b.ip()) || covers(b.ip(), a.ip()))
}

/// Whether all addresses of a machine, where `all` stands for them, have `one` among them: `[::]`
/// takes IPv4 too.
fn covers(all: IpAddr, one: IpAddr) -> bool {
    all.is_unspecified() && (all.is_ipv6() || one.is_ipv4())
}

fn secrets(settings: &Settings, complain: &mut Complain<'_>) {
    for (index, certificate) in settings.certificates.iter().enumerate() {
        let CertificateSettings::Secret { namespace, name } = certificate else { continue };
        let index = index.to_string();
        // Kubernetes' names of Namespaces are labels, those of Secrets are subdomains (RFC 1123).
        if let Err(error) = check_label(namespace) {
            let help = "write the name of a Namespace".to_owned();
            complain(
                &["certificates", &index, "secret", "namespace"],
                format!("no Namespace can have this name: it {error}"),
                help,
            );
        }
        if let Err(error) = name.parse::<Hostname>() {
            let help = "write the name of a Secret".to_owned();
            complain(
                &["certificates", &index, "secret", "name"],
                format!("no Secret can have this name: it {error}"),
                help,
            );
        }
    }
}

fn limits(settings: &Settings, complain: &mut Complain<'_>) {
    let limits = &settings.limits;
    if limits.http2_stream_window.get() > MAX_WINDOW {
        let message = format!("{} is more than HTTP/2 can say", limits.http2_stream_window);
        complain(&["limits", "http2StreamWindow"], message, format!("write at most {MAX_WINDOW}"));
    }
    let head = limits.request_head_bytes.get();
    for (name, memory) in [
        ("requestMemoryPerConnection", limits.request_memory_per_connection),
        ("requestMemoryPerClient", limits.request_memory_per_client),
    ] {
        if memory.get() < head.saturating_mul(2) {
            complain(
                &["limits", name],
                "a request's head may be as large as `requestHeadBytes`, and would not fit"
                    .to_owned(),
                format!("write at least {}, which is twice that", head.saturating_mul(2)),
            );
        }
    }
    if limits.idle_connections_per_endpoint > limits.connections_per_endpoint {
        complain(
            &["limits", "idleConnectionsPerEndpoint"],
            "more connections are kept idle than may exist".to_owned(),
            format!(
                "write at most {}, which is `connectionsPerEndpoint`",
                limits.connections_per_endpoint
            ),
        );
    }
}

fn timeouts(settings: &Settings, complain: &mut Complain<'_>) {
    let timeouts = &settings.timeouts;
    let all = [
        ("handshake", timeouts.handshake),
        ("requestHead", timeouts.request_head),
        ("clientIdle", timeouts.client_idle),
        ("streamIdle", timeouts.stream_idle),
        ("clientRead", timeouts.client_read),
        ("localReply", timeouts.local_reply),
        ("connect", timeouts.connect),
        ("responseHead", timeouts.response_head),
        ("upstreamIdle", timeouts.upstream_idle),
    ];
    for (name, timeout) in all {
        if timeout.is_zero() {
            complain(
                &["timeouts", name],
                "nothing can be done in no time".to_owned(),
                "write a duration such as `5s`".to_owned(),
            );
        }
    }
}

/// Checks the files that the settings name.
pub(super) fn files(settings: &Settings, complain: &mut Complain<'_>) {
    match &settings.source {
        SourceSettings::Directory(path) => {
            if let Err(error) = fs::read_dir(path) {
                complain(
                    &["source", "directory"],
                    format!("the folder {} cannot be read: {error}", path.display()),
                    "name a folder that can be read".to_owned(),
                );
            }
        }
        SourceSettings::Kubernetes(kubernetes) => {
            if let Some(path) = &kubernetes.kubeconfig {
                readable(path, &["source", "kubernetes", "kubeconfig"], complain);
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
                complain,
            );
            contains(key, "PRIVATE KEY-----", &["certificates", &index, "files", "key"], complain);
        }
    }
    acme::check::files(settings, complain);
    telemetry::files(settings, complain);
    if let Some(path) = &settings.upstreams.certificate_authorities {
        contains(path, CERTIFICATE, &["upstreams", "certificateAuthorities"], complain);
    }
    if let Some(folder) = settings.access_log.file.as_deref().and_then(Path::parent)
        && !folder.as_os_str().is_empty()
        && !folder.is_dir()
    {
        complain(
            &["accessLog", "file"],
            format!("there is no folder {}", folder.display()),
            "create it, or name another file".to_owned(),
        );
    }
    access::files(settings, complain);
}

pub(super) fn readable(path: &Path, keys: &[&str], complain: &mut Complain<'_>) -> Option<Vec<u8>> {
    match fs::read(path) {
        Ok(bytes) => Some(bytes),
        Err(error) => {
            complain(
                keys,
                format!("{} cannot be read: {error}", path.display()),
                "name a file that can be read".to_owned(),
            );
            None
        }
    }
}

/// Whether certificate and key belong together, and are valid now, is checked where they are
/// served.
pub(super) fn contains(path: &Path, mark: &str, keys: &[&str], complain: &mut Complain<'_>) {
    let Some(bytes) = readable(path, keys, complain) else { return };
    if !String::from_utf8_lossy(&bytes).contains(mark) {
        complain(
            keys,
            format!("{} has no line with `{mark}`", path.display()),
            "name a file in PEM format".to_owned(),
        );
    }
}

/// Whether it is a file with something in it; what, is not told.
pub(super) fn secret(path: &Path, keys: &[&str], complain: &mut Complain<'_>) {
    if readable(path, keys, complain).is_some_and(|bytes| bytes.trim_ascii().is_empty()) {
        complain(
            keys,
            format!("{} is empty", path.display()),
            "name a file with the secret in it".to_owned(),
        );
    }
}
