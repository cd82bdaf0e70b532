//! What the events of a watch mean, without a network.

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
use crate::resources::{Change, EndpointSlice, Namespace, Object, ObjectId, Service};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::Certificate;

/// The annotation of the bookmark that ends the events for what was there at the beginning
/// (KEP-3157).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";
/// The status of a version that the API server no longer knows.
const GONE: u16 = 410;

/// A kind that is watched.
pub(super) trait Watched:
    Resource<DynamicType = ()> + DeserializeOwned + Clone + Debug + Send + 'static
{
    /// Whether a list of it without a selector can be empty in a cluster that works.
    const CAN_BE_EMPTY: bool;
    /// Whether one that cannot be understood stays what it was.
    const LASTS: bool = true;

    /// Its name in the store.
    fn id(&self) -> ObjectId;

    /// What is kept of it.
    fn trim(&self) -> Result<Object, Problem>;
}

/// What is known of one kind, and where in its history that is.
#[derive(Debug, Default)]
pub(super) struct Session {
    known: BTreeSet<ObjectId>,
    unreadable: BTreeMap<ObjectId, Problem>,
    version: Option<String>,
    /// What has come of a list that is not yet whole.
    list: Option<List>,
}

/// A list on its way: nothing of it counts before it is whole.
#[derive(Debug, Default)]
struct List {
    objects: Vec<Object>,
    unreadable: BTreeMap<ObjectId, Problem>,
}

/// What an event comes to.
#[derive(Debug, PartialEq)]
pub(super) enum Step {
    /// These changes; for those of a list `whole` says that it is.
    Changed { changes: Vec<Change>, whole: bool },
    /// Nothing, but the history went on.
    Heard,
    /// The history is lost: all must be listed again.
    Lost,
    /// The API server says that something is wrong.
    Failed(Box<Status>),
}

/// Why a list is not believed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unbelievable {
    #[error("the list is empty, which it cannot be in a cluster that works")]
    Empty,
    #[error("the list has no version")]
    Unversioned,
}

// === impl Session ===

impl Session {
    /// The version that a watch can be resumed from; `None` where all must be listed first.
    pub(super) fn version(&self) -> Option<&str> {
        self.version.as_deref()
    }

    /// What is wrong with objects that could not be understood.
    pub(super) fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.unreadable.values()
    }

    /// A list begins. What came of one before it that did not end is dropped.
    pub(super) fn begin_list(&mut self) {
        self.version = None;
        self.list = Some(List::default());
    }

    /// Takes a part of a list.
    pub(super) fn listed<K: Watched>(&mut self, objects: &[K]) {
        let list = self.list.get_or_insert_default();
        for object in objects {
            match object.trim() {
                Ok(trimmed) => list.objects.push(trimmed),
                Err(problem) => drop(list.unreadable.insert(object.id(), problem)),
            }
        }
    }

    /// The list is whole, as of `version`. What is not in it is gone; what is in it but cannot be
    /// understood stays as it was, where its kind lasts.
    pub(super) fn end_list<K: Watched>(
        &mut self,
        version: String,
        named: bool,
    ) -> Result<Vec<Change>, Unbelievable> {
        let List { objects, unreadable } = self.list.take().unwrap_or_default();
        if objects.is_empty() && unreadable.is_empty() && !named && !K::CAN_BE_EMPTY {
            return Err(Unbelievable::Empty);
        }
        if version.is_empty() {
            return Err(Unbelievable::Unversioned);
        }
        let listed: BTreeSet<ObjectId> = objects.iter().map(Object::id).collect();
        let stays = |id: &ObjectId| K::LASTS && unreadable.contains_key(id);
        let gone = self.known.iter().filter(|id| !listed.contains(id) && !stays(id)).cloned();
        let changes =
            gone.map(Change::Delete).chain(objects.into_iter().map(Change::Upsert)).collect();
        self.known.retain(stays);
        self.known.extend(listed);
        self.unreadable = unreadable;
        self.version = Some(version);
        Ok(changes)
    }

    /// Takes an event of a watch.
    pub(super) fn event<K: Watched>(
        &mut self,
        event: WatchEvent<K>,
        named: bool,
    ) -> Result<Step, Unbelievable> {
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) if self.list.is_some() => {
                self.listed(std::slice::from_ref(&object));
                Ok(Step::Heard)
            }
            WatchEvent::Bookmark(bookmark) if self.list.is_some() => {
                if !bookmark.metadata.annotations.contains_key(INITIAL_EVENTS_END) {
                    return Ok(Step::Heard);
                }
                self.end_list::<K>(bookmark.metadata.resource_version, named)
                    .map(|changes| Step::Changed { changes, whole: true })
            }
            WatchEvent::Added(object) | WatchEvent::Modified(object) => Ok(self.upsert(&object)),
            WatchEvent::Deleted(object) => Ok(self.delete(&object)),
            WatchEvent::Bookmark(bookmark) => {
                self.version =
                    Some(bookmark.metadata.resource_version).filter(|version| !version.is_empty());
                Ok(if self.version.is_some() { Step::Heard } else { Step::Lost })
            }
            WatchEvent::Error(status) if status.code == GONE => {
                self.version = None;
                Ok(Step::Lost)
            }
            WatchEvent::Error(status) => Ok(Step::Failed(status)),
        }
    }

    /// Forgets where in the history it is, and not what it knows.
    pub(super) fn lose(&mut self) {
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
                let gone = !K::LASTS && self.known.remove(&id);
                let changes = gone.then(|| Change::Delete(id.clone())).into_iter().collect();
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

/// Whether a version is older than another: then the cluster's store was set back, and what was
/// heard since is void. Versions that are no numbers tell nothing (KEP-5504 makes them comparable).
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

/// A Secret that is watched for the credential in it. It does not print.
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

/// One that cannot be understood is no credential any more: it may be that it was to be revoked.
impl Watched for CredentialSecret {
    const CAN_BE_EMPTY: bool = true;
    const LASTS: bool = false;

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
