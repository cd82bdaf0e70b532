//! Classes of IP addresses, independent of how an address is written.
//!
//! IPv6 has many ways to embed an IPv4 address, and a translator, a tunnel or the kernel resolves
//! them: an address that must not be reached in one form must not be reached in another.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Classes of addresses that no pod has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressClass {
    /// `::` and `0.0.0.0/8` (RFC 1122 §3.2.1.3); Linux connects `0.0.0.0` to the machine itself.
    Unspecified,
    /// `ff00::/8` and `224.0.0.0/4`.
    Multicast,
    /// `255.255.255.255`.
    Broadcast,
    /// Metadata services of clouds, which serve the credentials of machines.
    Metadata,
    /// `::1` and `127.0.0.0/8`.
    Loopback,
    /// `fe80::/10` and `169.254.0.0/16`.
    LinkLocal,
}

/// Metadata and platform services of clouds: AWS, GCP, Azure, OpenStack and most others; ECS task
/// credentials; EKS pod identities; Alibaba; Azure's platform; Oracle's older ones.
const METADATA_IPV4: [Ipv4Addr; 6] = [
    Ipv4Addr::new(169, 254, 169, 254),
    Ipv4Addr::new(169, 254, 170, 2),
    Ipv4Addr::new(169, 254, 170, 23),
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// Metadata services by IPv6: GCP, Oracle, Scaleway, OpenStack.
const METADATA_IPV6: [Ipv6Addr; 4] = [
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xc1, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
    Ipv6Addr::new(0xfd00, 0x42, 0, 0, 0, 0, 0, 0x42),
    Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0xa9fe, 0xa9fe),
];

/// The class of `address`, or of an IPv4 address that it embeds; `None` where a pod may have it.
#[must_use]
pub fn class(address: IpAddr) -> Option<AddressClass> {
    readings(address).find_map(|address| match address {
        IpAddr::V4(address) => ipv4_class(address),
        IpAddr::V6(address) => ipv6_class(address),
    })
}

/// All addresses that a packet to `address` can reach: itself, and each IPv4 address that it
/// embeds. An IPv4-mapped address (RFC 4291 §2.5.5.2) is only that IPv4 address.
pub fn readings(address: IpAddr) -> impl Iterator<Item = IpAddr> {
    let address = address.to_canonical();
    let embedded = match address {
        IpAddr::V4(_) => [None; 4],
        IpAddr::V6(address) => embedded(address),
    };
    // `0.0.0.0/8` has no hosts: such an address is in another form, or is `::1`.
    let embedded = embedded.into_iter().flatten().filter(|address| address.octets()[0] != 0);
    std::iter::once(address).chain(embedded.map(IpAddr::V4))
}

/// The IPv4 addresses in an IPv6 address. A network's own NAT64 prefix cannot be recognized.
fn embedded(address: Ipv6Addr) -> [Option<Ipv4Addr>; 4] {
    let ipv4 = |a: u8, b: u8, c: u8, d: u8| Some(Ipv4Addr::new(a, b, c, d));
    let [.., o4, o5, o6, o7, _, o9, o10, o11, o12, o13, o14, o15] = address.octets();
    let last = ipv4(o12, o13, o14, o15);
    match address.segments() {
        // IPv4-compatible (RFC 4291 §2.5.5.1), IPv4-translated (RFC 2765 §2.1), and NAT64's
        // well-known prefix (RFC 6052 §2.1).
        [0, 0, 0, 0, 0, 0, _, _]
        | [0, 0, 0, 0, 0xffff, 0, _, _]
        | [0x64, 0xff9b, 0, 0, 0, 0, _, _] => [last, None, None, None],
        // NAT64's local-use prefix (RFC 8215), in each length that fits (RFC 6052 §2.2).
        [0x64, 0xff9b, 1, ..] => {
            [last, ipv4(o6, o7, o9, o10), ipv4(o7, o9, o10, o11), ipv4(o9, o10, o11, o12)]
        }
        // 6to4 (RFC 3056 §2).
        [0x2002, high, low, ..] => {
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            [ipv4(a, b, c, d), None, None, None]
        }
        // Teredo (RFC 4380 §4): the server, and the client with all bits inverted.
        [0x2001, 0, ..] => [ipv4(o4, o5, o6, o7), ipv4(!o12, !o13, !o14, !o15), None, None],
        // ISATAP (RFC 5214 §6.1).
        [_, _, _, _, 0 | 0x200, 0x5efe, _, _] => [last, None, None, None],
        _ => [None; 4],
    }
}

fn ipv4_class(address: Ipv4Addr) -> Option<AddressClass> {
    match address.octets() {
        [0, ..] => Some(AddressClass::Unspecified),
        _ if address.is_multicast() => Some(AddressClass::Multicast),
        _ if address.is_broadcast() => Some(AddressClass::Broadcast),
        _ if METADATA_IPV4.contains(&address) => Some(AddressClass::Metadata),
        _ if address.is_loopback() => Some(AddressClass::Loopback),
        _ if address.is_link_local() => Some(AddressClass::LinkLocal),
        _ => None,
    }
}

fn ipv6_class(address: Ipv6Addr) -> Option<AddressClass> {
    match address.segments() {
        _ if address.is_unspecified() => Some(AddressClass::Unspecified),
        _ if address.is_multicast() => Some(AddressClass::Multicast),
        // AWS reserves all of fd00:ec2::/32 for services of the instance.
        [0xfd00, 0xec2, ..] => Some(AddressClass::Metadata),
        _ if METADATA_IPV6.contains(&address) => Some(AddressClass::Metadata),
        _ if address.is_loopback() => Some(AddressClass::Loopback),
        _ if address.is_unicast_link_local() => Some(AddressClass::LinkLocal),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
