//! Addresses that the name of a mirror must not lead to: pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where clouds have the metadata and the credentials of a machine, outside of the link-local ranges.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Whether no name of a mirror leads to an address: it is the machine itself, its link, a group, or
/// the metadata service of a cloud.
pub(super) fn is_forbidden(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(address) => is_forbidden_v4(address),
        IpAddr::V6(address) => {
            let [first, second, third, _, _, _, high, low] = address.segments();
            let embedded = match (first, second) {
                // RFC 4291 2.5.5: compatible with and mapped to IPv4; RFC 6052: translated to it.
                (0, 0) | (0x64, 0xff9b) => Some(of_segments(high, low)),
                // RFC 3056: routed to it.
                (0x2002, _) => Some(of_segments(second, third)),
                _ => None,
            };
            address.is_loopback()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_unicast_link_local()
                || embedded.is_some_and(|embedded| is_forbidden(embedded.into()))
        }
    }
}

fn of_segments(high: u16, low: u16) -> Ipv4Addr {
    Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low))
}

fn is_forbidden_v4(address: Ipv4Addr) -> bool {
    let [first, ..] = address.octets();
    // `0.0.0.0/8` is this machine, 240.0.0.0/4 is reserved and has the broadcast address.
    first == 0
        || first >= 240
        || address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_its_link_and_metadata_are_forbidden() {
        for forbidden in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "::",
            "::1",
            "fe80::1",
            "febf::1",
            "ff02::1",
            "fd00:ec2::254",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:100.100.100.200",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::127.0.0.1",
            "2002:7f00:1::",
            "2002:a9fe:a9fe::1",
        ] {
            assert!(is_forbidden(forbidden.parse().unwrap()), "{forbidden}");
        }
        for allowed in [
            "192.0.2.7",
            "10.0.0.1",
            "192.168.0.1",
            "100.100.100.201",
            "223.255.255.255",
            "2001:db8::1",
            "fd00::1",
            "64:ff9b::192.0.2.7",
            "::ffff:192.0.2.7",
            "2002:c000:207::1",
        ] {
            assert!(!is_forbidden(allowed.parse().unwrap()), "{allowed}");
        }
    }
}
