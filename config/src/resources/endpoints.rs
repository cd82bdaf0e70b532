//! EndpointSlices and Pods of the store: which Services a change affects, and which endpoints are
//! verified.

use std::collections::btree_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;

use super::{Changed, EndpointSlice, Pod, Resources, SliceEndpoint};
use crate::model::NamespacedName;

/// Why an endpoint is not verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unverified {
    /// It refers to no Pod of its Namespace.
    NoPod,
    /// The Pod that it refers to is not known, or has no address yet; a Pod of another Namespace is
    /// not distinguished from one that does not exist.
    UnknownPod,
    /// The Pod is in its node's network, whose address is not its own.
    HostNetwork,
    /// The Pod has other addresses.
    OtherAddress,
}

// === impl Resources ===

impl Resources {
    /// Whether the operator denies endpoints with `address`.
    #[must_use]
    pub fn denies(&self, address: IpAddr) -> bool {
        self.endpoint_rules.denies(address)
    }

    /// Verifies an endpoint of `slice`, if the operator requires that.
    ///
    /// # Errors
    /// Why it is not verified.
    pub fn verify(
        &self,
        slice: &EndpointSlice,
        endpoint: &SliceEndpoint,
    ) -> Result<(), Unverified> {
        let (namespace, address) = (&slice.origin.namespace, endpoint.address.to_canonical());
        let rules = &self.endpoint_rules;
        if !rules.verifies() || rules.allows(namespace, address) {
            return Ok(());
        }
        let uid = endpoint.pod.as_ref().ok_or(Unverified::NoPod)?;
        let pod = self.pods.get(uid).filter(|pod| pod.origin.namespace == *namespace);
        match pod.filter(|pod| !pod.addresses.is_empty()) {
            None => Err(Unverified::UnknownPod),
            Some(pod) if pod.host_network => Err(Unverified::HostNetwork),
            Some(pod) if pod.addresses.contains(&address) => Ok(()),
            Some(_) => Err(Unverified::OtherAddress),
        }
    }

    pub(super) fn upsert_slice(&mut self, slice: EndpointSlice, changed: &mut Changed) {
        let (key, service) = (slice.key(), slice.service_key());
        if self.slice_services.get(&key).is_some_and(|before| *before != service) {
            self.delete_slice(&key, changed);
        }
        let slices = self.slices.entry(service.clone()).or_default();
        let before = match position(slices, &key) {
            Ok(place) => {
                let Some(one) = slices.get_mut(place).filter(|one| **one != slice) else { return };
                Some(std::mem::replace(one, slice))
            }
            Err(place) => {
                // Most Services have one.
                slices.reserve_exact(1);
                slices.insert(place, slice);
                None
            }
        };
        self.slice_services.insert(key, service.clone());
        self.slices_changed(service, before.as_ref(), changed);
    }

    pub(super) fn delete_slice(&mut self, key: &NamespacedName, changed: &mut Changed) {
        let Some(service) = self.slice_services.remove(key) else { return };
        let mut before = None;
        if let Entry::Occupied(mut slices) = self.slices.entry(service.clone()) {
            let place = position(slices.get(), key);
            before = place.ok().map(|place| slices.get_mut().remove(place));
            if slices.get().is_empty() {
                slices.remove();
            }
        }
        self.slices_changed(service, before.as_ref(), changed);
    }

    /// Adds, replaces or deletes a Pod. It affects the Services whose endpoints refer to it.
    pub(super) fn change_pod(&mut self, uid: &Arc<str>, pod: Option<Pod>, changed: &mut Changed) {
        if self.endpoint_rules.verifies() && self.pods.replace(uid, pod) {
            changed.slices.extend(self.pods.services(uid).cloned());
        }
    }

    fn slices_changed(
        &mut self,
        service: NamespacedName,
        before: Option<&EndpointSlice>,
        changed: &mut Changed,
    ) {
        let slices = || self.slices.get(&service).into_iter().flatten();
        if service.is_api_server() {
            changed.reserved |=
                self.reserved.set_api_server(slices().flat_map(EndpointSlice::addresses));
        }
        if service.namespace == self.installation.namespace {
            let addresses = slices().flat_map(|slice| &slice.endpoints);
            let addresses = addresses.map(|endpoint| endpoint.address);
            changed.reserved |= self.reserved.set_replicas(&service, addresses);
        }
        if self.endpoint_rules.verifies() {
            self.pods.refer(&service, before, slices());
        }
        changed.slices.insert(service);
    }
}

/// Where a slice is among those of its Service, which are in the order of their names; otherwise, where
/// it belongs.
fn position(slices: &[EndpointSlice], key: &NamespacedName) -> Result<usize, usize> {
    slices.binary_search_by(|slice| slice.origin.name.cmp(&key.name))
}
