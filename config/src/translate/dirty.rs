//! Tracks which parts of a translation are out of date after changes of resources.

use std::collections::{BTreeMap, BTreeSet};

use super::endpoints;
use crate::model::NamespacedName;
use crate::problem::Problem;
use crate::resources::{Changed, Resources};

/// The parts that must be translated again, by the [recorded](Self::record) changes.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    /// All routes.
    pub(crate) routes: bool,
    /// All credentials.
    pub(crate) credentials: bool,
    /// The endpoints of these Services.
    pub(crate) endpoints: BTreeSet<NamespacedName>,
    /// The problems of the EndpointSlices of each Service that has any.
    problems: BTreeMap<NamespacedName, Vec<Problem>>,
    /// Whether `problems` may be out of date for any Service.
    stale: bool,
}

// === impl Dirty ===

impl Dirty {
    /// Everything is out of date: the state before the first translation.
    pub(crate) fn everything() -> Self {
        Self { routes: true, ..Self::default() }
    }

    /// Records what has changed; `resources` is the state after the change.
    ///
    /// If only EndpointSlices have changed, only the endpoints of their Services are out of date,
    /// unless the problems of a Service have changed too. If the reserved addresses have changed,
    /// every Service may have lost or gained an endpoint.
    pub(crate) fn record(&mut self, changed: Changed, resources: &Resources) {
        let Changed { services, slices, credentials, reserved, others } = changed;
        self.routes |= others || reserved || !services.is_empty();
        self.stale |= reserved;
        self.credentials |= credentials;
        for service in services.iter().chain(&slices) {
            self.routes |= self.problems_differ(service, resources);
        }
        // Not `append`: it rebuilds the whole set, and 10,000 Services are added one by one.
        self.endpoints.extend(slices);
    }

    /// Records that all of `resources` were translated.
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
