//! Which endpoints are near the gateway: hints of EndpointSlices, and a Service's
//! `trafficDistribution`.
//!
//! Kubernetes writes hints for both, where it manages the slices. As in kube-proxy, hints for zones
//! count only if every ready endpoint has one. What is near is preferred, not used alone; and if it
//! is less than half of its share, it is not even preferred: it would be overloaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::installation::Location;
use crate::resources::{Hints, TrafficDistribution};
use crate::snapshot::endpoints::Endpoint;

/// Where the gateway is, and what the Service prefers.
pub(super) struct Locality<'a> {
    pub(super) location: &'a Location,
    pub(super) distribution: Option<TrafficDistribution>,
}

// === impl Locality ===

impl Locality<'_> {
    /// Marks the endpoints that are near: those of the node, else those of the zone.
    pub(super) fn mark(&self, ready: &mut [Endpoint], hints: &[&Hints]) {
        let Some(near) = self.of_node(hints).or_else(|| self.of_zone(ready, hints)) else { return };
        for (endpoint, is_near) in ready.iter_mut().zip(near) {
            endpoint.near = is_near;
        }
    }

    fn of_node(&self, hints: &[&Hints]) -> Option<Vec<bool>> {
        let node = self.location.node.as_ref()?;
        let is_near = |hints: &&Hints| hints.nodes.contains(node);
        let places = hints.iter().flat_map(|hints| hints.nodes.iter()).chain([node]);
        preferable(hints.iter().map(is_near).collect(), places)
    }

    fn of_zone(&self, ready: &[Endpoint], hints: &[&Hints]) -> Option<Vec<bool>> {
        let zone = self.location.zone.as_ref()?;
        if hints.iter().all(|hints| !hints.zones.is_empty()) {
            let is_near = |hints: &&Hints| hints.zones.contains(zone);
            let places = hints.iter().flat_map(|hints| hints.zones.iter()).chain([zone]);
            return preferable(hints.iter().map(is_near).collect(), places);
        }
        self.distribution?;
        let is_near = |endpoint: &Endpoint| endpoint.zone.as_ref() == Some(zone);
        let places = ready.iter().filter_map(|endpoint| endpoint.zone.as_ref()).chain([zone]);
        preferable(ready.iter().map(is_near).collect(), places)
    }
}

/// Returns `near` if these endpoints are not all, and at least half of what each of the `places` has
/// on average.
fn preferable<'a>(
    near: Vec<bool>,
    places: impl Iterator<Item = &'a Arc<str>>,
) -> Option<Vec<bool>> {
    let places = places.collect::<BTreeSet<_>>().len();
    let count = near.iter().filter(|is_near| **is_near).count();
    (count < near.len() && count * places * 2 >= near.len().max(1)).then_some(near)
}

#[cfg(test)]
mod tests;
