//! DNS queries: the name of a record, its name servers, and whether they have it.

use std::fs;
use std::net::{IpAddr, SocketAddr};

use hickory_proto::op::Message;
use hickory_proto::rr::{Name, RData, Record, RecordType};

use super::DnsError;
use super::message::query;

/// The DNS port.
const PORT: u16 = 53;
/// The most CNAME records in a row.
const MAX_CNAMES: usize = 8;
/// The most name servers of a zone.
const MAX_SERVERS: usize = 16;

/// A client of recursive servers.
pub(super) struct Lookup {
    resolvers: Vec<SocketAddr>,
}

// === impl Lookup ===

impl Lookup {
    /// Creates a client of the `given` servers, else of the system's.
    pub(super) fn new(given: &[SocketAddr]) -> Self {
        if !given.is_empty() {
            return Self { resolvers: given.to_vec() };
        }
        Self { resolvers: resolvers(&fs::read_to_string("/etc/resolv.conf").unwrap_or_default()) }
    }

    /// The name at the end of a chain of CNAME records.
    pub(super) async fn resolve_cname(&self, mut name: Name) -> Result<Name, DnsError> {
        for _ in 0..MAX_CNAMES {
            let answer = self.query(&name, RecordType::CNAME).await?;
            let target = answer.answers.iter().find_map(|record| match &record.data {
                RData::CNAME(target) if record.name == name => Some(target.0.clone()),
                _ => None,
            });
            match target {
                Some(target) => name = target,
                None => return Ok(name),
            }
        }
        Err(DnsError::Unusable(format!("the chain of CNAME records is longer than {MAX_CNAMES}")))
    }

    /// The addresses of all name servers of the zone of `name`.
    pub(super) async fn nameservers(&self, name: &Name) -> Result<Vec<SocketAddr>, DnsError> {
        let mut zone = name.clone();
        let names: Vec<Name> = loop {
            let answer = self.query(&zone, RecordType::NS).await?;
            let names: Vec<Name> =
                answer.answers.iter().filter_map(|record| nameserver(record, &zone)).collect();
            if !names.is_empty() {
                break names;
            }
            if zone.num_labels() <= 1 {
                return Err(DnsError::NoZone(name.to_ascii()));
            }
            zone = zone.base_name();
        };
        let mut servers = Vec::new();
        for name in names.iter().take(MAX_SERVERS) {
            for kind in [RecordType::A, RecordType::AAAA] {
                let answer = self.query(name, kind).await?;
                servers.extend(
                    answer
                        .answers
                        .iter()
                        .filter_map(address)
                        .map(|address| SocketAddr::new(address, PORT)),
                );
            }
        }
        if servers.is_empty() { Err(DnsError::NoZone(name.to_ascii())) } else { Ok(servers) }
    }

    /// Queries the servers in order until one responds.
    async fn query(&self, name: &Name, kind: RecordType) -> Result<Message, DnsError> {
        let mut failure = DnsError::Unusable(
            "there is no recursive DNS server: set `acme.dns.resolvers`".to_owned(),
        );
        for resolver in &self.resolvers {
            match query(*resolver, name, kind, true).await {
                Ok(answer) => return Ok(answer),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Whether a server has a TXT record with this value; `false` if it does not respond.
pub(super) async fn has_txt(server: SocketAddr, owner: &Name, value: &str) -> bool {
    let Ok(answer) = query(server, owner, RecordType::TXT, false).await else { return false };
    answer.answers.iter().any(|record| match &record.data {
        RData::TXT(text) => record.name == *owner && text.txt_data.concat() == value.as_bytes(),
        _ => false,
    })
}

fn nameserver(record: &Record, zone: &Name) -> Option<Name> {
    match &record.data {
        RData::NS(server) if record.name == *zone => Some(server.0.clone()),
        _ => None,
    }
}

fn address(record: &Record) -> Option<IpAddr> {
    match &record.data {
        RData::A(address) => Some(IpAddr::V4(address.0)),
        RData::AAAA(address) => Some(IpAddr::V6(address.0)),
        _ => None,
    }
}

/// Parses the servers of a `resolv.conf`.
fn resolvers(text: &str) -> Vec<SocketAddr> {
    let server = |line: &str| {
        let mut words = line.split_whitespace();
        (words.next()? == "nameserver").then(|| words.next()?.parse::<IpAddr>().ok())?
    };
    text.lines().filter_map(server).map(|address| SocketAddr::new(address, PORT)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_of_a_resolv_conf_are_parsed() {
        let text = "# mine\nsearch example.com\nnameserver 192.0.2.1\nnameserver\t2001:db8::1 # \
                    the other\nnameserver here\noptions ndots:5\n";
        let expected: Vec<SocketAddr> =
            vec!["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse().unwrap()];
        assert_eq!(resolvers(text), expected);
    }
}
