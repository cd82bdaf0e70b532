//! The typed store: all that translation reads.
//!
//! Objects are trimmed to what is read before they are kept, and parsed once, at this border: an
//! object that cannot be understood is a [`Problem`], and its source keeps what it knew of it. The
//! store tells of each [`Change`] what it [`Affected`], so that a change of one Service's endpoints
//! swaps that set alone.

mod annotations;
mod certificate;
pub mod credential;
mod endpoint_slice;
mod namespace;
mod service;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

pub use self::annotations::{Annotations, MAX_UNKNOWN, MAX_VALUE, Value};
use self::credential::Credential;
pub use self::endpoint_slice::{
    Conditions, EndpointPort, EndpointSlice, SERVICE_NAME, SliceEndpoint,
};
pub use self::namespace::Namespace;
pub use self::service::{Service, ServicePort};
use crate::model::{NamespacedName, Origin, Place};
use crate::problem::{Problem, Severity};
use crate::settings::CertificateSettings;
use crate::snapshot::certificate::Certificate;
use crate::translate::endpoints;

/// Everything that is known of the cluster, or of the folder.
#[derive(Debug, Clone, Default)]
pub struct Resources {
    namespaces: BTreeMap<Arc<str>, Namespace>,
    services: BTreeMap<NamespacedName, Service>,
    slices: BTreeMap<NamespacedName, BTreeMap<Arc<str>, EndpointSlice>>,
    /// Which Service each slice is kept under: a slice may change its label.
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
    /// What was found where the configuration said that a certificate is.
    Certificate(CertificateSettings, Certificate),
    /// A Secret that holds a credential.
    Credential(Credential),
}

/// Names an object of the store.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum ObjectId {
    /// A Namespace.
    Namespace(Arc<str>),
    /// A Service.
    Service(NamespacedName),
    /// An EndpointSlice, by its own name.
    EndpointSlice(NamespacedName),
    /// A certificate, by what the configuration says about it.
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
    /// Certificates, of files and of Secrets.
    Certificate,
    /// Secrets that hold credentials.
    Credential,
}

/// A change to the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// This object is there now, new or changed.
    Upsert(Object),
    /// This object is gone.
    Delete(ObjectId),
    /// These are all objects of the kind; objects of other kinds in the list are ignored.
    Replace(Kind, Vec<Object>),
}

/// What must be done after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Affected {
    /// Nothing that is read has changed.
    #[default]
    Nothing,
    /// The endpoints of these Services; routes and problems are what they were.
    Endpoints(BTreeSet<NamespacedName>),
    /// The credentials, and the endpoints of these Services; routes are what they were.
    Credentials(BTreeSet<NamespacedName>),
    /// Anything: all must be translated anew.
    Routes,
}

// === impl Object ===

impl Object {
    /// Its name in the store.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        match self {
            Self::Namespace(namespace) => ObjectId::Namespace(namespace.name().clone()),
            Self::Service(service) => ObjectId::Service(service.key()),
            Self::EndpointSlice(slice) => ObjectId::EndpointSlice(slice.key()),
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
            Self::Certificate(_) => Kind::Certificate,
            Self::Credential(_) => Kind::Credential,
        }
    }
}

// === impl Resources ===

impl Resources {
    /// Applies a change, and tells what it affects.
    pub fn apply(&mut self, change: Change) -> Affected {
        match change {
            Change::Upsert(object) => self.upsert(object),
            Change::Delete(id) => self.delete(&id),
            Change::Replace(kind, objects) => self.replace(kind, objects),
        }
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
        self.slices.get(service).into_iter().flat_map(BTreeMap::values)
    }

    /// All EndpointSlices, by namespace, Service and name.
    pub fn all_slices(&self) -> impl Iterator<Item = &EndpointSlice> {
        self.slices.values().flat_map(BTreeMap::values)
    }

    /// What was found where the configuration said that a certificate is.
    #[must_use]
    pub fn certificate(&self, settings: &CertificateSettings) -> Option<&Certificate> {
        self.certificates.get(settings)
    }

    /// All credentials, by the names of their Secrets.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        self.credentials.values()
    }

    fn upsert(&mut self, object: Object) -> Affected {
        match object {
            Object::Namespace(namespace) => {
                insert(&mut self.namespaces, namespace.name().clone(), namespace)
            }
            Object::Service(service) => insert(&mut self.services, service.key(), service),
            Object::EndpointSlice(slice) => self.upsert_slice(slice),
            Object::Certificate(settings, certificate) => {
                insert(&mut self.certificates, settings, certificate)
            }
            Object::Credential(credential) => {
                insert(&mut self.credentials, credential.key(), credential).of_credentials()
            }
        }
    }

    fn delete(&mut self, id: &ObjectId) -> Affected {
        let found = match id {
            ObjectId::Namespace(name) => self.namespaces.remove(name).is_some(),
            ObjectId::Service(name) => self.services.remove(name).is_some(),
            ObjectId::EndpointSlice(name) => return self.delete_slice(name),
            ObjectId::Certificate(settings) => self.certificates.remove(settings).is_some(),
            ObjectId::Credential(name) => {
                let found = self.credentials.remove(name).is_some();
                return if found {
                    Affected::Credentials(BTreeSet::new())
                } else {
                    Affected::Nothing
                };
            }
        };
        if found { Affected::Routes } else { Affected::Nothing }
    }

    fn replace(&mut self, kind: Kind, objects: Vec<Object>) -> Affected {
        let mut gone: BTreeSet<ObjectId> = self.ids(kind).collect();
        let mut affected = Affected::Nothing;
        for object in objects {
            let id = object.id();
            if id.kind() == kind {
                gone.remove(&id);
                affected = affected.and(self.upsert(object));
            }
        }
        gone.iter().fold(affected, |affected, id| affected.and(self.delete(id)))
    }

    fn ids(&self, kind: Kind) -> Box<dyn Iterator<Item = ObjectId> + '_> {
        match kind {
            Kind::Namespace => Box::new(self.namespaces.keys().cloned().map(ObjectId::Namespace)),
            Kind::Service => Box::new(self.services.keys().cloned().map(ObjectId::Service)),
            Kind::EndpointSlice => {
                Box::new(self.slice_services.keys().cloned().map(ObjectId::EndpointSlice))
            }
            Kind::Certificate => {
                Box::new(self.certificates.keys().cloned().map(ObjectId::Certificate))
            }
            Kind::Credential => {
                Box::new(self.credentials.keys().cloned().map(ObjectId::Credential))
            }
        }
    }

    fn upsert_slice(&mut self, slice: EndpointSlice) -> Affected {
        let (key, service) = (slice.key(), slice.service_key());
        let moved = match self.slice_services.get(&key) {
            Some(before) if *before != service => self.delete_slice(&key),
            _ => Affected::Nothing,
        };
        if self.slices.get(&service).and_then(|slices| slices.get(&key.name)) == Some(&slice) {
            return moved;
        }
        let changed = self.change_slices(&service, |slices| {
            slices.insert(key.name.clone(), slice);
        });
        self.slice_services.insert(key, service);
        moved.and(changed)
    }

    fn delete_slice(&mut self, key: &NamespacedName) -> Affected {
        let Some(service) = self.slice_services.remove(key) else { return Affected::Nothing };
        self.change_slices(&service, |slices| {
            slices.remove(&key.name);
        })
    }

    /// Endpoints alone are affected unless there is more, or less, to tell the owner of the
    /// Service.
    fn change_slices(
        &mut self,
        service: &NamespacedName,
        change: impl FnOnce(&mut BTreeMap<Arc<str>, EndpointSlice>),
    ) -> Affected {
        let before = endpoints::problems(self, service, None);
        let slices = self.slices.entry(service.clone()).or_default();
        change(slices);
        if slices.is_empty() {
            self.slices.remove(service);
        }
        if endpoints::problems(self, service, None) == before {
            Affected::Endpoints(BTreeSet::from([service.clone()]))
        } else {
            Affected::Routes
        }
    }
}

fn insert<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: V) -> Affected {
    if map.get(&key) == Some(&value) {
        return Affected::Nothing;
    }
    map.insert(key, value);
    Affected::Routes
}

// === impl Affected ===

impl Affected {
    /// What two changes affect together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Routes, _) | (_, Self::Routes) => Self::Routes,
            (Self::Nothing, affected) | (affected, Self::Nothing) => affected,
            (Self::Endpoints(some), Self::Endpoints(others)) => {
                Self::Endpoints(joined(some, others))
            }
            (Self::Credentials(some), Self::Credentials(others) | Self::Endpoints(others))
            | (Self::Endpoints(some), Self::Credentials(others)) => {
                Self::Credentials(joined(some, others))
            }
        }
    }

    /// The same, of credentials alone.
    fn of_credentials(self) -> Self {
        match self {
            Self::Nothing => Self::Nothing,
            _ => Self::Credentials(BTreeSet::new()),
        }
    }
}

fn joined(
    mut some: BTreeSet<NamespacedName>,
    others: BTreeSet<NamespacedName>,
) -> BTreeSet<NamespacedName> {
    // Not `append`: it builds the whole set anew, and 10,000 Services come one by one.
    some.extend(others);
    some
}

/// The parts of an object's metadata that every kind here has.
struct Metadata {
    origin: Origin,
    /// Seconds since 1970; an object of unknown age counts as the newest.
    created: i64,
}

// === impl Metadata ===

impl Metadata {
    /// Reads an object's metadata. `namespaced` tells whether its kind has a namespace: the default
    /// one where none is written.
    fn read(
        kind: &'static str,
        namespaced: bool,
        metadata: &ObjectMeta,
        place: Option<Place>,
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

/// An object that cannot be understood: what was known of it stays.
fn unreadable(origin: Origin, message: String, help: String) -> Problem {
    Problem { severity: Severity::Error, reason: "Unreadable", origin, message, help }
}

#[cfg(test)]
mod tests;
