//! The typed store: the input of translation.
//!
//! Objects are parsed once, and trimmed to the fields that are read before they are stored. An
//! object that cannot be parsed is a [`Problem`], and its source keeps the last valid version. The
//! store keeps the last valid value of some annotations that become invalid. It reports what each
//! [`Change`] has [`Changed`].

mod annotations;
mod certificate;
pub mod credential;
mod endpoint_rules;
mod endpoint_slice;
mod endpoints;
mod namespace;
mod pod;
mod replicas;
mod reserved;
mod service;
pub(crate) mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::annotations::{Annotations, MAX_UNKNOWN, MAX_VALUE, Value};
use self::credential::Credential;
use self::endpoint_rules::EndpointRules;
pub use self::endpoint_slice::{
    Conditions, EndpointPort, EndpointSlice, Hints, SERVICE_NAME, SliceEndpoint,
};
pub use self::endpoints::Unverified;
pub use self::namespace::Namespace;
use self::pod::Pods;
pub use self::pod::{Pod, PodObject};
pub use self::reserved::{Reserved, ReservedAddresses};
pub use self::service::{Service, ServicePort, TrafficDistribution};
use crate::installation::{Installation, Location};
use crate::model::{NamespacedName, Origin, SourceLocation};
use crate::problem::{Problem, Severity};
use crate::settings::{CertificateSettings, Settings};
use crate::snapshot::certificate::Certificate;

/// All resources of the cluster, or of the folder.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    installation: Installation,
    reserved: ReservedAddresses,
    endpoint_rules: EndpointRules,
    location: Location,
    pods: Pods,
    namespaces: BTreeMap<Arc<str>, Namespace>,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, Vec<EndpointSlice>>,
    /// The Service that each slice is stored under: the label of a slice may change.
    slice_services: BTreeMap<NamespacedName, NamespacedName>,
    certificates: BTreeMap<CertificateSettings, Certificate>,
    credentials: BTreeMap<NamespacedName, Credential>,
}

/// An object of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Object {
    /// A Namespace.
    Namespace(Namespace),
    /// A Service.
    Service(Service),
    /// An EndpointSlice.
    EndpointSlice(EndpointSlice),
    /// A Pod.
    Pod(Pod),
    /// A certificate, with the setting that names it.
    Certificate(CertificateSettings, Certificate),
    /// A Secret that holds a credential.
    Credential(Credential),
}

/// The identity of an object of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectId {
    /// A Namespace.
    Namespace(Arc<str>),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice, by its own name.
    EndpointSlice(NamespacedName),
    /// A Pod, by its `uid`.
    Pod(Arc<str>),
    /// A certificate, by the setting that names it.
    Certificate(CertificateSettings),
    /// A Secret that holds a credential.
    Credential(NamespacedName),
}

/// The kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Namespaces.
    Namespace,
    /// Services.
    Service,
    /// EndpointSlices.
    EndpointSlice,
    /// Pods.
    Pod,
    /// Certificates, of files and of Secrets.
    Certificate,
    /// Secrets that hold credentials.
    Credential,
}

/// A change to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// This object was added or modified.
    Upsert(Object),
    /// This object was deleted.
    Delete(ObjectId),
    /// These are all objects of the kind. Objects of other kinds in the list are ignored.
    Replace(Kind, Vec<Object>),
}

/// The effect of a [`Change`]. An object that is applied again unchanged has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Services that were added, modified or deleted.
    pub services: BTreeSet<NamespacedName>,
    /// Services whose EndpointSlices were added, modified or deleted.
    pub slices: BTreeSet<NamespacedName>,
    /// Whether credentials have changed.
    pub credentials: bool,
    /// Whether the [reserved](Resources::reserved) addresses have changed.
    pub reserved: bool,
    /// Whether Namespaces or certificates have changed.
    pub others: bool,
}

// === impl Object ===

impl Object {
    /// Its identity in the store.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Namespace(namespace) => ObjectId::Namespace(namespace.name().clone()),
            Self::Service(service) => ObjectId::Service(service.key()),
            Self::EndpointSlice(slice) => ObjectId::EndpointSlice(slice.key()),
            Self::Pod(pod) => ObjectId::Pod(pod.uid.clone()),
            Self::Certificate(settings, _) => ObjectId::Certificate(settings.clone()),
            Self::Credential(credential) => ObjectId::Credential(credential.key()),
        }
    }
}

impl Object {
    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        match self {
            Self::Namespace(namespace) => &namespace.origin,
            Self::Service(service) => &service.origin,
            Self::EndpointSlice(slice) => &slice.origin,
            Self::Pod(pod) => &pod.origin,
            Self::Certificate(_, certificate) => &certificate.origin,
            Self::Credential(credential) => credential.origin(),
        }
    }
}

// === impl ObjectId ===

impl ObjectId {
    /// The kind of the object.
    #[must_use]
    pub fn kind(&self) -> Kind {
        match self {
            Self::Namespace(_) => Kind::Namespace,
            Self::Service(_) => Kind::Service,
            Self::EndpointSlice(_) => Kind::EndpointSlice,
            Self::Pod(_) => Kind::Pod,
            Self::Certificate(_) => Kind::Certificate,
            Self::Credential(_) => Kind::Credential,
        }
    }
}

// === impl Resources ===

impl Resources {
    /// Creates an empty store for a gateway of this installation, with these settings.
    #[must_use]
    pub fn new(installation: Installation, settings: &Settings) -> Self {
        let reserved = ReservedAddresses::new(&installation, settings);
        let endpoint_rules = EndpointRules::new(&settings.endpoints);
        let given = |text: &Option<String>| text.as_deref().map(Into::into);
        let Location { zone, node } = installation.location.clone();
        let location = Location {
            zone: given(&settings.upstreams.zone).or(zone),
            node: given(&settings.upstreams.node).or(node),
        };
        Self { installation, reserved, endpoint_rules, location, ..Self::default() }
    }

    /// Where the gateway runs, by its settings, else by its installation.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// The installation of the gateway that reads them.
    #[must_use]
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The addresses that no Service may have as endpoints.
    #[must_use]
    pub fn reserved(&self) -> &ReservedAddresses {
        &self.reserved
    }

    /// Applies a change, and returns its effect.
    pub fn apply(&mut self, change: Change) -> Changed {
        let mut changed = Changed::default();
        match change {
            Change::Upsert(object) => self.upsert(object, &mut changed),
            Change::Delete(id) => self.delete(&id, &mut changed),
            Change::Replace(kind, objects) => self.replace(kind, objects, &mut changed),
        }
        changed
    }

    /// All Namespaces, by name.
    pub fn namespaces(&self) -> impl Iterator<Item = &Namespace> {
        self.namespaces.values()
    }

    /// The Namespace of that name.
    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&Namespace> {
        self.namespaces.get(name)
    }

    /// All Services, by namespace and name.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.services.values()
    }

    /// The Service of that name.
    #[must_use]
    pub fn service(&self, name: &NamespacedName) -> Option<&Service> {
        self.services.get(name)
    }

    /// The EndpointSlices of a Service, by name.
    pub fn slices(&self, service: &NamespacedName) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.get(service).into_iter().flatten()
    }

    /// All EndpointSlices, by namespace, Service and name.
    pub fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().flatten()
    }

    /// The names of Services that have EndpointSlices, even where the Service does not exist.
    pub fn services_of_slices(&self) -> impl Iterator<Item = &NamespacedName> {
        self.slices.keys()
    }

    /// The certificate that this setting names.
    #[must_use]
    pub fn certificate(&self, settings: &CertificateSettings) -> Option<&Certificate> {
        self.certificates.get(settings)
    }

    /// All credentials, by the names of their Secrets.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }

    fn upsert(&mut self, object: Object, changed: &mut Changed) {
        match object {
            Object::Namespace(mut namespace) => {
                let name = namespace.name().clone();
                let Namespace { origin, created, annotations, .. } = &mut namespace;
                let before = self.namespaces.get(&name).filter(|old| old.created == *created);
                if let Some(before) = before {
                    annotations.keep_last_valid(origin, &before.annotations);
                }
                changed.others |= insert(&mut self.namespaces, name, namespace);
            }
            Object::Service(mut service) => {
                let key = service.key();
                let Service { origin, created, annotations, .. } = &mut service;
                let before = self.services.get(&key).filter(|old| old.created == *created);
                if let Some(before) = before {
                    annotations.keep_last_valid(origin, &before.annotations);
                }
                self.change_service(key, Some(service), changed);
            }
            Object::EndpointSlice(slice) => self.upsert_slice(slice, changed),
            Object::Pod(pod) => self.change_pod(&pod.uid.clone(), Some(pod), changed),
            Object::Certificate(settings, certificate) => {
                changed.others |= insert(&mut self.certificates, settings, certificate);
            }
            Object::Credential(credential) => {
                changed.credentials |= insert(&mut self.credentials, credential.key(), credential);
            }
        }
    }

    fn delete(&mut self, id: &ObjectId, changed: &mut Changed) {
        match id {
            ObjectId::Namespace(name) => changed.others |= self.namespaces.remove(name).is_some(),
            ObjectId::Service(name) => self.change_service(name.clone(), None, changed),
            ObjectId::EndpointSlice(name) => self.delete_slice(name, changed),
            ObjectId::Pod(uid) => self.change_pod(uid, None, changed),
            ObjectId::Certificate(settings) => {
                changed.others |= self.certificates.remove(settings).is_some();
            }
            ObjectId::Credential(name) => {
                changed.credentials |= self.credentials.remove(name).is_some();
            }
        }
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>, changed: &mut Changed) {
        let mut deleted: BTreeSet<ObjectId> = self.ids(kind).collect();
        for object in objects {
            let id = object.id();
            if id.kind() == kind {
                deleted.remove(&id);
                self.upsert(object, changed);
            }
        }
        deleted.iter().for_each(|id| self.delete(id, changed));
    }

    fn ids(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectId> + '_> {
        match kind {
            Kind::Namespace => Box::new(self.namespaces.keys().cloned().map(ObjectId::Namespace)),
            Kind::Service => Box::new(self.services.keys().cloned().map(ObjectId::Service)),
            Kind::EndpointSlice => {
                Box::new(self.slice_services.keys().cloned().map(ObjectId::EndpointSlice))
            }
            Kind::Pod => Box::new(self.pods.uids().cloned().map(ObjectId::Pod)),
            Kind::Certificate => {
                Box::new(self.certificates.keys().cloned().map(ObjectId::Certificate))
            }
            Kind::Credential => {
                Box::new(self.credentials.keys().cloned().map(ObjectId::Credential))
            }
        }
    }

    fn change_service(
        &mut self,
        key: NamespacedName,
        service: Option<Service>,
        changed: &mut Changed,
    ) {
        let before = self.services.get(&key);
        if before == service.as_ref() {
            return;
        }
        let (before, after) = (before, service.as_ref());
        let addresses = |of: fn(&Service) -> &[IpAddr]| {
            (before.map(of).unwrap_or_default(), after.map(of).unwrap_or_default())
        };
        let (old, new) = addresses(|service| &service.cluster_ips);
        changed.reserved |= self.reserved.replace_cluster_ips(old, new);
        // Whoever may write Services elsewhere could reserve the addresses of others' pods.
        if key.namespace == self.installation.namespace {
            let (old, new) = addresses(|service| &service.external_ips);
            changed.reserved |= self.reserved.replace_external(old, new);
        }
        match service {
            Some(service) => drop(self.services.insert(key.clone(), service)),
            None => drop(self.services.remove(&key)),
        }
        changed.services.insert(key);
    }
}

/// Inserts a value; returns whether the map has changed.
fn insert<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> bool {
    let differs = map.get(&key) != Some(&value);
    if differs {
        map.insert(key, value);
    }
    differs
}

/// The parts of an object's metadata that every kind here has.
struct Metadata {
    origin: Origin,
    /// Seconds since 1970; an object of unknown age counts as the newest.
    created: i64,
}

// === impl Metadata ===

impl Metadata {
    /// Parses an object's metadata. `namespaced` is whether its kind has a namespace, which is
    /// `default` where none is written.
    fn read(
        kind: &'static str,
        namespaced: bool,
        metadata: &ObjectMeta,
        place: Option<SourceLocation>,
    ) -> Result<Self, Problem> {
        let namespace = match (&metadata.namespace, namespaced) {
            (Some(namespace), true) => namespace.as_str().into(),
            (None, true) => "default".into(),
            (_, false) => "".into(),
        };
        let name = metadata.name.as_deref().unwrap_or_default().into();
        let origin = Origin { kind, namespace, name, place };
        if origin.name.is_empty() {
            return Err(unreadable(
                origin,
                "it has no `metadata.name`".to_owned(),
                "give it a name".to_owned(),
            ));
        }
        let created =
            metadata.creation_timestamp.as_ref().map_or(i64::MAX, |time| time.0.as_second());
        Ok(Self { origin, created })
    }
}

/// The problem of an object that cannot be parsed; its last valid version stays in effect.
fn unreadable(origin: Origin, message: String, help: String) -> Problem {
    Problem { severity: Severity::Error, reason: "Unreadable", origin, message, help }
}

#[cfg(test)]
mod tests;
