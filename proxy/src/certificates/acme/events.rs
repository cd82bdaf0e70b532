//! Events about orders, for the owners of the Services that need the certificates: the leader
//! reports each failed order, and the first success after failures.

use std::collections::BTreeSet;

use portcullis_config::model::Origin;
use portcullis_config::snapshot::{ListenerProtocol, Snapshot};
use portcullis_config::status::Notice;

use super::leader::Leader;
use super::state::Failure;

/// The most owners that get events about one order.
const MAX_OWNERS: usize = 20;

// === impl Leader ===

impl Leader<'_> {
    /// Reports a failed order.
    pub(super) fn report_failure(&self, certificate: &str, failure: &Failure) {
        let (times, error) = (failure.times(), &failure.error);
        let note = |names: &str| format!("no certificate was issued for {names}, {times}: {error}");
        self.report(certificate, true, "CertificateOrderFailed", note);
    }

    /// Reports a successful order after failures.
    pub(super) fn report_success(&self, certificate: &str, before: &Failure) {
        let note = |names: &str| {
            format!("a certificate was issued for {names}; before, it failed {}", before.times())
        };
        self.report(certificate, false, "CertificateIssued", note);
    }

    fn report(
        &self,
        certificate: &str,
        warns: bool,
        reason: &'static str,
        note: impl Fn(&str) -> String,
    ) {
        let Some(record) = self.record(certificate) else { return };
        for (origin, names) in owners(&self.acme.live().snapshot.load(), &record.names) {
            let note = note(&names.join(", "));
            self.acme.store().report(Notice {
                warns,
                reason,
                action: "OrderCertificate",
                origin,
                note,
            });
        }
    }
}

/// The resources that claim `names`, each with its own; the store itself for a name without one,
/// such as the zone's wildcard.
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
        } else if owners.len() < MAX_OWNERS {
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
        let host = |(name, owner): &(&str, &str)| VirtualHost {
            pattern: name.parse().expect("a name"),
            environment: "shop".into(),
            origin: service(owner),
            routes: Arc::default(),
        };
        let table: HostTable = hosts.iter().map(host).map(Arc::new).collect();
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
    fn each_owner_gets_its_own_names() {
        let snapshot =
            snapshot(&[("a.test", "a"), ("aa.test", "a"), ("b.test", "b"), ("c.test", "c")]);
        let names = names(&["a.test", "aa.test", "b.test"]);
        assert_eq!(
            owners(&snapshot, &names),
            [(service("a"), vec!["a.test", "aa.test"]), (service("b"), vec!["b.test"])]
        );
    }

    #[test]
    fn an_unclaimed_wildcard_is_reported_on_the_store() {
        assert_eq!(
            owners(&snapshot(&[("a.test", "a")]), &names(&["*.test"])),
            [(Origin::default(), vec!["*.test"])]
        );
    }

    #[test]
    fn the_number_of_owners_is_bounded() {
        let many: Vec<String> = (0..100).map(|number| format!("s{number}.test")).collect();
        let hosts: Vec<(&str, &str)> = many.iter().map(|name| (&**name, &**name)).collect();
        assert_eq!(owners(&snapshot(&hosts), &many.iter().cloned().collect()).len(), MAX_OWNERS);
    }
}
