//! Binding: binds every address before anything starts, and reports all failures together.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Duration;

use portcullis_config::settings::Settings;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};

/// Length of the accept queue of one worker; the kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// How long a client connection is idle before the kernel sends keepalive probes.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The addresses that a gateway listens on. A configured port 0 is replaced by the assigned port.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Addresses {
    /// Plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub http: Option<SocketAddr>,
    /// HTTPS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub https: Option<SocketAddr>,
    /// The listener for probes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probes: Option<SocketAddr>,
    /// The listener for metrics.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub telemetry: Option<SocketAddr>,
    /// The admin listener.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
}

/// Why an address could not be bound.
#[derive(Debug)]
pub struct BindError {
    /// The setting that names the address.
    pub setting: &'static str,
    /// The address.
    pub address: SocketAddr,
    /// The operating system's error.
    pub error: io::Error,
}

/// The sockets of the probe, metrics and admin listeners.
#[derive(Debug, Default)]
pub(crate) struct ControlSockets {
    pub(crate) probes: Option<std::net::TcpListener>,
    pub(crate) telemetry: Option<std::net::TcpListener>,
    pub(crate) admin: Option<std::net::TcpListener>,
}

/// The sockets of one worker.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) http: Option<TcpListener>,
    pub(crate) https: Option<TcpListener>,
}

/// All sockets of a gateway, listening.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) addresses: Addresses,
    pub(crate) workers: Vec<Sockets>,
    pub(crate) admin: ControlSockets,
}

/// Binds all listeners in `settings` for `workers` workers.
///
/// # Errors
/// Every address that could not be bound; nothing stays bound then.
pub(crate) fn bind(settings: &Settings, workers: usize) -> Result<Bound, Vec<BindError>> {
    let mut errors = Vec::new();
    let mut bound = |setting, address: Option<SocketAddr>, count| {
        let address = address?;
        bind_all(address, count)
            .map_err(|error| errors.push(BindError { setting, address, error }))
            .ok()
    };
    let http = bound("listeners.http.address", settings.listeners.http.address, workers);
    let https = bound("listeners.https.address", settings.listeners.https.address, workers);
    let probes = bound("probes.address", settings.probes.address, 1);
    let telemetry = bound("telemetry.address", settings.telemetry.address, 1);
    let admin = bound("admin.address", settings.admin.address, 1);
    if !errors.is_empty() {
        return Err(errors);
    }
    let (http_address, http) = http.unzip();
    let (https_address, https) = https.unzip();
    let (probes_address, probes) = probes.unzip();
    let (telemetry_address, telemetry) = telemetry.unzip();
    let (admin_address, admin) = admin.unzip();
    let (mut http, mut https) = (http.into_iter().flatten(), https.into_iter().flatten());
    let only = |sockets: Option<Vec<TcpListener>>| sockets.into_iter().flatten().next();
    Ok(Bound {
        addresses: Addresses {
            http: http_address,
            https: https_address,
            probes: probes_address,
            telemetry: telemetry_address,
            admin: admin_address,
        },
        workers: (0..workers).map(|_| Sockets { http: http.next(), https: https.next() }).collect(),
        admin: ControlSockets {
            probes: only(probes),
            telemetry: only(telemetry),
            admin: only(admin),
        },
    })
}

/// Opens `count` listening sockets on one address; the kernel distributes connections among them
/// (`SO_REUSEPORT`).
fn bind_all(address: SocketAddr, count: usize) -> io::Result<(SocketAddr, Vec<TcpListener>)> {
    let address = usable(address)?;
    // SO_REUSEPORT would let a second gateway of the same user share the port silently, and each
    // would receive a part of the connections. A socket without it fails to bind if anything
    // listens there.
    drop(socket(address, false)?);
    let first = socket(address, true)?;
    let local = first.local_addr()?;
    let mut sockets = vec![first];
    for _ in 1..count {
        sockets.push(socket(local, true)?);
    }
    for socket in &sockets {
        SockRef::from(socket).listen(BACKLOG)?;
    }
    Ok((local, sockets))
}

/// Replaces `[::]` with `0.0.0.0` on a host without IPv6.
fn usable(address: SocketAddr) -> io::Result<SocketAddr> {
    let without_ipv6 = address.is_ipv6() && Socket::new(Domain::IPV6, Type::STREAM, None).is_err();
    if without_ipv6 && address.ip().is_unspecified() {
        tracing::warn!(%address, "IPv6 is not available, listening on IPv4 only");
        return Ok(SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())));
    }
    Ok(address)
}

/// Binds a socket. Accepted connections inherit its options (Linux), which saves system calls.
fn socket(address: SocketAddr, shared: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(
        &TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4),
    )?;
    socket.bind(&SockAddr::from(address))?;
    Ok(socket.into())
}

// === impl BindError ===

impl BindError {
    /// Returns how to fix it, in one sentence.
    #[must_use]
    pub fn help(&self) -> String {
        match self.error.kind() {
            io::ErrorKind::AddrInUse => {
                format!(
                    "stop the process that listens there, or set `{}` to another address",
                    self.setting
                )
            }
            io::ErrorKind::PermissionDenied => {
                format!(
                    "set `{}` to a port from 1024 on, or grant the process CAP_NET_BIND_SERVICE",
                    self.setting
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                format!("set `{}` to an address of this host", self.setting)
            }
            _ => format!("set `{}` to an address that can be listened on", self.setting),
        }
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: cannot listen on {}: {}", self.setting, self.address, self.error)
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(http: &str, https: Option<SocketAddr>) -> Settings {
        let settings = serde_json::json!({
            "zone": "example.com",
            "source": { "directory": "." },
            "listeners": { "http": { "address": http }, "https": { "address": https } },
            "probes": { "address": null },
            "telemetry": { "address": null },
            "admin": { "address": null },
        });
        serde_json::from_value(settings).expect("settings")
    }

    #[test]
    fn all_workers_share_the_assigned_port() {
        let bound = bind(&settings("127.0.0.1:0", None), 3).expect("bound");
        let address = bound.addresses.http.expect("an address");
        assert_ne!(address.port(), 0);
        let addresses: Vec<_> = bound
            .workers
            .iter()
            .filter_map(|sockets| sockets.http.as_ref()?.local_addr().ok())
            .collect();
        assert_eq!(addresses, [address; 3]);
        assert_eq!(bound.addresses.https, None);
    }

    #[test]
    fn all_addresses_in_use_are_reported_together() {
        let first = bind(&settings("127.0.0.1:0", Some(SocketAddr::from(([127, 0, 0, 1], 0)))), 2)
            .expect("bound");
        let taken =
            settings(&first.addresses.http.expect("an address").to_string(), first.addresses.https);
        let errors = bind(&taken, 2).expect_err("both are in use");
        let settings: Vec<_> = errors.iter().map(|error| error.setting).collect();
        assert_eq!(settings, ["listeners.http.address", "listeners.https.address"]);
        assert!(errors.iter().all(|error| error.error.kind() == io::ErrorKind::AddrInUse));
    }

    #[test]
    fn the_unspecified_ipv6_address_accepts_ipv4() {
        let bound = bind(&settings("[::]:0", None), 1).expect("bound");
        let port = bound.addresses.http.expect("an address").port();
        std::net::TcpStream::connect(("127.0.0.1", port)).expect("connected");
    }
}
