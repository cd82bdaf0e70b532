//! The names that a certificate is used for: of one in a tenant's Secret, those of hosts of the same
//! Namespace. Whoever may write that Secret must not replace the certificate of another's host, or
//! of the zone.

use std::collections::{BTreeSet, HashMap};

use portcullis_config::model::HostPattern;
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::snapshot::Snapshot;

use super::acme::desired::covers;
use super::check::Checked;

/// The hosts of each Namespace whose certificates are limited to them.
#[derive(Debug, Default)]
pub(super) struct Scopes<'s> {
    hosts: HashMap<&'s str, BTreeSet<&'s HostPattern>>,
}

// === impl Scopes ===

impl<'s> Scopes<'s> {
    pub(super) fn new(snapshot: &'s Snapshot) -> Self {
        let mut hosts: HashMap<&str, BTreeSet<&HostPattern>> =
            snapshot.tenants.iter().map(|namespace| (&**namespace, BTreeSet::new())).collect();
        if !hosts.is_empty() {
            let all = snapshot.listeners.iter().flat_map(|listener| listener.hosts.iter());
            for host in all {
                if let Some(hosts) = hosts.get_mut(&*host.origin.namespace) {
                    hosts.insert(&host.pattern);
                }
            }
        }
        Self { hosts }
    }

    /// Whether a certificate is limited to some hosts. A manifest in a folder is the operator's.
    pub(super) fn limits(&self, certificate: &Checked) -> bool {
        self.of(certificate).is_some()
    }

    /// The names that a certificate is used for.
    pub(super) fn names(&self, certificate: &Checked) -> Vec<HostPattern> {
        let Some(hosts) = self.of(certificate) else { return certificate.names.clone() };
        let is_covered =
            |host: &&&HostPattern| certificate.names.iter().any(|name| covers(name, host));
        hosts.iter().filter(is_covered).map(|host| (*host).clone()).collect()
    }

    /// That a certificate is used for no name.
    pub(super) fn problem(&self, certificate: &Checked) -> Option<Problem> {
        let is_used = !self.limits(certificate) || !self.names(certificate).is_empty();
        (!is_used).then(|| Problem {
            severity: Severity::Error,
            reason: "CertificateNotUsed",
            origin: certificate.origin.clone(),
            message: "none of its names is a hostname of a Service of its Namespace, which is an \
                      environment"
                .to_owned(),
            help:
                "expose a Service under one of its names; a certificate for other hostnames must \
                   be in a Namespace that is no environment"
                    .to_owned(),
        })
    }

    fn of(&self, certificate: &Checked) -> Option<&BTreeSet<&'s HostPattern>> {
        let origin = &certificate.origin;
        self.hosts.get(&*origin.namespace).filter(|_| origin.place.is_none())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_config::live::Live;
    use portcullis_config::model::Origin;
    use portcullis_config::snapshot::host::{HostTable, VirtualHost};
    use portcullis_config::snapshot::{Listener, ListenerProtocol};
    use portcullis_config::store::StoreState;
    use rustls::SignatureScheme;

    use super::*;
    use crate::certificates::Certificates;
    use crate::certificates::check::check;
    use crate::certificates::testing::{certificate, now};

    fn snapshot(tenants: &[&str], hosts: &[(&str, &str)]) -> Snapshot {
        let host = |(namespace, pattern): &(&str, &str)| VirtualHost {
            pattern: pattern.parse().expect("a pattern"),
            environment: "dev".into(),
            origin: Origin {
                kind: "Service",
                namespace: (*namespace).into(),
                name: "web".into(),
                place: None,
            },
            routes: Arc::default(),
        };
        let table: HostTable = hosts.iter().map(host).map(Arc::new).collect();
        let listener = Listener {
            name: Listener::HTTPS.into(),
            protocol: ListenerProtocol::Https,
            hostname: None,
            hosts: Arc::new(table),
        };
        let tenants = tenants.iter().map(|name| (*name).into()).collect();
        Snapshot { listeners: vec![listener], tenants, ..Snapshot::default() }
    }

    fn names(snapshot: &Snapshot, of: &[&str]) -> Vec<String> {
        // Its Secret is in the Namespace `gateway`.
        let checked = check(&certificate("one", of), now()).expect("usable");
        let scopes = Scopes::new(snapshot);
        assert_eq!(scopes.problem(&checked).is_some(), scopes.names(&checked).is_empty());
        scopes.names(&checked).iter().map(ToString::to_string).collect()
    }

    const NAMES: [&str; 3] = ["*.apps.test", "login.apps.test", "shop.test"];
    const HOSTS: [(&str, &str); 3] =
        [("gateway", "web.apps.test"), ("gateway", "shop.test"), ("other", "bank.apps.test")];

    #[test]
    fn a_tenant_s_certificate_is_used_for_hosts_of_its_namespace_alone() {
        assert_eq!(names(&snapshot(&["gateway"], &HOSTS), &NAMES), ["shop.test", "web.apps.test"]);
        assert_eq!(names(&snapshot(&["gateway"], &[]), &NAMES), [""; 0]);
        let wildcard = [("gateway", "*.shop.test"), ("gateway", "shop.test")];
        assert_eq!(names(&snapshot(&["gateway"], &wildcard), &["*.shop.test"]), ["*.shop.test"]);
    }

    #[test]
    fn a_tenant_s_certificate_follows_the_hosts_of_its_namespace() {
        let certificates = Certificates::new().expect("a placeholder");
        let (live, one) = (Live::default(), certificate("one", &NAMES));
        let is_served = |hosts: &[(&str, &str)], name: &str| {
            let snapshot =
                Snapshot { certificates: vec![one.clone()], ..snapshot(&["gateway"], hosts) };
            live.publish(Arc::new(snapshot), Vec::new());
            certificates.update(&live, &StoreState::default(), now());
            let schemes = [SignatureScheme::ECDSA_NISTP256_SHA256];
            let found = certificates.table.load().find(Some(name), &schemes);
            !Arc::ptr_eq(&found, &certificates.placeholder)
        };
        assert!(!is_served(&[], "shop.test"));
        assert!(is_served(&HOSTS, "shop.test") && is_served(&HOSTS, "web.apps.test"));
        assert!(!is_served(&HOSTS, "bank.apps.test") && !is_served(&HOSTS, "login.apps.test"));
        assert!(!is_served(&[], "shop.test"), "it is no host any more");
        let provided = certificates.provided_names();
        assert!(provided.is_empty(), "the zone's wildcard is ordered: {provided:?}");
        let reasons: Vec<_> = certificates.problems().iter().map(|one| one.reason).collect();
        assert_eq!(reasons, ["CertificateNotUsed"]);
    }

    #[test]
    fn an_operator_s_certificate_is_used_for_all_of_its_names() {
        assert_eq!(names(&snapshot(&[], &HOSTS), &NAMES), NAMES);
        assert_eq!(names(&snapshot(&["other"], &HOSTS), &NAMES), NAMES);
    }
}
