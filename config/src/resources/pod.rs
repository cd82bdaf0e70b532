//! Pods: the addresses that endpoints are verified against.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use foldhash::fast::RandomState;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Resource;
use serde::{Deserialize, Deserializer};

use super::{EndpointSlice, Metadata};
use crate::model::{NamespacedName, Origin, SourceLocation};
use crate::problem::Problem;

/// A Pod, trimmed to the fields that verify endpoints.
#[derive(Debug, Clone, PartialEq)]
pub struct Pod {
    /// Where it came from.
    pub origin: Origin,
    /// Its identity: a Pod that replaces another of the same name has a new one.
    pub uid: Arc<str>,
    /// Its addresses (`status.podIPs`); none before it has any, and none once it has terminated,
    /// because another Pod may have them then.
    pub addresses: Vec<IpAddr>,
    /// Whether it is in its node's network, so that its addresses are those of the node.
    pub host_network: bool,
}

/// A Pod as decoded: most of an object is dropped here, since a cluster has many Pods.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct PodObject {
    #[serde(deserialize_with = "identity")]
    metadata: ObjectMeta,
    spec: PodObjectSpec,
    status: PodObjectStatus,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PodObjectSpec {
    host_network: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodObjectStatus {
    phase: Option<String>,
    #[serde(rename = "podIPs")]
    addresses: Option<Vec<PodAddress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct PodAddress {
    ip: Option<String>,
}

/// All Pods, and the Services whose endpoints refer to each.
#[derive(Debug, Clone, Default)]
pub(super) struct Pods {
    by_uid: HashMap<Arc<str>, Pod, RandomState>,
    references: BTreeSet<(Arc<str>, NamespacedName)>,
}

// === impl Pod ===

impl Pod {
    /// Parses an object; `place` is its location, for one from a file.
    ///
    /// # Errors
    /// It has no name.
    pub fn from_object(object: &PodObject, place: Option<SourceLocation>) -> Result<Self, Problem> {
        let Metadata { origin, .. } = Metadata::read("Pod", true, &object.metadata, place)?;
        let PodObjectStatus { phase, addresses } = &object.status;
        let terminated = matches!(phase.as_deref(), Some("Succeeded" | "Failed"));
        let addresses = addresses.iter().flatten().filter(|_| !terminated);
        let addresses = addresses.filter_map(|address| address.ip.as_deref()?.parse().ok());
        Ok(Self {
            origin,
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            addresses: addresses.map(|address: IpAddr| address.to_canonical()).collect(),
            host_network: object.spec.host_network.unwrap_or(false),
        })
    }
}

// === impl PodObject ===

/// Decodes only the fields that identify an object and its version.
fn identity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Identity {
        name: Option<String>,
        namespace: Option<String>,
        uid: Option<String>,
        resource_version: Option<String>,
    }
    let Identity { name, namespace, uid, resource_version } = Identity::deserialize(deserializer)?;
    Ok(ObjectMeta { name, namespace, uid, resource_version, ..ObjectMeta::default() })
}

impl Resource for PodObject {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        v1::Pod::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        v1::Pod::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        v1::Pod::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        v1::Pod::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }
}

// === impl Pods ===

impl Pods {
    /// The Pod with this identity.
    pub(super) fn get(&self, uid: &str) -> Option<&Pod> {
        self.by_uid.get(uid)
    }

    /// The identities of all Pods.
    pub(super) fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.by_uid.keys()
    }

    /// Replaces a Pod, or removes it; returns whether that changes anything.
    pub(super) fn replace(&mut self, uid: &Arc<str>, pod: Option<Pod>) -> bool {
        match pod {
            Some(pod) if self.by_uid.get(uid) == Some(&pod) => false,
            Some(pod) => {
                self.by_uid.insert(uid.clone(), pod);
                true
            }
            None => self.by_uid.remove(uid).is_some(),
        }
    }

    /// The Services whose endpoints refer to a Pod.
    pub(super) fn services(&self, uid: &Arc<str>) -> impl Iterator<Item = &NamespacedName> {
        let start = (uid.clone(), NamespacedName::new("", ""));
        self.references
            .range(start..)
            .take_while(move |(referenced, _)| referenced == uid)
            .map(|(_, service)| service)
    }

    /// Records the Pods that the slices of a Service refer to; `before` is a slice that it no
    /// longer has.
    pub(super) fn refer<'a>(
        &mut self,
        service: &NamespacedName,
        before: Option<&EndpointSlice>,
        slices: impl Iterator<Item = &'a EndpointSlice>,
    ) {
        for uid in before.into_iter().flat_map(EndpointSlice::pods) {
            self.references.remove(&(uid.clone(), service.clone()));
        }
        let pods = slices.flat_map(EndpointSlice::pods);
        self.references.extend(pods.map(|uid| (uid.clone(), service.clone())));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> Pod {
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": "web-1", "namespace": "shop", "uid": "one", "resourceVersion": "7",
                "labels": {"app": "web"}, "annotations": {"a": "b"},
            },
            "spec": {"containers": [{"name": "web", "image": "web"}]},
            "status": status,
        });
        Pod::from_object(&serde_json::from_value(object).unwrap(), None).unwrap()
    }

    #[test]
    fn a_pod_is_decoded_to_what_verifies_endpoints() {
        let read =
            pod(&json!({"phase": "Running", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}));
        assert_eq!((&*read.uid, read.host_network), ("one", false));
        assert_eq!(
            read.addresses,
            ["10.0.0.1".parse::<IpAddr>().unwrap(), "fd00::1".parse().unwrap()]
        );
        let object: PodObject = serde_json::from_value(json!({
            "metadata": {"name": "web-1", "labels": {"app": "web"}, "resourceVersion": "7"},
        }))
        .unwrap();
        assert_eq!(
            (&object.meta().labels, object.meta().resource_version.as_deref()),
            (&None, Some("7"))
        );
    }

    #[test]
    fn a_pod_without_addresses_or_that_has_terminated_verifies_none() {
        assert_eq!(pod(&json!({"phase": "Pending"})).addresses, [] as [IpAddr; 0]);
        for phase in ["Succeeded", "Failed"] {
            let status = json!({"phase": phase, "podIPs": [{"ip": "10.0.0.1"}]});
            assert_eq!(pod(&status).addresses, [] as [IpAddr; 0]);
        }
    }
}
