//! How many replicas of this gateway there are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU32;

use super::{EndpointSlice, Resources};
use crate::model::NamespacedName;

// === impl Resources ===

impl Resources {
    /// The number of ready replicas of this gateway, itself included; `None` if it is not known.
    ///
    /// They are the endpoints of a Service in the gateway's own Namespace that has this process's
    /// address, too. Of several such Services, the one with the most counts.
    #[must_use]
    pub fn replicas(&self) -> Option<NonZeroU32> {
        let namespace = &self.installation.namespace;
        // Nothing else is visited: this is asked for after each change.
        let first = NamespacedName::new(namespace.clone(), "");
        let services =
            self.slices.range(first..).take_while(|(service, _)| service.namespace == *namespace);
        let counts = services.flat_map(|(_, slices)| {
            // A pod has an address of each family.
            [IpAddr::is_ipv4, IpAddr::is_ipv6].map(|family| self.replicas_of(slices.iter(), family))
        });
        NonZeroU32::new(counts.max().unwrap_or_default())
    }

    fn replicas_of<'a>(
        &self,
        slices: impl Iterator<Item = &'a EndpointSlice>,
        family: fn(&IpAddr) -> bool,
    ) -> u32 {
        let is_own = |address: &IpAddr| self.installation.addresses.contains(address);
        let endpoints = slices.flat_map(|slice| &slice.endpoints);
        let found: BTreeSet<IpAddr> = endpoints
            .filter(|one| one.conditions.ready || is_own(&one.address))
            .map(|one| one.address)
            .filter(family)
            .collect();
        if found.iter().any(is_own) { u32::try_from(found.len()).unwrap_or(u32::MAX) } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::slice;
    use super::super::{Change, Object};
    use super::*;
    use crate::installation::Installation;

    /// The replicas with these slices of the gateway's Namespace; it has the address 10.0.0.1.
    fn replicas(slices: &[(&str, &str, &[&str], bool)]) -> Option<u32> {
        let own = ["10.0.0.1", "fd00::1"].map(|text| text.parse().unwrap());
        let mut resources = Resources {
            installation: Installation {
                namespace: "shop".into(),
                addresses: own.into(),
                ..Installation::default()
            },
            ..Resources::default()
        };
        for (name, service, addresses, ready) in slices {
            let mut slice = slice(name, service, addresses);
            slice.endpoints.iter_mut().for_each(|one| one.conditions.ready = *ready);
            resources.apply(Change::Upsert(Object::EndpointSlice(slice)));
        }
        resources.replicas().map(NonZeroU32::get)
    }

    #[test]
    fn replicas_are_the_ready_endpoints_beside_this_one() {
        let two: &[&str] = &["10.0.0.1", "10.0.0.2"];
        for (slices, expected) in [
            (&[][..], None),
            (&[("a", "web", &["10.0.0.2", "10.0.0.3"][..], true)], None),
            (&[("a", "web", two, true)], Some(2)),
            (&[("a", "web", two, false)], Some(1)),
            (&[("a", "web", two, true), ("b", "web", &["10.0.0.3"], true)], Some(3)),
            (&[("a", "web", two, true), ("b", "web", &["fd00::1", "fd00::2"], true)], Some(2)),
            (&[("a", "web", two, true), ("b", "metrics", &["10.0.0.1"], true)], Some(2)),
        ] {
            assert_eq!(replicas(slices), expected, "{slices:?}");
        }
    }
}
