//! The real cluster: server-side apply.

use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, Preconditions};
use kube::{Client, Error, ResourceExt};
use portcullis_config::model::vocabulary::{ENVIRONMENT, PREFIX};
use serde_json::{Value, json};

use super::objects::{self, Kinds};
use super::readiness;
use super::{Answer, Cluster, ClusterError, FIELD_MANAGER, Mode, Owner};
use crate::manifest::{ObjectRef, service_label};
use crate::model::{DeploymentId, EnvironmentName};
use crate::state::Readiness;

/// How often a write is tried again after the object has changed since it was read.
const ATTEMPTS: usize = 5;

/// A Kubernetes cluster.
#[derive(Clone)]
pub struct Kubernetes {
    client: Client,
    kinds: std::sync::Arc<Kinds>,
}

// === impl Kubernetes ===

impl Kubernetes {
    /// The cluster behind a client.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, kinds: std::sync::Arc::default() }
    }

    async fn api(
        &self,
        namespace: &str,
        object: &ObjectRef,
    ) -> Result<Api<DynamicObject>, ClusterError> {
        let resource = self.kinds.find(&self.client, object).await?;
        Ok(Api::namespaced_with(self.client.clone(), namespace, &resource))
    }

    async fn namespace_of(&self, environment: &EnvironmentName) -> Result<String, ClusterError> {
        let selector = format!("{PREFIX}{}={environment}", ENVIRONMENT.name);
        let namespaces: Api<k8s_openapi::api::core::v1::Namespace> = Api::all(self.client.clone());
        let found = namespaces
            .list_metadata(&ListParams::default().labels(&selector).limit(10))
            .await
            .map_err(|error| objects::failed(&error))?;
        let mut names: Vec<String> = found.items.iter().map(ResourceExt::name_any).collect();
        match (names.pop(), names.is_empty()) {
            (Some(name), true) => Ok(name),
            (None, _) => Err(ClusterError::Rejected(format!(
                "no Namespace is the environment {environment}: label one with `{selector}`"
            ))),
            (Some(last), false) => Err(ClusterError::Rejected(format!(
                "the environment {environment} has several Namespaces ({}, {last}): releases are \
                 deployed to environments of one",
                names.join(", ")
            ))),
        }
    }

    async fn apply_one(
        &self,
        manifest: &Value,
        owner: &Owner,
        mode: Mode,
    ) -> Result<(), ClusterError> {
        let object = ObjectRef::of(manifest)
            .ok_or_else(|| ClusterError::Rejected("a manifest has no name".to_owned()))?;
        let namespace = manifest.pointer("/metadata/namespace").and_then(Value::as_str);
        let api = self.api(namespace.unwrap_or_default(), &object).await?;
        for _ in 0..ATTEMPTS {
            let live = api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
            if let Some(live) = &live {
                check_owner(&object, live, owner)?;
                // It would vanish with what is written to it.
                if is_being_deleted(live) {
                    return Err(ClusterError::Unreachable(format!("{object} is being deleted")));
                }
            }
            let can_skip = mode == Mode::Apply && owner.fence.is_none();
            if can_skip && self.is_applied(&api, manifest, &object, &live).await? {
                return Ok(());
            }
            let marked = marked(manifest, live.as_ref(), owner.epoch, owner.fence.as_ref());
            match api.patch(&object.name, &parameters(mode), &Patch::Apply(&marked)).await {
                Ok(_) => return Ok(()),
                Err(error) if objects::has_changed(&error) => {}
                Err(error) => return Err(about(&object, &error)),
            }
        }
        Err(ClusterError::Unreachable(format!("{object} changes faster than it can be applied")))
    }

    /// Whether applying would change nothing, so that the same release twice writes nothing.
    async fn is_applied(
        &self,
        api: &Api<DynamicObject>,
        manifest: &Value,
        object: &ObjectRef,
        live: &Option<DynamicObject>,
    ) -> Result<bool, ClusterError> {
        let Some(live) = live else { return Ok(false) };
        let same = marked(manifest, Some(live), objects::epoch(live).unwrap_or_default(), None);
        match api.patch(&object.name, &parameters(Mode::DryRun), &Patch::Apply(&same)).await {
            Ok(result) => Ok(objects::is_same_content(&result, live)),
            Err(error) if objects::has_changed(&error) => Ok(false),
            Err(error) => Err(about(object, &error)),
        }
    }

    async fn prune_one(
        &self,
        namespace: &str,
        object: &ObjectRef,
        owner: &Owner,
    ) -> Result<(), ClusterError> {
        let api = match self.api(namespace, object).await {
            // Its kind has left the cluster, and the object with it.
            Err(ClusterError::Rejected(_)) => return Ok(()),
            api => api?,
        };
        for _ in 0..ATTEMPTS {
            let live = api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
            let Some(live) = live else { return Ok(()) };
            // What someone else has taken over is theirs.
            let service = live.labels().get(&service_label()).map(String::as_str);
            if service != Some(owner.service.as_str()) || is_being_deleted(&live) {
                return Ok(());
            }
            check_owner(object, &live, owner)?;
            // A later deployment may have applied it again since: then its version has changed.
            let preconditions =
                Preconditions { uid: live.uid(), resource_version: live.resource_version() };
            let parameters = DeleteParams::background().preconditions(preconditions);
            match api.delete(&object.name, &parameters).await {
                Ok(_) => return Ok(()),
                Err(Error::Api(status)) if status.code == 404 => return Ok(()),
                Err(error) if objects::has_changed(&error) => {}
                Err(error) => return Err(about(object, &error)),
            }
        }
        Err(ClusterError::Unreachable(format!("{object} changes faster than it can be deleted")))
    }
}

impl Cluster for Kubernetes {
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> Answer<'a, String> {
        Box::pin(self.namespace_of(environment))
    }

    fn apply<'a>(&'a self, manifest: &'a Value, owner: &'a Owner, mode: Mode) -> Answer<'a, ()> {
        Box::pin(self.apply_one(manifest, owner, mode))
    }

    fn observe<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, Readiness> {
        Box::pin(async move {
            for object in objects {
                let api = self.api(namespace, object).await?;
                let live =
                    api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
                let readiness = match &live {
                    Some(live) => readiness::of(object, live),
                    None => Readiness::Failed(format!("{object} has been deleted")),
                };
                if readiness != Readiness::Ready {
                    let pods = super::pods::Pods::new(&self.client, namespace);
                    return Ok(pods.explain(readiness, live.as_ref()).await);
                }
            }
            Ok(Readiness::Ready)
        })
    }

    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        owner: &'a Owner,
    ) -> Answer<'a, ()> {
        Box::pin(self.prune_one(namespace, object, owner))
    }
}

fn is_being_deleted(live: &DynamicObject) -> bool {
    live.metadata.deletion_timestamp.is_some()
}

fn parameters(mode: Mode) -> PatchParams {
    let parameters = PatchParams::apply(FIELD_MANAGER);
    match mode {
        Mode::DryRun => parameters.dry_run(),
        Mode::Apply => parameters,
    }
}

/// Rejects objects of other services, objects that no release brought, and those that a later
/// builder has worked on.
fn check_owner(
    object: &ObjectRef,
    live: &DynamicObject,
    owner: &Owner,
) -> Result<(), ClusterError> {
    let label = service_label();
    match live.labels().get(&label) {
        Some(service) if service == owner.service.as_str() => {}
        Some(service) => {
            return Err(ClusterError::Rejected(format!(
                "{object} belongs to the service {service}: choose another name"
            )));
        }
        None => {
            return Err(ClusterError::Rejected(format!(
                "{object} exists, and no release brought it: label it `{label}={}` to let \
                 releases change it",
                owner.service
            )));
        }
    }
    if objects::epoch(live).is_some_and(|epoch| epoch > owner.epoch) {
        return Err(ClusterError::Rejected(format!(
            "{object} is worked on by a builder that started later; if there is none, remove its \
             annotation `{}`",
            objects::epoch_annotation()
        )));
    }
    Ok(())
}

/// The manifest with the builder's epoch, and the fence or the one that the object has. The version
/// makes the server reject the write if the object has changed since it was read.
fn marked(
    manifest: &Value,
    live: Option<&DynamicObject>,
    epoch: u64,
    fence: Option<&DeploymentId>,
) -> Value {
    let mut manifest = manifest.clone();
    if let Some(metadata) = manifest.get_mut("metadata") {
        if let Some(version) = live.and_then(ResourceExt::resource_version) {
            merge(metadata, "resourceVersion", version.into());
        }
        let mut annotations = metadata.get("annotations").cloned().unwrap_or_else(|| json!({}));
        merge(&mut annotations, &objects::epoch_annotation(), epoch.to_string().into());
        let key = objects::fence_annotation();
        let known = || live?.annotations().get(&key).cloned();
        if let Some(fence) = fence.map(ToString::to_string).or_else(known) {
            merge(&mut annotations, &key, fence.into());
        }
        merge(metadata, "annotations", annotations);
    }
    manifest
}

fn merge(object: &mut Value, key: &str, value: Value) {
    if let Some(map) = object.as_object_mut() {
        map.insert(key.to_owned(), value);
    }
}

/// A failure of a write, with the object and, on a conflict, who holds which field.
fn about(object: &ObjectRef, error: &Error) -> ClusterError {
    match objects::failed(error) {
        ClusterError::Rejected(reason) => ClusterError::Rejected(format!("{object}: {reason}")),
        unreachable => unreachable,
    }
}
