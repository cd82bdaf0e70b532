//! Weights in a cluster: the annotations of the stable Service, by server-side apply under a field
//! manager of their own. So the API server itself notices who else writes them.

use std::fmt;

use k8s_openapi::api::core::v1::{Namespace, Service};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::core::Status;
use kube::{Client, Error};
use serde_json::{Map, Value, json};

use super::{Change, Edit, Outcome, Selector, TrafficError, plan};
use crate::model::NamespacedName;
use crate::model::vocabulary::{ENVIRONMENT, PREFIX, SPLIT};
use crate::resources::{self, Object, Resources};
use crate::settings::KubernetesSettings;
use crate::source::kubernetes::client;
use crate::translate::{SplitView, split_view};

/// The field manager of weights.
pub const FIELD_MANAGER: &str = "portcullis-traffic";
/// How often a write is tried again after the Service has changed since it was read.
const ATTEMPTS: usize = 5;

/// A Kubernetes cluster.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
}

/// What is read before a change.
struct Found {
    name: NamespacedName,
    version: Option<String>,
    view: SplitView,
    writer: Option<String>,
}

/// The outcome of one write.
enum Written {
    Done,
    /// The Service has changed since it was read.
    Outdated,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").finish_non_exhaustive()
    }
}

// === impl Cluster ===

impl Cluster {
    /// Finds the API server and its credentials, without sending a request.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn new(settings: &KubernetesSettings) -> Result<Self, TrafficError> {
        Ok(Self { client: client(settings).await? })
    }

    /// The variants of a Service. Without a Namespace and an environment it is in the Namespace of
    /// the kubeconfig.
    ///
    /// # Errors
    /// There is no such Service, or more than one, or the API server does not respond.
    pub async fn view(
        &self,
        selector: &Selector,
    ) -> Result<(NamespacedName, SplitView), TrafficError> {
        let Found { name, view, .. } = self.read(selector).await?;
        Ok((name, view))
    }

    /// The variants of a Service, as [`view`](Self::view), and the field manager that has set its
    /// weights last.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub async fn view_with_writer(
        &self,
        selector: &Selector,
    ) -> Result<(SplitView, Option<String>), TrafficError> {
        let Found { view, writer, .. } = self.read(selector).await?;
        Ok((view, writer))
    }

    /// Changes weights. `expected` is the generation that the split has to have; with `force`, weights
    /// that someone else has set are overwritten, and those of missing variants are lost.
    ///
    /// # Errors
    /// The change is not possible, someone else sets the weights, or the API server does not respond.
    pub async fn set(
        &self,
        selector: &Selector,
        change: &Change,
        expected: Option<u64>,
        force: bool,
    ) -> Result<Outcome, TrafficError> {
        let mut expected = expected;
        for _ in 0..ATTEMPTS {
            let Found { name, version, view, .. } = self.read(selector).await?;
            super::check_generation(&name, &view, expected)?;
            let plan = plan(&name, &view, change, force)?;
            // A later attempt is for the same split: only something else may have changed.
            expected = Some(plan.before.generation.number());
            let written = match &plan.edit {
                Some(edit) => self.write(&name, version, edit, force).await?,
                None => Written::Done,
            };
            if let Written::Done = written {
                return Ok(Outcome { service: name, plan });
            }
        }
        let message =
            format!("the Service {} changes faster than it can be written", selector.service);
        Err(TrafficError::Conflict(message))
    }

    async fn read(&self, selector: &Selector) -> Result<Found, TrafficError> {
        let mut selector = selector.clone();
        if selector.namespace.is_none() && selector.environment.is_none() {
            selector.namespace = Some(self.client.default_namespace().to_owned());
        }
        let mut resources = Resources::default();
        for namespace in self.namespaces(&selector).await? {
            upsert(
                &mut resources,
                resources::Namespace::from_object(&namespace, None).map(Object::Namespace),
            );
        }
        let names: Vec<String> = match &selector.namespace {
            Some(namespace) => vec![namespace.clone()],
            None => resources.namespaces().map(|found| found.name().to_string()).collect(),
        };
        let mut versions = Vec::new();
        for namespace in names {
            let api: Api<Service> = Api::namespaced(self.client.clone(), &namespace);
            let listed = api.list(&ListParams::default()).await;
            for service in listed.map_err(|error| failed("list Services", error))? {
                let read = resources::Service::from_object(&service, None);
                if let Ok(read) = &read {
                    let version = service.metadata.resource_version.clone();
                    versions.push((read.key(), version, writer(&service)));
                }
                upsert(&mut resources, read.map(Object::Service));
            }
        }
        let name = selector.find(&resources)?;
        let found = versions.into_iter().find(|(key, ..)| *key == name);
        let (version, writer) = found.map_or((None, None), |(_, version, by)| (version, by));
        let missing = || super::NotFound::Missing {
            service: name.name.to_string(),
            place: format!("the Namespace `{}`", name.namespace),
        };
        let service = resources.service(&name).ok_or_else(missing)?;
        Ok(Found { view: split_view(service, &resources), version, name, writer })
    }

    /// The Namespaces of the environment, if one is named.
    async fn namespaces(&self, selector: &Selector) -> Result<Vec<Namespace>, TrafficError> {
        let Some(environment) = &selector.environment else { return Ok(Vec::new()) };
        let label = format!("{PREFIX}{}={environment}", ENVIRONMENT.name);
        let api: Api<Namespace> = Api::all(self.client.clone());
        let listed = api.list(&ListParams::default().labels(&label)).await;
        Ok(listed.map_err(|error| failed("list Namespaces", error))?.items)
    }

    async fn write(
        &self,
        service: &NamespacedName,
        version: Option<String>,
        edit: &Edit,
        force: bool,
    ) -> Result<Written, TrafficError> {
        let annotations: Map<String, Value> =
            edit.annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
        let mut metadata = json!({ "name": service.name, "annotations": annotations });
        if let (Some(version), Some(metadata)) = (version, metadata.as_object_mut()) {
            metadata.insert("resourceVersion".to_owned(), json!(version));
        }
        let manifest = json!({ "apiVersion": "v1", "kind": "Service", "metadata": metadata });
        let api: Api<Service> = Api::namespaced(self.client.clone(), &service.namespace);
        let parameters = PatchParams::apply(FIELD_MANAGER);
        let parameters = if force { parameters.force() } else { parameters };
        match api.patch(&service.name, &parameters, &Patch::Apply(&manifest)).await {
            Ok(_) => Ok(Written::Done),
            Err(Error::Api(status)) if status.code == 409 => match owners(&status) {
                owners if owners.is_empty() => Ok(Written::Outdated),
                owners => Err(TrafficError::Owned { service: service.clone(), owners }),
            },
            Err(error) => Err(failed("change the Service", error)),
        }
    }
}

/// An object that cannot be read takes no part: the gateway ignores it, too.
fn upsert<E>(resources: &mut Resources, object: Result<Object, E>) {
    if let Ok(object) = object {
        resources.apply(resources::Change::Upsert(object));
    }
}

/// The field manager that has set a Service's weights last.
fn writer(service: &Service) -> Option<String> {
    let annotation = format!("f:{PREFIX}{}", SPLIT.name);
    let sets =
        |fields: &Value| fields.get("f:metadata")?.get("f:annotations")?.get(&annotation).map(drop);
    let managers = service.metadata.managed_fields.iter().flatten();
    let last = managers
        .filter(|entry| entry.fields_v1.as_ref().is_some_and(|fields| sets(&fields.0).is_some()))
        .max_by_key(|entry| entry.time.as_ref().map(|time| time.0))?;
    last.manager.clone()
}

/// The field managers that the API server names in a conflict; none if the object has changed since
/// it was read.
fn owners(status: &Status) -> Vec<String> {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    let conflicts = causes.filter(|cause| cause.reason == "FieldManagerConflict");
    // `conflict with "helm" using v1`
    let mut owners: Vec<String> = conflicts
        .map(|cause| cause.message.split('"').nth(1).unwrap_or(&cause.message).to_owned())
        .collect();
    owners.sort();
    owners.dedup();
    owners
}

fn failed(what: &'static str, error: Error) -> TrafficError {
    TrafficError::Cluster(what, Box::new(error))
}

#[cfg(test)]
mod tests;
