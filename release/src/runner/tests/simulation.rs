//! A cluster in memory: each environment is the Namespace of its name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};

use serde_json::Value;

use crate::cluster::{Answer, Cluster, ClusterError, Inspected, Mode, ObjectEvent, Owner};
use crate::manifest::ObjectRef;
use crate::model::EnvironmentName;
use crate::state::Readiness;

/// A handle on a cluster; clones share it.
#[derive(Clone, Default)]
pub(super) struct Simulation(Arc<Mutex<Content>>);

#[derive(Clone)]
struct Content {
    /// By namespace and reference: the manifest, and the epoch of its last writer.
    objects: BTreeMap<(String, ObjectRef), (Value, u64)>,
    writes: usize,
    fences: BTreeSet<String>,
    held_back: Option<String>,
    away: usize,
    rejection: Option<String>,
    events: Vec<(String, ObjectEvent)>,
    /// How far each Job is.
    job: Readiness,
}

impl Default for Content {
    fn default() -> Self {
        Self {
            objects: BTreeMap::new(),
            writes: 0,
            fences: BTreeSet::new(),
            held_back: None,
            away: 0,
            rejection: None,
            events: Vec::new(),
            job: Readiness::Ready,
        }
    }
}

// === impl Simulation ===

impl Simulation {
    pub(super) fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.content().clone())))
    }

    /// All objects of a namespace, in order.
    pub(super) fn objects(&self, namespace: &str) -> Vec<String> {
        let content = self.content();
        let keys = content.objects.keys().filter(|(of, _)| of == namespace);
        let mut names: Vec<String> = keys.map(|(_, object)| object.to_string()).collect();
        names.sort();
        names
    }

    /// The image of the Deployment.
    pub(super) fn image(&self, namespace: &str) -> Option<String> {
        let content = self.content();
        let mut objects = content.objects.iter();
        let (_, (manifest, _)) =
            objects.find(|((of, object), _)| of == namespace && object.kind == "Deployment")?;
        Some(manifest["spec"]["image"].as_str()?.to_owned())
    }

    /// The name of the ConfigMap that the pods of the Deployment refer to.
    pub(super) fn configuration(&self, namespace: &str) -> Option<String> {
        let content = self.content();
        let mut objects = content.objects.iter();
        let (_, (manifest, _)) =
            objects.find(|((of, object), _)| of == namespace && object.kind == "Deployment")?;
        let source = "/spec/template/spec/containers/0/envFrom/0/configMapRef/name";
        Some(manifest.pointer(source)?.as_str()?.to_owned())
    }

    /// The replicas of a Deployment.
    pub(super) fn replicas(&self, namespace: &str, name: &str) -> Option<u64> {
        let content = self.content();
        let mut objects = content.objects.iter();
        let (_, (manifest, _)) = objects.find(|((of, object), _)| {
            of == namespace && object.kind == "Deployment" && object.name == name
        })?;
        manifest["spec"]["replicas"].as_u64()
    }

    /// The data of an object.
    pub(super) fn data(&self, namespace: &str, name: &str) -> Option<Value> {
        let content = self.content();
        let mut objects = content.objects.iter();
        let (_, (manifest, _)) =
            objects.find(|((of, object), _)| of == namespace && object.to_string() == name)?;
        Some(manifest["data"].clone())
    }

    /// How many writes changed something.
    pub(super) fn writes(&self) -> usize {
        self.content().writes
    }

    /// The deployments that made earlier calls invalid.
    pub(super) fn fences(&self) -> Vec<String> {
        self.content().fences.iter().cloned().collect()
    }

    /// The Events, each with its object and its reason.
    pub(super) fn events(&self) -> Vec<(String, String)> {
        let content = self.content();
        let events = content.events.iter();
        events.map(|(object, event)| (object.clone(), event.reason.clone())).collect()
    }

    /// Lets Jobs be as far as this.
    pub(super) fn set_job(&self, readiness: Readiness) {
        self.content().job = readiness;
    }

    /// An object.
    pub(super) fn object(&self, namespace: &str, kind: &str) -> Option<Value> {
        let content = self.content();
        let mut objects = content.objects.iter();
        let (_, (manifest, _)) =
            objects.find(|((of, object), _)| of == namespace && object.kind == kind)?;
        Some(manifest.clone())
    }

    /// Lets nothing become ready.
    pub(super) fn hold_back(&self, reason: &str) {
        self.content().held_back = Some(reason.to_owned());
    }

    /// Lets everything become ready again.
    pub(super) fn let_through(&self) {
        self.content().held_back = None;
    }

    /// Is unreachable for some calls.
    pub(super) fn be_away(&self, calls: usize) {
        self.content().away = calls;
    }

    /// Rejects what is applied.
    pub(super) fn reject(&self, reason: &str) {
        self.content().rejection = Some(reason.to_owned());
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap()
    }

    fn reached(&self) -> Result<MutexGuard<'_, Content>, ClusterError> {
        let mut content = self.content();
        match content.away.checked_sub(1) {
            None => Ok(content),
            Some(left) => {
                content.away = left;
                Err(ClusterError::Unreachable("connection refused".to_owned()))
            }
        }
    }
}

impl Cluster for Simulation {
    fn namespace<'a>(&'a self, environment: &'a EnvironmentName) -> Answer<'a, String> {
        Box::pin(async move { self.reached().map(|_| environment.to_string()) })
    }

    fn apply<'a>(&'a self, manifest: &'a Value, owner: &'a Owner, mode: Mode) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut content = self.reached()?;
            if let Some(reason) = &content.rejection {
                return Err(ClusterError::Rejected(reason.clone()));
            }
            let namespace = manifest["metadata"]["namespace"].as_str().unwrap().to_owned();
            let key = (namespace, ObjectRef::of(manifest).unwrap());
            if content.objects.get(&key).is_some_and(|(_, epoch)| *epoch > owner.epoch) {
                return Err(ClusterError::Rejected("a later builder works on it".to_owned()));
            }
            content.fences.extend(owner.fence.as_ref().map(ToString::to_string));
            let is_same = content.objects.get(&key).is_some_and(|(live, _)| live == manifest);
            if mode == Mode::Apply && !is_same {
                content.objects.insert(key, (manifest.clone(), owner.epoch));
                content.writes += 1;
            }
            Ok(())
        })
    }

    fn observe<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, Readiness> {
        Box::pin(async move {
            let content = self.reached()?;
            for object in objects {
                assert!(content.objects.contains_key(&(namespace.to_owned(), object.clone())));
            }
            let held_back = content.held_back.clone();
            Ok(held_back.map_or(Readiness::Ready, Readiness::Progressing))
        })
    }

    fn inspect<'a>(
        &'a self,
        namespace: &'a str,
        objects: &'a [ObjectRef],
    ) -> Answer<'a, Vec<Option<Inspected>>> {
        Box::pin(async move {
            let content = self.reached()?;
            let held_back = content.held_back.clone();
            let inspected = objects.iter().map(|object| {
                let (live, _) = content.objects.get(&(namespace.to_owned(), object.clone()))?;
                let annotations = live["metadata"]["annotations"].as_object().into_iter().flatten();
                let text = |(key, value): (&String, &Value)| {
                    Some((key.clone(), value.as_str()?.to_owned()))
                };
                Some(Inspected {
                    version: live["spec"].to_string(),
                    annotations: annotations.filter_map(text).collect(),
                    replicas: live["spec"]["replicas"].as_u64().unwrap_or(1) as u32,
                    readiness: match object.kind.as_str() {
                        "Job" => content.job.clone(),
                        _ => held_back
                            .clone()
                            .filter(|_| object.name.ends_with("-canary"))
                            .map_or(Readiness::Ready, Readiness::Progressing),
                    },
                })
            });
            Ok(inspected.collect())
        })
    }

    fn log<'a>(&'a self, _: &'a str, object: &'a ObjectRef) -> Answer<'a, String> {
        Box::pin(async move { self.reached().map(|_| format!("log of {object}")) })
    }

    fn selecting<'a>(&'a self, namespace: &'a str) -> Answer<'a, Vec<Value>> {
        Box::pin(async move {
            let content = self.reached()?;
            let objects = content.objects.iter().filter(|((of, _), _)| of == namespace);
            Ok(objects.map(|(_, (manifest, _))| manifest.clone()).collect())
        })
    }

    fn prune<'a>(
        &'a self,
        namespace: &'a str,
        object: &'a ObjectRef,
        _: &'a Owner,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            let mut content = self.reached()?;
            let removed = content.objects.remove(&(namespace.to_owned(), object.clone()));
            content.writes += usize::from(removed.is_some());
            Ok(())
        })
    }

    fn report<'a>(
        &'a self,
        _: &'a str,
        object: &'a ObjectRef,
        event: &'a ObjectEvent,
    ) -> Answer<'a, ()> {
        Box::pin(async move {
            self.reached()?.events.push((object.to_string(), event.clone()));
            Ok(())
        })
    }
}
