//! The names that need certificates: a function of the snapshot and the settings, and of nothing
//! that a client sends.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use portcullis_config::model::vocabulary::PUBLIC_NAMES;
use portcullis_config::model::{HostPattern, Hostname, Origin};
use portcullis_config::problem::{Problem, Severity};
use portcullis_config::settings::acme::{AcmeSettings, ChallengeKind};
use portcullis_config::snapshot::access::Require;
use portcullis_config::snapshot::host::VirtualHost;
use portcullis_config::snapshot::{ListenerProtocol, Snapshot};

/// The names to order, and those that are not.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DesiredNames {
    /// The names, each with the Namespace that claims it; the gateway itself claims the zone's
    /// wildcard, for no Namespace.
    pub(crate) names: BTreeMap<HostPattern, Arc<str>>,
    /// The hosts that are served but get no certificate, by environment: their number and one
    /// example.
    pub(crate) left_out: BTreeMap<Arc<str>, (usize, HostPattern)>,
}

/// The names to order for the hosts of `snapshot` under `zone`, except those that certificates
/// `provided` by operators cover.
///
/// With `dns-01` the wildcard of the zone is always ordered, and covers most names. Any other name
/// appears in public certificate logs, so it is ordered only if all of its routes are open, or if
/// its Namespace declares its names public. The zone itself is in these logs anyway, so it needs no
/// such permission.
pub(crate) fn desired(
    snapshot: &Snapshot,
    zone: &str,
    acme: &AcmeSettings,
    provided: &[HostPattern],
) -> DesiredNames {
    let mut desired = DesiredNames::default();
    let mut covered: Covered = provided.iter().cloned().collect();
    let zone: Option<Hostname> = zone.parse().ok();
    let wildcards = acme.challenge == ChallengeKind::Dns01;
    if let Some(zone) = zone.clone().filter(|_| wildcards) {
        let wildcard = HostPattern::Wildcard(zone);
        if covered.insert(&wildcard) {
            desired.names.insert(wildcard, Arc::from(""));
        }
    }
    let listeners =
        snapshot.listeners.iter().filter(|listener| listener.protocol == ListenerProtocol::Https);
    for host in listeners.flat_map(|listener| listener.hosts.iter()) {
        let name = &host.pattern;
        if covered.has(name) {
            continue;
        }
        let is_zone =
            matches!((name, &zone), (HostPattern::Exact(name), Some(zone)) if name == zone);
        let can_be_validated = wildcards || matches!(name, HostPattern::Exact(_));
        if can_be_validated && (is_zone || is_public(host, snapshot)) {
            covered.insert(name);
            desired.names.insert(name.clone(), Arc::clone(&host.origin.namespace));
        } else {
            let left_out = desired
                .left_out
                .entry(Arc::clone(&host.environment))
                .or_insert_with(|| (0, name.clone()));
            left_out.0 += 1;
            // The first in alphabetical order, because hosts have none.
            left_out.1 = left_out.1.clone().min(name.clone());
        }
    }
    desired
}

fn is_public(host: &VirtualHost, snapshot: &Snapshot) -> bool {
    let open = !host.routes.is_empty()
        && host.routes.iter().all(|route| route.rule.policy.access.require == Require::Nothing);
    open || snapshot.public_names.contains(&host.origin.namespace)
}

/// The names that certificates cover. A lookup takes the same time for any number of them: a tenant
/// may claim thousands.
#[derive(Default)]
struct Covered {
    exact: HashSet<Hostname>,
    wildcard: HashSet<Hostname>,
}

// === impl Covered ===

impl Covered {
    /// Adds a name; returns whether it is new.
    fn insert(&mut self, name: &HostPattern) -> bool {
        match name {
            HostPattern::Exact(name) => self.exact.insert(name.clone()),
            HostPattern::Wildcard(parent) => self.wildcard.insert(parent.clone()),
        }
    }

    /// Whether one of the names [`covers`] `name`.
    fn has(&self, name: &HostPattern) -> bool {
        match name {
            HostPattern::Wildcard(parent) => self.wildcard.contains(parent),
            HostPattern::Exact(name) => {
                let parent = name.as_str().split_once('.').map(|(_, parent)| parent);
                self.exact.contains(name)
                    || parent.is_some_and(|parent| self.wildcard.contains(parent))
            }
        }
    }
}

impl FromIterator<HostPattern> for Covered {
    fn from_iter<I: IntoIterator<Item = HostPattern>>(names: I) -> Self {
        let mut covered = Self::default();
        for name in names {
            covered.insert(&name);
        }
        covered
    }
}

/// Whether a certificate for `one` covers `other`: a wildcard matches exactly one label (RFC 9525
/// §6.3).
pub(crate) fn covers(one: &HostPattern, other: &HostPattern) -> bool {
    match (one, other) {
        (HostPattern::Wildcard(parent), HostPattern::Exact(name)) => {
            name.as_str().split_once('.').is_some_and(|(_, rest)| rest == parent.as_str())
        }
        (one, other) => one == other,
    }
}

// === impl DesiredNames ===

impl DesiredNames {
    /// The problems to report for hosts that get no certificate.
    pub(crate) fn problems(&self, challenge: ChallengeKind) -> Vec<Problem> {
        let instead = match challenge {
            ChallengeKind::Dns01 => "use hostnames of one label",
            _ => "order a wildcard by `dns-01`",
        };
        let problem =
            |(environment, (hosts, example)): (&Arc<str>, &(usize, HostPattern))| Problem {
                severity: Severity::Warning,
                reason: "CertificateNotOrdered",
                origin: Origin::default(),
                message: match hosts {
                    1 => format!(
                        "no certificate is ordered for {example} in the environment `{environment}`"
                    ),
                    hosts => format!(
                        "no certificate is ordered for {hosts} hosts of the environment \
                     `{environment}`, such as {example}"
                    ),
                },
                help: format!(
                    "it would name a restricted environment in public logs: {instead}, or annotate \
                 its Namespace with `{PUBLIC_NAMES}`"
                ),
            };
        self.left_out.iter().map(problem).collect()
    }
}

#[cfg(test)]
#[path = "desired_tests.rs"]
mod tests;
