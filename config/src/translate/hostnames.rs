//! The hostnames that Services claim, and which Service gets each.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::annotations::{MAX_REPORTED, Reader, excerpt};
use crate::model::vocabulary::HOSTNAMES;
use crate::model::{HostPattern, Hostname, InvalidHostname, NamespacedName, check_label};
use crate::problem::Problem;
use crate::resources::Service;
use crate::settings::hostname::HostnameTemplate;
use crate::snapshot::host::{HostTable, VirtualHost};
use crate::snapshot::rule::Route;

/// The error for a hostname that the template generates for another environment.
const FOREIGN: &str = "is a name of another environment";

/// The hostnames that a Service claims.
#[derive(Debug, Default)]
pub(super) struct Hostnames {
    /// The one from the template.
    template: Option<HostPattern>,
    /// Those of its annotation.
    additional: BTreeSet<HostPattern>,
}

/// The claim of a Service to its hostnames.
pub(super) struct Claim<'a> {
    pub(super) service: &'a Service,
    pub(super) environment: Arc<str>,
    pub(super) hostnames: Hostnames,
    pub(super) routes: Arc<[Route]>,
}

/// A hostname that a Service does not get.
struct Lost<'c> {
    pattern: &'c HostPattern,
    owner: &'c Claim<'c>,
    /// Whether the owner is older.
    by_age: bool,
}

/// Assigns hostnames to Services, and reports the conflicts.
///
/// Of several Services the oldest gets a hostname. But one that the template yields for a Service
/// belongs to the Namespace of that Service: no older Service of another gets it by annotation,
/// because the age of a Service says nothing of that of its annotation.
pub(super) fn resolve_conflicts(
    mut claims: Vec<Claim<'_>>,
    problems: &mut Vec<Problem>,
) -> HostTable {
    // The sort is stable, and Services are in the order of namespace and name.
    claims.sort_by_key(|claim| claim.service.created);
    let mut claimants: BTreeMap<&HostPattern, Vec<&Claim<'_>>> = BTreeMap::new();
    for claim in &claims {
        for pattern in claim.hostnames.iter() {
            claimants.entry(pattern).or_default().push(claim);
        }
    }
    let mut lost: BTreeMap<NamespacedName, (&Claim<'_>, Vec<Lost<'_>>)> = BTreeMap::new();
    let mut hosts = Vec::new();
    for (pattern, claimants) in claimants {
        let Some((position, owner)) = owner(pattern, &claimants) else { continue };
        hosts.push(Arc::new(owner.host(pattern)));
        for (other, claim) in claimants.iter().enumerate().filter(|(other, _)| *other != position) {
            let key = claim.service.key();
            let (_, lost) = lost.entry(key).or_insert_with(|| (*claim, Vec::new()));
            lost.push(Lost { pattern, owner, by_age: position < other });
        }
    }
    lost.values().for_each(|(claim, lost)| claim.report(lost, problems));
    hosts.into_iter().collect()
}

/// Which of the Services that claim a hostname, the oldest first, gets it.
fn owner<'c>(pattern: &HostPattern, claimants: &[&'c Claim<'c>]) -> Option<(usize, &'c Claim<'c>)> {
    let is_template = |claim: &&&Claim<'_>| claim.hostnames.template.as_ref() == Some(pattern);
    let home = claimants.iter().find(is_template).map(|claim| &claim.service.origin.namespace);
    let is_home =
        |claim: &Claim<'_>| home.is_none_or(|home| claim.service.origin.namespace == *home);
    let mut all = claimants.iter().copied().enumerate();
    all.find(|(_, claim)| is_home(claim))
}

// === impl Claim ===

impl Claim<'_> {
    fn host(&self, pattern: &HostPattern) -> VirtualHost {
        VirtualHost {
            pattern: pattern.clone(),
            environment: self.environment.clone(),
            origin: self.service.origin.clone(),
            routes: self.routes.clone(),
        }
    }

    /// Reports hostnames that other Services have.
    fn report(&self, lost: &[Lost<'_>], problems: &mut Vec<Problem>) {
        let mut reader = Reader::of(self.service, problems);
        for lost in lost.iter().take(MAX_REPORTED) {
            let help = if lost.by_age {
                "the oldest Service keeps a hostname: choose another, or ask the gateway's \
                 operator, who finds its owner with `portcullis routes`"
            } else {
                "a hostname that the template yields belongs to the Namespace of the Service that \
                 it is named after: choose another, or ask the gateway's operator, who finds its \
                 owner with `portcullis routes`"
            };
            reader.error("HostnameTaken", self.taken(lost), help);
        }
        let more = lost.len().saturating_sub(MAX_REPORTED);
        if more > 0 {
            let message = format!("{more} more of its hostnames belong to other Services");
            reader.error("HostnameTaken", message, "choose others");
        }
    }

    /// That a hostname has an owner. The problem becomes an Event on the claimant, whose readers
    /// may not know objects of other Namespaces.
    fn taken(&self, lost: &Lost<'_>) -> String {
        let (pattern, owner) = (lost.pattern, &lost.owner.service.origin);
        if owner.namespace == self.service.origin.namespace {
            format!("`{pattern}` belongs to Service {}/{}", owner.namespace, owner.name)
        } else if lost.by_age {
            format!("`{pattern}` belongs to an older Service of another Namespace")
        } else {
            format!("`{pattern}` belongs to a Service of another Namespace")
        }
    }
}

// === impl Hostnames ===

impl Hostnames {
    /// Reads the hostnames that a Service claims in `environment`, except that of the `portal`.
    /// Without an environment there is none from the template.
    pub(super) fn read(
        template: &HostnameTemplate,
        service: &Service,
        environment: Option<&str>,
        portal: Option<&str>,
        reader: &mut Reader<'_>,
    ) -> Self {
        let own = environment.and_then(|environment| own(template, service, environment, reader));
        let help = "write hostnames such as shop.example.com, separated by commas";
        let additional = reader
            .read_list(HOSTNAMES, help, |text| additional_hostname(template, environment, text))
            .good();
        let mut is_served = |pattern: &HostPattern| !is_portal(pattern, portal, reader);
        let own = own.filter(&mut is_served);
        let mut additional: BTreeSet<HostPattern> = additional.into_iter().flatten().collect();
        additional.retain(|pattern| Some(pattern) != own.as_ref() && is_served(pattern));
        Self { template: own, additional }
    }

    fn iter(&self) -> impl Iterator<Item = &HostPattern> {
        self.template.iter().chain(&self.additional)
    }

    /// Removes additional hostnames beyond `most` in total, and reports that.
    pub(super) fn limit(&mut self, most: usize, reader: &mut Reader<'_>) {
        let most = most.saturating_sub(usize::from(self.template.is_some()));
        let all = self.additional.len();
        let Some(first) = self.additional.iter().nth(most).cloned() else { return };
        drop(self.additional.split_off(&first));
        let message = format!(
            "only the first {most} of its {all} additional hostnames are served: with its paths, \
             there are too many routes"
        );
        reader.error("TooManyRoutes", message, "divide the hostnames or the paths among Services");
    }
}

/// The hostname from the template.
fn own(
    template: &HostnameTemplate,
    service: &Service,
    environment: &str,
    reader: &mut Reader<'_>,
) -> Option<HostPattern> {
    let name = &*service.origin.name;
    match template_hostname(template, name, environment) {
        Ok(hostname) => Some(HostPattern::Exact(hostname)),
        Err(error) => {
            let message = format!(
                "the hostname of `{}` in environment `{environment}` {error}",
                excerpt(name)
            );
            let help = format!("give it another name, or name it by the annotation `{HOSTNAMES}`");
            reader.error("InvalidHostname", message, &help);
            None
        }
    }
}

/// Whether a Service claims the hostname of the login portal: it could steal credentials there.
fn is_portal(pattern: &HostPattern, portal: Option<&str>, reader: &mut Reader<'_>) -> bool {
    let found = matches!(pattern, HostPattern::Exact(name) if portal == Some(name.as_str()));
    if found {
        let message = format!("`{pattern}` is the hostname of the login portal");
        reader.error(
            "HostnameTaken",
            message,
            "give it another name, or set `access.login.host` in the gateway's configuration",
        );
    }
    found
}

fn template_hostname(
    template: &HostnameTemplate,
    service: &str,
    environment: &str,
) -> Result<Hostname, String> {
    let hostname = check_label(service)
        .and_then(|()| template.hostname(service, environment))
        .map_err(|error| error.to_string())?;
    // In the default environment, `a--b` would have the hostname of `a` in environment `b`.
    if template.is_foreign(&hostname, environment) { Err(FOREIGN.to_owned()) } else { Ok(hostname) }
}

fn additional_hostname(
    template: &HostnameTemplate,
    environment: Option<&str>,
    text: &str,
) -> Result<HostPattern, String> {
    let pattern: HostPattern =
        text.to_ascii_lowercase().parse().map_err(|error: InvalidHostname| error.to_string())?;
    if template.is_shadowed_by(&pattern) {
        return Err("would match names of the gateway's zone".to_owned());
    }
    let (HostPattern::Exact(name) | HostPattern::Wildcard(name)) = &pattern;
    // URL Standard, "ends in a number": browsers take such a name for an IPv4 address.
    if name
        .as_str()
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit()))
    {
        return Err("is an address, not a name".to_owned());
    }
    if environment.is_some_and(|environment| template.is_foreign(name, environment)) {
        return Err(FOREIGN.to_owned());
    }
    Ok(pattern)
}
