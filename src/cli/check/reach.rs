//! Whether an authority could reach the names that are to be proven, as far as that can be seen
//! from here, before anything is ordered.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use portcullis_config::model::{HostPattern, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::Settings;
use portcullis_config::settings::acme::{AcmeSettings, ChallengeKind};

/// Only so many names are looked up, and so many of their addresses called: a few answers tell of
/// most mistakes.
const NAMES: usize = 5;
const ADDRESSES: usize = 8;
/// How long an address may take to accept a connection.
const CALL: Duration = Duration::from_secs(2);

/// Why the names that are `ordered` could not be proven. With `dns-01` nothing has to be reached.
pub(super) fn unprovable(settings: &Settings, ordered: &[HostPattern]) -> Vec<Problem> {
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
    let mut called = BTreeSet::new();
    for name in exact.take(NAMES) {
        let Ok(addresses) = (name, port).to_socket_addrs() else {
            problems.push(unresolved(name));
            continue;
        };
        let addresses: Vec<SocketAddr> = addresses.collect();
        if is_asked_by_the_internet(acme)
            && addresses.iter().all(|address| !is_public(address.ip()))
        {
            problems.push(not_public(name, &addresses));
            continue;
        }
        for address in addresses {
            if called.len() < ADDRESSES && called.insert(address) {
                problems.extend(closed(name, address, is_ours));
            }
        }
    }
    problems
}

/// Whether an authority of the Internet is asked: one of the company's own is trusted by a file.
fn is_asked_by_the_internet(acme: &AcmeSettings) -> bool {
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

/// Whether an address is one of this machine: then nothing listens there before the gateway is
/// started.
fn is_ours(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

/// What is wrong where nobody accepts a connection.
fn closed(name: &str, address: SocketAddr, is_ours: impl Fn(IpAddr) -> bool) -> Option<Problem> {
    let error = TcpStream::connect_timeout(&address, CALL).err()?;
    if is_ours(address.ip()) {
        return None;
    }
    let why = match error.kind() {
        io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => "nobody answers".to_owned(),
        _ => error.to_string(),
    };
    Some(problem(
        "PortClosed",
        format!(
            "{name} leads to {address}, where no connection is had from here ({why}), so that no \
             certificate would be issued for it"
        ),
        "let that port lead to the gateway, past any firewall, or prove names by `dns-01`; before \
         the gateway runs there it may be as it should",
    ))
}

fn unresolved(name: &str) -> Problem {
    problem(
        "NameUnresolved",
        format!("no address of {name} is found, so that no certificate would be issued for it"),
        "make a DNS record for the zone's names that points to the gateway, or prove names by \
         `dns-01`",
    )
}

fn not_public(name: &str, addresses: &[SocketAddr]) -> Problem {
    let addresses: Vec<String> = addresses.iter().map(|address| address.ip().to_string()).collect();
    problem(
        "NameNotPublic",
        format!(
            "{name} leads to {}, where no authority of the Internet can look",
            addresses.join(", ")
        ),
        "point the name to an address that can be reached from the Internet, or prove names by \
         `dns-01`",
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
        unprovable(settings, &names).iter().map(|problem| problem.reason).collect()
    }

    #[test]
    fn a_name_without_an_address_or_with_one_that_nobody_can_reach_is_told() {
        let settings = settings("challenge: http-01");
        assert_eq!(reasons(&settings, &["nothing.invalid"]), ["NameUnresolved"]);
        assert_eq!(reasons(&settings, &["localhost"]), ["NameNotPublic"]);
        assert_eq!(reasons(&settings, &["*.invalid"]), [""; 0]);
    }

    #[test]
    fn with_dns_01_nothing_has_to_be_reached() {
        let provider = "challenge: dns-01, dns: {provider: {exec: {command: [/bin/true]}}}";
        assert_eq!(reasons(&settings(provider), &["nothing.invalid"]), [""; 0]);
    }

    #[test]
    fn a_closed_port_is_told_unless_the_gateway_itself_will_open_it() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        assert_eq!(closed("a.test", address, |_| false), None);
        drop(listener);
        let told = closed("a.test", address, |_| false).expect("it is closed");
        assert!(told.message.contains(&address.to_string()), "{told}");
        assert_eq!(closed("a.test", address, is_ours), None);
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
