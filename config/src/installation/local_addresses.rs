//! The addresses of this machine's network interfaces; in a pod, those of the pod.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// All local addresses of IPv4, as the kernel's routing trie.
const IPV4: &str = "/proc/net/fib_trie";
/// All local addresses of IPv6, one per line.
const IPV6: &str = "/proc/net/if_inet6";

/// The addresses of all interfaces except loopback and link-local ones, which have a class of their
/// own. A file that cannot be read adds none.
pub(super) fn local_addresses() -> BTreeSet<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let ipv4 = read(IPV4);
    let ipv6 = read(IPV6);
    let all = ipv4_addresses(&ipv4).map(IpAddr::V4).chain(ipv6_addresses(&ipv6).map(IpAddr::V6));
    all.filter(|address| crate::model::address::class(*address).is_none()).collect()
}

/// A leaf of the trie is `|-- 10.0.0.5`, followed by lines such as `/32 host LOCAL`.
fn ipv4_addresses(trie: &str) -> impl Iterator<Item = Ipv4Addr> {
    let lines = trie.lines().map(str::trim);
    lines
        .scan(None, |leaf: &mut Option<Ipv4Addr>, line| {
            if let Some(address) = line.strip_prefix("|-- ") {
                *leaf = address.parse().ok();
                return Some(None);
            }
            Some(leaf.filter(|_| line.starts_with("/32 host LOCAL")))
        })
        .flatten()
}

/// A line begins with 32 hexadecimal digits.
fn ipv6_addresses(table: &str) -> impl Iterator<Item = Ipv6Addr> {
    let first = table.lines().filter_map(|line| line.split_whitespace().next());
    first
        .filter(|digits| digits.len() == 32)
        .filter_map(|digits| u128::from_str_radix(digits, 16).ok())
        .map(Ipv6Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_addresses_are_read_from_the_trie() {
        let trie = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 0.0.0.0\n        /0 universe UNICAST\n     \
                    +-- 10.0.0.0/24 2 0 2\n        |-- 10.0.0.0\n           /24 link UNICAST\n        \
                    |-- 10.0.0.5\n           /32 host LOCAL\n        |-- 10.0.0.255\n           /32 \
                    link BROADCAST\n";
        assert_eq!(ipv4_addresses(trie).collect::<Vec<_>>(), [Ipv4Addr::new(10, 0, 0, 5)]);
    }

    #[test]
    fn local_addresses_are_read_from_the_table() {
        let table = "fd000000000000000000000000000002 04 40 00 82     eth0\nshort 1\n";
        let expected: Ipv6Addr = "fd00::2".parse().unwrap();
        assert_eq!(ipv6_addresses(table).collect::<Vec<_>>(), [expected]);
    }

    #[test]
    fn this_machine_has_no_loopback_address_in_the_list() {
        assert!(local_addresses().iter().all(|address| !address.is_loopback()));
    }
}
