//! Checks whether an ACME authority could reach the names to verify, as far as this machine can
//! tell, before a certificate is ordered.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::Settings;
use portcullis_config::settings::acme::{AcmeSettings, ChallengeKind};

/// The maximum number of names to resolve: a few reveal most mistakes.
const MAX_NAMES: usize = 5;
/// The maximum number of addresses to connect to.
const MAX_ADDRESSES: usize = 8;
/// Timeout for a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Returns why names in `ordered` could not be verified. `dns-01` needs no reachable gateway.
pub(super) fn unverifiable(settings: &Settings, ordered: &[HostPattern]) -> Vec<Problem> {
    let Some(acme) = &settings.acme else { return Vec::new() };
    let port = match acme.challenge {
        ChallengeKind::Dns01 => return Vec::new(),
        ChallengeKind::Http01 => 80,
        ChallengeKind::TlsAlpn01 => 443,
    };
    let exact = ordered.iter().filter_map(|name| match name {
        HostPattern::Exact(name) => Some(name.as_str()),
        HostPattern::Wildcard(_) => None,
    });
    let mut problems = Vec::new();
    let mut tried = BTreeSet::new();
    for name in exact.take(MAX_NAMES) {
        let Ok(addresses) = (name, port).to_socket_addrs() else {
            problems.push(unresolved(name));
            continue;
        };
        let addresses: Vec<SocketAddr> = addresses.collect();
        if uses_public_authorities(acme) && addresses.iter().all(|address| !is_public(address.ip()))
        {
            problems.push(not_public(name, &addresses));
            continue;
        }
        for address in addresses {
            if tried.len() < MAX_ADDRESSES && tried.insert(address) {
                problems.extend(closed(name, address, is_local));
            }
        }
    }
    problems
}

/// Whether all authorities are public: a private one is trusted through a root file.
fn uses_public_authorities(acme: &AcmeSettings) -> bool {
    acme.authorities.iter().all(|authority| authority.root_file.is_none())
}

fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified())
        }
        IpAddr::V6(address) => {
            !(address.is_unique_local()
                || address.is_loopback()
                || address.is_unicast_link_local()
                || address.is_unspecified())
        }
    }
}

/// Whether an address belongs to this machine: nothing listens there until the gateway starts.
fn is_local(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// Returns a problem if `address` accepts no connection.
fn closed(name: &str, address: SocketAddr, is_local: impl Fn(IpAddr) -> bool) -> Option<Problem> {
    let error = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT).err()?;
    if is_local(address.ip()) {
        return None;
    }
    let why = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "connection timed out".to_owned(),
        _ => error.to_string(),
    };
    Some(problem(
        "PortClosed",
        format!(
            "{name} resolves to {address}, which accepts no connection from here ({why}), so no \
             certificate would be issued for it"
        ),
        "forward that port to the gateway and open it in firewalls, or use `dns-01`; ignore this \
         if the gateway does not run yet",
    ))
}

fn unresolved(name: &str) -> Problem {
    problem(
        "NameUnresolved",
        format!("{name} does not resolve to an address, so no certificate would be issued for it"),
        "create a DNS record for the zone's names that points to the gateway, or use `dns-01`",
    )
}

fn not_public(name: &str, addresses: &[SocketAddr]) -> Problem {
    let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    problem(
        "NameNotPublic",
        format!(
            "{name} resolves to {}, which public authorities cannot reach",
            addresses.join(", ")
        ),
        "point the name to an address that is reachable from the Internet, or use `dns-01`",
    )
}

fn problem(reason: &'static str, message: String, help: &str) -> Problem {
    Problem {
        severity: Severity::Warning,
        reason,
        origin: Origin::default(),
        message,
        help: help.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::path::Path;

    use super::*;

    fn settings(acme: &str) -> Settings {
        let text = format!(
            "zone: apps.test\nsource: {{directory: .}}\nacme: {{store: {{folder: acme}}, \
             {acme}}}\n"
        );
        Settings::parse(Path::new("portcullis.yaml"), text.as_bytes()).expect("settings")
    }

    fn reasons(settings: &Settings, names: &[&str]) -> Vec<&'static str> {
        let names: Vec<HostPattern> =
            names.iter().map(|name| name.parse().expect("a name")).collect();
        unverifiable(settings, &names).iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn names_without_a_public_address_are_reported() {
        let settings = settings("challenge: http-01");
        assert_eq!(reasons(&settings, &["nothing.invalid"]), ["NameUnresolved"]);
        assert_eq!(reasons(&settings, &["localhost"]), ["NameNotPublic"]);
        assert_eq!(reasons(&settings, &["*.invalid"]), [""; 0]);
    }

    #[test]
    fn dns_01_needs_no_reachable_address() {
        let provider = "challenge: dns-01, dns: {provider: {exec: {command: [/bin/true]}}}";
        assert_eq!(reasons(&settings(provider), &["nothing.invalid"]), [""; 0]);
    }

    #[test]
    fn a_closed_port_is_reported_unless_the_address_is_local() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        assert_eq!(closed("a.test", address, |_| false), None);
        drop(listener);
        let problem = closed("a.test", address, |_| false).expect("it is closed");
        assert!(problem.message.contains(&address.to_string()), "{problem}");
        assert_eq!(closed("a.test", address, is_local), None);
    }

    #[test]
    fn addresses_of_private_networks_are_not_public() {
        let public = |address: &str| is_public(address.parse().expect("an address"));
        assert!(["203.0.113.1", "2001:db8::1"].into_iter().all(public));
        assert!(
            ![
                "10.0.0.1",
                "192.168.1.1",
                "127.0.0.1",
                "169.254.0.1",
                "::1",
                "fd00::1",
                "fe80::1",
                "::ffff:10.0.0.1"
            ]
            .into_iter()
            .any(public)
        );
    }
}
