//! The real cluster: server-side apply.

use k8s_openapi::api::events::v1::Event;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, GroupVersionKind, ListParams, Patch,
    PatchParams, PostParams, Preconditions,
};
use kube::{Client, Error, ResourceExt};
use portcullis_config::model::vocabulary::{ENVIRONMENT, PREFIX};
use serde_json::{Value, json};

use super::objects::{self, Kinds};
use super::{Answer, Cluster, ClusterError, FIELD_MANAGER, Inspected, Mode, ObjectEvent, Owner};
use super::{events, readiness};
use crate::manifest::{ObjectRef, autoscaler, namespace_label, service_label};
use crate::model::{DeploymentId, EnvironmentName};
use crate::state::Readiness;

/// How often a write is tried again after the object has changed since it was read.
const ATTEMPTS: usize = 5;
/// The most Namespaces of an environment that are looked at.
const MAX_NAMESPACES: u32 = 500;
/// The kinds that select pods: their groups, names and resources.
const SELECTING: [(&str, &str, &str); 6] = [
    ("", "Service", "services"),
    ("apps", "Deployment", "deployments"),
    ("apps", "StatefulSet", "statefulsets"),
    ("apps", "DaemonSet", "daemonsets"),
    ("policy", "PodDisruptionBudget", "poddisruptionbudgets"),
    ("networking.k8s.io", "NetworkPolicy", "networkpolicies"),
];
/// How many objects of each of these kinds are looked at: pages, and the objects of a page, which are
/// in memory at the same time.
const SELECTING_PAGES: usize = 20;
const SELECTING_PAGE: u32 = 25;
/// A version that no object has, as etcd's first write makes revision 2. The server compares it with
/// that of an existing object and ignores it where there is none: so it permits a creation alone.
const NO_VERSION: &str = "1";

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
            .list_metadata(&ListParams::default().labels(&selector).limit(MAX_NAMESPACES))
            .await
            .map_err(|error| objects::failed(&error))?;
        let label = namespace_label();
        let is_chosen = |namespace: &&_| {
            ResourceExt::labels(*namespace).get(&label).is_some_and(|value| value == "true")
        };
        let name = |namespace| ResourceExt::name_any(namespace);
        let chosen: Vec<String> = match found.items.as_slice() {
            [only] => vec![only.name_any()],
            several => several.iter().filter(is_chosen).map(name).collect(),
        };
        match (found.items.len(), chosen.as_slice()) {
            (_, [namespace]) => Ok(namespace.clone()),
            (0, _) => Err(ClusterError::Rejected(format!(
                "no Namespace is the environment {environment}: label one with `{selector}`"
            ))),
            (several, _) => Err(ClusterError::Rejected(format!(
                "the environment {environment} has {several} Namespaces, {} of which have the label \
                 `{label}=true`: give it to the one that releases are deployed to",
                chosen.len()
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
        let mut manifest = manifest.clone();
        let mut existed = false;
        for _ in 0..ATTEMPTS {
            let live = api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
            // Whoever deleted it may be a later builder. The caller looks whether its work is current.
            if existed && live.is_none() {
                return Err(ClusterError::Unreachable(format!("{object} has just been deleted")));
            }
            existed = live.is_some();
            if let Some(live) = &live {
                check_owner(&object, live, owner)?;
                // It would vanish with what is written to it.
                if is_being_deleted(live) {
                    return Err(ClusterError::Unreachable(format!("{object} is being deleted")));
                }
            }
            // An earlier call of the same deployment may have written the fence already.
            let can_skip = owner.fence.as_ref().is_none_or(|fence| has_fence(live.as_ref(), fence));
            if mode == Mode::Apply
                && can_skip
                && self.is_applied(&api, &manifest, &object, &live).await?
            {
                return Ok(());
            }
            let marked = marked(&manifest, live.as_ref(), owner.epoch, owner.fence.as_ref());
            match api.patch(&object.name, &parameters(mode), &Patch::Apply(&marked)).await {
                Ok(_) => return Ok(()),
                Err(error) if objects::has_changed(&error) => {}
                Err(error) if objects::is_scaled_by_autoscaler(&error) => {
                    autoscaler::leave_replicas(&mut manifest);
                }
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
            Err(error) if objects::is_scaled_by_autoscaler(&error) => Ok(false),
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
            // What someone else has taken over is theirs, and so is what no builder has written.
            let service = live.labels().get(&service_label()).map(String::as_str);
            let is_ours =
                service == Some(owner.service.as_str()) && objects::epoch(&live).is_some();
            if !is_ours || is_being_deleted(&live) {
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

impl Kubernetes {
    async fn selecting_in(&self, namespace: &str) -> Result<Vec<Value>, ClusterError> {
        let mut found = Vec::new();
        for (group, kind, plural) in SELECTING {
            let kind = GroupVersionKind::gvk(group, "v1", kind);
            let resource = ApiResource::from_gvk_with_plural(&kind, plural);
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), namespace, &resource);
            let mut page = ListParams::default().limit(SELECTING_PAGE);
            for _ in 0..SELECTING_PAGES {
                let list = api.list(&page).await.map_err(|error| objects::failed(&error))?;
                let next = list.metadata.continue_.filter(|token| !token.is_empty());
                found.extend(list.items.iter().map(|object| {
                    objects::selecting(&resource.api_version, &resource.kind, object)
                }));
                let Some(next) = next else { break };
                page = page.continue_token(&next);
            }
        }
        Ok(found)
    }

    async fn report_one(
        &self,
        namespace: &str,
        object: &ObjectRef,
        happened: &ObjectEvent,
    ) -> Result<(), ClusterError> {
        let api = self.api(namespace, object).await?;
        let live = api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
        let Some(live) = live else { return Ok(()) };
        let event = events::event(happened, object, &live, std::time::SystemTime::now());
        let events: Api<Event> = Api::namespaced(self.client.clone(), namespace);
        match events.create(&PostParams::default(), &event).await {
            // An earlier builder has written it.
            Err(Error::Api(status)) if status.code == 409 => Ok(()),
            written => written.map(drop).map_err(|error| objects::failed(&error)),
        }
    }
}

/// What is known of an object, with the reason why it is not ready.
async fn inspected(
    client: &Client,
    namespace: &str,
    object: &ObjectRef,
    live: &DynamicObject,
) -> Inspected {
    let readiness = match readiness::of(object, live) {
        Readiness::Ready => Readiness::Ready,
        other => super::pods::Pods::new(client, namespace).explain(other, Some(live)).await,
    };
    let replicas = live.data.pointer("/spec/replicas").and_then(Value::as_u64).unwrap_or(1);
    let uid = live.uid().unwrap_or_default();
    Inspected {
        version: format!("{uid}/{}", live.metadata.generation.unwrap_or_default()),
        annotations: live.annotations().clone(),
        replicas: u32::try_from(replicas).unwrap_or(u32::MAX),
        readiness,
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

    fn inspect<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, Vec<Option<Inspected>>> {
        Box::pin(async move {
            let mut all = Vec::new();
            for object in objects {
                let api = self.api(namespace, object).await?;
                let live =
                    api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
                all.push(match &live {
                    Some(live) => Some(inspected(&self.client, namespace, object, live).await),
                    None => None,
                });
            }
            Ok(all)
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

    fn log<'a>(&'a self, namespace: &'a str, object: &'a ObjectRef) -> Answer<'a, String> {
        Box::pin(async move {
            let api = self.api(namespace, object).await?;
            let live = api.get_opt(&object.name).await.map_err(|error| objects::failed(&error))?;
            let Some(live) = live else { return Ok(String::new()) };
            super::pods::Pods::new(&self.client, namespace).last_log(&live).await
        })
    }

    fn selecting<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Value>> {
        Box::pin(self.selecting_in(namespace))
    }

    fn report<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        event: &'a ObjectEvent,
    ) -> Answer<'a, ()> {
        Box::pin(self.report_one(namespace, object, event))
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
        // Which one it is, the caller need not be allowed to know.
        Some(_) => {
            return Err(ClusterError::Rejected(format!(
                "{object} belongs to another service: choose another name"
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

fn has_fence(live: Option<&DynamicObject>, fence: &DeploymentId) -> bool {
    let found = live.and_then(|live| live.annotations().get(&objects::fence_annotation()));
    found.is_some_and(|found| *found == fence.to_string())
}

/// The manifest with the builder's epoch, and the fence or the one that the object has.
///
/// A write that arrives late does nothing: the version makes the server reject it if the object has
/// changed since it was read, the uid if the object is gone, and [`NO_VERSION`] if another builder
/// has created it.
fn marked(
    manifest: &Value,
    live: Option<&DynamicObject>,
    epoch: u64,
    fence: Option<&DeploymentId>,
) -> Value {
    let mut manifest = manifest.clone();
    if let Some(metadata) = manifest.get_mut("metadata") {
        let version = live.map_or(Some(NO_VERSION.to_owned()), ResourceExt::resource_version);
        if let Some(version) = version {
            merge(metadata, "resourceVersion", version.into());
        }
        if let Some(uid) = live.and_then(ResourceExt::uid) {
            merge(metadata, "uid", uid.into());
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
