//! Interprets the events of a watch, without network access.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Debug};

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::core::{Status, WatchEvent};
use kube::{Resource, ResourceExt};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::model::NamespacedName;
use crate::problem::Problem;
use crate::resources::credential::Credential;
use crate::resources::{
    Change, EndpointSlice, Namespace, Object, ObjectId, Pod, PodObject, Service,
};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::Certificate;

/// The annotation of the bookmark that marks the end of the initial events
/// (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// The status for a resource version that the API server no longer has.
const GONE: u16 = 410;

/// A kind that is watched.
pub(super) trait Watched:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static
{
    /// Whether a list without a selector can be empty in a working cluster.
    const CAN_BE_EMPTY: bool;
    /// Whether an object that becomes invalid keeps its last valid state.
    const KEEPS_LAST_VALID: bool = true;

    /// Its name in the store.
    fn id(&self) -> ObjectId;

    /// The parts of it that are stored.
    fn trim(&self) -> Result<Object, Problem>;
}

/// The known objects of one kind, and the resource version that they are at.
#[derive(Debug, Default)]
pub(super) struct WatchSession {
    known: BTreeSet<ObjectId>,
    unreadable: BTreeMap<ObjectId, Problem>,
    version: Option<String>,
    /// The received part of an incomplete list.
    list: Option<List>,
}

/// An incomplete list: none of it takes effect before it is complete.
#[derive(Debug, Default)]
struct List {
    objects: Vec<Object>,
    unreadable: BTreeMap<ObjectId, Problem>,
}

/// The outcome of an event.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// Changes; `whole` if they are those of a complete list.
    Changed { changes: Vec<Change>, whole: bool },
    /// No change, but the version may have advanced.
    NoChange,
    /// The version is no longer valid: everything must be listed again.
    Lost,
    /// The API server reported an error.
    Failed(Box<Status>),
}

/// Why a list is rejected as implausible.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ImplausibleList {
    #[error("the list is empty, which it cannot be in a working cluster")]
    Empty,
    #[error("the list has no resource version")]
    Unversioned,
}

// === impl WatchSession ===

impl WatchSession {
    /// The version to resume the watch from; `None` if everything must be listed first.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// The problems of invalid objects.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable.values()
    }

    /// Begins a list, and drops an incomplete one.
    pub(super) fn begin_list(&mut self) {
        self.version = None;
        self.list = Some(List::default());
    }

    /// Adds objects to the incomplete list.
    pub(super) fn listed<K: Watched>(&mut self, objects: &[K]) {
        let list = self.list.get_or_insert_default();
        for object in objects {
            match object.trim() {
                Ok(trimmed) => list.objects.push(trimmed),
                Err(problem) => drop(list.unreadable.insert(object.id(), problem)),
            }
        }
    }

    /// Completes the list as of `version`. Objects that are not in it are deleted; invalid ones
    /// keep their last valid state if their kind does so.
    pub(super) fn end_list<K: Watched>(
        &mut self,
        version: String,
        named: bool,
    ) -> Result<Vec<Change>, ImplausibleList> {
        let List { objects, unreadable } = self.list.take().unwrap_or_default();
        if objects.is_empty() && unreadable.is_empty() && !named && !K::CAN_BE_EMPTY {
            return Err(ImplausibleList::Empty);
        }
        if version.is_empty() {
            return Err(ImplausibleList::Unversioned);
        }
        let listed: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
        let stays = |id: &ObjectId| K::KEEPS_LAST_VALID && unreadable.contains_key(id);
        let deleted = self.known.iter().filter(|id| !listed.contains(id) && !stays(id)).cloned();
        let changes =
            deleted.map(Change::Delete).chain(objects.into_iter().map(Change::Upsert)).collect();
        self.known.retain(stays);
        self.known.extend(listed);
        self.unreadable = unreadable;
        self.version = Some(version);
        Ok(changes)
    }

    /// Applies an event of a watch.
    pub(super) fn event<K: Watched>(
        &mut self,
        event: WatchEvent<K>,
        named: bool,
    ) -> Result<Step, ImplausibleList> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if self.list.is_some() => {
                self.listed(std::slice::from_ref(&object));
                Ok(Step::NoChange)
            }
            WatchEvent::Bookmark(bookmark) if self.list.is_some() => {
                if !bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                    return Ok(Step::NoChange);
                }
                self.end_list::<K>(bookmark.metadata.resource_version, named)
                    .map(|changes| Step::Changed { changes, whole: true })
            }
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(self.upsert(&object)),
            WatchEvent::Deleted(object) => Ok(self.delete(&object)),
            WatchEvent::Bookmark(bookmark) => {
                self.version =
                    Some(bookmark.metadata.resource_version).filter(|version| !version.is_empty());
                Ok(if self.version.is_some() { Step::NoChange } else { Step::Lost })
            }
            WatchEvent::Error(status) if status.code == GONE => {
                self.version = None;
                Ok(Step::Lost)
            }
            WatchEvent::Error(status) => Ok(Step::Failed(status)),
        }
    }

    /// Discards the version, and keeps the objects.
    pub(super) fn lose_version(&mut self) {
        self.version = None;
    }

    fn upsert<K: Watched>(&mut self, object: &K) -> Step {
        self.version = object.resource_version();
        let id = object.id();
        match object.trim() {
            Ok(trimmed) => {
                self.unreadable.remove(&id);
                self.known.insert(id);
                Step::Changed { changes: vec![Change::Upsert(trimmed)], whole: false }
            }
            Err(problem) => {
                let deleted = !K::KEEPS_LAST_VALID && self.known.remove(&id);
                let changes = deleted.then(|| Change::Delete(id.clone())).into_iter().collect();
                self.unreadable.insert(id, problem);
                Step::Changed { changes, whole: false }
            }
        }
    }

    fn delete<K: Watched>(&mut self, object: &K) -> Step {
        self.version = object.resource_version();
        let id = object.id();
        self.unreadable.remove(&id);
        self.known.remove(&id);
        Step::Changed { changes: vec![Change::Delete(id)], whole: false }
    }
}

/// Whether `version` is older than `other`: then etcd was restored from a backup, and newer events
/// are void. Versions that are not numbers cannot be compared (KEP-5504 makes them comparable).
pub(super) fn is_older(version: &str, other: &str) -> bool {
    matches!((version.parse::<u64>(), other.parse::<u64>()), (Ok(version), Ok(other)) if version < other)
}

// === impl Watched ===

fn name<K: Resource<Scope = NamespaceResourceScope>>(object: &K) -> NamespacedName {
    NamespacedName::new(object.namespace().unwrap_or_default(), object.name_any())
}

impl Watched for core::Namespace {
    const CAN_BE_EMPTY: bool = false;

    fn id(&self) -> ObjectId {
        ObjectId::Namespace(self.name_any().into())
    }

    fn trim(&self) -> Result<Object, Problem> {
        Namespace::from_object(self, None).map(Object::Namespace)
    }
}

/// There is always `default/kubernetes`.
impl Watched for core::Service {
    const CAN_BE_EMPTY: bool = false;

    fn id(&self) -> ObjectId {
        ObjectId::Service(name(self))
    }

    fn trim(&self) -> Result<Object, Problem> {
        Service::from_object(self, None).map(Object::Service)
    }
}

/// There is always that of `default/kubernetes`.
impl Watched for discovery::EndpointSlice {
    const CAN_BE_EMPTY: bool = false;

    fn id(&self) -> ObjectId {
        ObjectId::EndpointSlice(name(self))
    }

    fn trim(&self) -> Result<Object, Problem> {
        EndpointSlice::from_object(self, None).map(Object::EndpointSlice)
    }
}

/// There are always those of the cluster itself.
impl Watched for PodObject {
    const CAN_BE_EMPTY: bool = false;

    fn id(&self) -> ObjectId {
        ObjectId::Pod(self.uid().unwrap_or_default().into())
    }

    fn trim(&self) -> Result<Object, Problem> {
        Pod::from_object(self, None).map(Object::Pod)
    }
}

impl Watched for core::Secret {
    const CAN_BE_EMPTY: bool = true;

    fn id(&self) -> ObjectId {
        ObjectId::Certificate(certificate(self))
    }

    fn trim(&self) -> Result<Object, Problem> {
        Certificate::from_secret(self, None)
            .map(|found| Object::Certificate(certificate(self), found))
    }
}

/// A Secret that is watched for its credential. `Debug` does not print its data.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub(super) struct CredentialSecret(core::Secret);

impl Resource for CredentialSecret {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind(_: &()) -> Cow<'_, str> {
        core::Secret::kind(&())
    }

    fn group(_: &()) -> Cow<'_, str> {
        core::Secret::group(&())
    }

    fn version(_: &()) -> Cow<'_, str> {
        core::Secret::version(&())
    }

    fn plural(_: &()) -> Cow<'_, str> {
        core::Secret::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        self.0.meta()
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.0.meta_mut()
    }
}

impl Debug for CredentialSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret {}", name(self))
    }
}

/// An invalid credential is removed: the change may have been meant to revoke it.
impl Watched for CredentialSecret {
    const CAN_BE_EMPTY: bool = true;
    const KEEPS_LAST_VALID: bool = false;

    fn id(&self) -> ObjectId {
        ObjectId::Credential(name(self))
    }

    fn trim(&self) -> Result<Object, Problem> {
        Credential::from_secret(&self.0, None).map(Object::Credential)
    }
}

fn certificate(secret: &core::Secret) -> CertificateSettings {
    CertificateSettings::Secret {
        namespace: secret.namespace().unwrap_or_default(),
        name: secret.name_any(),
    }
}

#[cfg(test)]
mod tests;
