//! How orders went, told to the owners of the Services that they are for: by the leader alone, once
//! for each order that failed, and once more when one succeeds after that.

use std::collections::BTreeSet;

use portcullis_config::model::Origin;
use portcullis_config::snapshot::{ListenerProtocol, Snapshot};
use portcullis_config::status::Notice;

use super::leader::Leader;
use super::state::Trouble;

/// The most owners that are told of one order.
const MAX_TOLD: usize = 20;

// === impl Leader ===

impl Leader<'_> {
    /// No certificate was issued.
    pub(super) fn tell_failure(&self, certificate: &str, trouble: &Trouble) {
        let Trouble { failures, error, .. } = trouble;
        let note = |names: &str| {
            format!("no certificate was issued for {names}, {failures} times in a row: {error}")
        };
        self.tell(certificate, true, "CertificateOrderFailed", note);
    }

    /// A certificate was issued after all.
    pub(super) fn tell_success(&self, certificate: &str, before: &Trouble) {
        let note = |names: &str| {
            format!("a certificate was issued for {names}, after {} failures", before.failures)
        };
        self.tell(certificate, false, "CertificateIssued", note);
    }

    fn tell(
        &self,
        certificate: &str,
        warns: bool,
        reason: &'static str,
        note: impl Fn(&str) -> String,
    ) {
        let Some(record) = self.state.certificates.get(certificate) else { return };
        for (origin, names) in owners(&self.acme.live().snapshot.load(), &record.names) {
            let note = note(&names.join(", "));
            self.acme.store().tell(Notice {
                warns,
                reason,
                action: "OrderCertificate",
                origin,
                note,
            });
        }
    }
}

/// The resources that claim `names`, with those that each claims; the store itself where none does,
/// as with the zone's wildcard.
fn owners<'n>(snapshot: &Snapshot, names: &'n BTreeSet<String>) -> Vec<(Origin, Vec<&'n str>)> {
    let listeners: Vec<_> = snapshot
        .listeners
        .iter()
        .filter(|listener| listener.protocol == ListenerProtocol::Https)
        .collect();
    let mut owners: Vec<(Origin, Vec<&str>)> = Vec::new();
    for name in names {
        let pattern = name.parse().ok();
        let host = pattern
            .and_then(|pattern| listeners.iter().find_map(|listener| listener.hosts.get(&pattern)));
        let origin = host.map(|host| host.origin.clone()).unwrap_or_default();
        if let Some((_, names)) = owners.iter_mut().find(|(owner, _)| *owner == origin) {
            names.push(name);
        } else if owners.len() < MAX_TOLD {
            owners.push((origin, vec![name]));
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_config::snapshot::Listener;
    use portcullis_config::snapshot::host::{HostTable, VirtualHost};

    use super::*;

    fn service(name: &str) -> Origin {
        Origin { kind: "Service", namespace: "shop".into(), name: name.into(), place: None }
    }

    fn snapshot(hosts: &[(&str, &str)]) -> Snapshot {
        let mut table = HostTable::default();
        for (name, owner) in hosts {
            let pattern = name.parse().expect("a name");
            table.insert(Arc::new(VirtualHost {
                pattern,
                environment: "shop".into(),
                origin: service(owner),
                routes: Vec::new(),
            }));
        }
        let listener = Listener {
            name: "https".into(),
            protocol: ListenerProtocol::Https,
            hostname: None,
            hosts: Arc::new(table),
        };
        Snapshot { listeners: vec![listener], ..Snapshot::default() }
    }

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_owner_is_told_of_its_own_names() {
        let snapshot =
            snapshot(&[("a.test", "a"), ("aa.test", "a"), ("b.test", "b"), ("c.test", "c")]);
        let names = names(&["a.test", "aa.test", "b.test"]);
        assert_eq!(
            owners(&snapshot, &names),
            [(service("a"), vec!["a.test", "aa.test"]), (service("b"), vec!["b.test"])]
        );
    }

    #[test]
    fn a_wildcard_that_no_service_claims_is_told_on_the_store() {
        assert_eq!(
            owners(&snapshot(&[("a.test", "a")]), &names(&["*.test"])),
            [(Origin::default(), vec!["*.test"])]
        );
    }

    #[test]
    fn not_all_of_many_owners_are_told() {
        let many: Vec<String> = (0..100).map(|number| format!("s{number}.test")).collect();
        let hosts: Vec<(&str, &str)> = many.iter().map(|name| (&**name, &**name)).collect();
        assert_eq!(owners(&snapshot(&hosts), &many.iter().cloned().collect()).len(), MAX_TOLD);
    }
}
