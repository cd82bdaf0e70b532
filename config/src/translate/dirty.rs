//! What of a translation is out of date, after changes of the store.

use std::collections::{BTreeMap, BTreeSet};

use super::endpoints;
use crate::model::NamespacedName;
use crate::problem::Problem;
use crate::resources::{Changed, Resources};

/// What must be done anew, as far as changes were [noted](Self::note).
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// All must be translated.
    pub(crate) routes: bool,
    /// The credentials.
    pub(crate) credentials: bool,
    /// The endpoints of these Services.
    pub(crate) endpoints: BTreeSet<NamespacedName>,
    /// What is wrong with the EndpointSlices of Services, where anything is.
    problems: BTreeMap<NamespacedName, Vec<Problem>>,
    /// Whether other Services' problems may differ from these.
    stale: bool,
}

// === impl Dirty ===

impl Dirty {
    /// Before the first translation.
    pub(crate) fn everything() -> Self {
        Self { routes: true, ..Self::default() }
    }

    /// Takes in what has changed in `resources`, which are as they are since.
    ///
    /// Where EndpointSlices alone have changed, their Services' endpoints are all that is out of
    /// date, unless there is more, or less, to report to the owner of the Service. Where other
    /// addresses are reserved, every Service may have lost or won an endpoint.
    pub(crate) fn note(&mut self, changed: Changed, resources: &Resources) {
        let Changed { services, slices, credentials, reserved, others } = changed;
        self.routes |= others || reserved || !services.is_empty();
        self.stale |= reserved;
        self.credentials |= credentials;
        for service in services.iter().chain(&slices) {
            self.routes |= self.problems_differ(service, resources);
        }
        // Not `append`: it builds the whole set anew, and 10,000 Services come one by one.
        self.endpoints.extend(slices);
    }

    /// Takes in that all of `resources` were translated.
    pub(crate) fn translated(&mut self, resources: &Resources) {
        (self.routes, self.credentials) = (false, false);
        if std::mem::take(&mut self.stale) {
            let problems = |service: &NamespacedName| endpoints::problems(resources, service, None);
            self.problems = resources
                .services_of_slices()
                .map(|service| (service.clone(), problems(service)))
                .filter(|(_, problems)| !problems.is_empty())
                .collect();
        }
    }

    fn problems_differ(&mut self, service: &NamespacedName, resources: &Resources) -> bool {
        let now = endpoints::problems(resources, service, None);
        let before = self.problems.get(service).map_or(&[][..], Vec::as_slice);
        let differ = now != before;
        if differ && now.is_empty() {
            self.problems.remove(service);
        } else if differ {
            self.problems.insert(service.clone(), now);
        }
        differ
    }
}
