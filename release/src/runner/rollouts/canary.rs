//! The copies of a release's objects that its canary consists of.

use std::collections::BTreeMap;

use portcullis_config::model::vocabulary::PREFIX;
use serde_json::Value;

use super::super::{Runner, namespace};
use super::gate;
use crate::cluster::ClusterError;
use crate::feed::Service;
use crate::manifest::canary::{Canary, Refusal, SUFFIX, canary};
use crate::manifest::{OWN, ObjectRef, Template};
use crate::model::ServiceName;
use crate::rollout::Settings;
use crate::store::{Deployment, StoreError};

/// The canary of a release.
pub(super) struct Copies {
    /// What is applied, in this order. Secrets are open.
    pub(super) manifests: Vec<Value>,
    /// All objects.
    pub(super) objects: Vec<ObjectRef>,
    /// Those that no release has without the canary, in the order in which they are removed: those
    /// that tell whether it exists are the last.
    pub(super) own: Vec<ObjectRef>,
    /// Its Deployments, and its Service as the last one.
    pub(super) workload: Vec<ObjectRef>,
    /// The Deployments of the stable variant.
    pub(super) stable: Vec<ObjectRef>,
    /// The Job of the check before the first request, if there is one.
    pub(super) gate: Option<Value>,
    /// The labels of the canary's pods, for each of its Deployments.
    pub(super) labels: Vec<BTreeMap<String, String>>,
}

/// The Service of a rollout.
pub(super) fn service(name: &ServiceName, namespace: String) -> Service {
    Service { namespace, name: name.to_string(), canary: format!("{name}{SUFFIX}") }
}

/// The annotation of the weight that a canary has enough replicas for.
pub(super) fn scaled_for_annotation() -> String {
    format!("{OWN}{PREFIX}scaled-for")
}

// === impl Runner ===

impl Runner {
    /// The canary of a deployment, with this number of replicas.
    pub(super) async fn copies_of(
        &self,
        deployment: &Deployment,
        replicas: u32,
    ) -> Result<Result<Copies, ClusterError>, StoreError> {
        let service = &deployment.id.placement.service;
        let (template, mut manifests) = self.rendered(deployment).await?;
        if let Err(error) = template.unseal(&mut manifests, &self.keys, service) {
            return Ok(Err(ClusterError::Rejected(error.to_string())));
        }
        Ok(match canary(&manifests, service.as_str(), replicas) {
            Ok(canary) => {
                let gate = self.gate_of(deployment, &template, &canary.manifests).await?;
                Ok(Copies::new(&manifests, canary, gate))
            }
            Err(refusals) => {
                let refusals: Vec<String> = refusals.iter().map(Refusal::to_string).collect();
                let why = format!("there can be no canary: {}", refusals.join("; "));
                Err(ClusterError::Rejected(why))
            }
        })
    }
}

// === impl Runner ===

impl Runner {
    /// The Job of the check that a release declares for its environment.
    async fn gate_of(
        &self,
        deployment: &Deployment,
        template: &Template,
        canary: &[Value],
    ) -> Result<Option<Value>, StoreError> {
        let settings = Settings::of(template, &deployment.id.placement.environment);
        let Ok(Some(Settings { gate: Some(gate), .. })) = settings else { return Ok(None) };
        let release = self.store.release(&deployment.release).await?;
        let image = release.ok_or(StoreError::NotFound("release"))?.summary.image;
        let namespace = namespace(deployment)?;
        Ok(Some(gate::job(&gate, deployment, &image, namespace, canary)))
    }
}

// === impl Copies ===

impl Copies {
    fn new(release: &[Value], canary: Canary, gate: Option<Value>) -> Self {
        let Canary { manifests, labels, .. } = canary;
        // The Job is removed before what tells whether the canary exists.
        let all = gate.iter().chain(&manifests);
        let objects: Vec<ObjectRef> = all.filter_map(ObjectRef::of).collect();
        let known: Vec<ObjectRef> = release.iter().filter_map(ObjectRef::of).collect();
        let own = objects.iter().filter(|object| !known.iter().any(|one| one.is_same(object)));
        let own: Vec<ObjectRef> = own.cloned().collect();
        let is_workload =
            |object: &&ObjectRef| matches!(object.kind.as_str(), "Deployment" | "Service");
        let workload: Vec<ObjectRef> = own.iter().filter(is_workload).cloned().collect();
        let deployments = workload.iter().filter(|object| object.kind == "Deployment");
        let stable = deployments.map(|object| ObjectRef {
            name: object.name.strip_suffix(SUFFIX).unwrap_or(&object.name).to_owned(),
            ..object.clone()
        });
        let stable = stable.collect();
        Self { manifests, objects, own, workload, stable, gate, labels }
    }

    /// The manifests with a note of the weight that there are enough replicas for.
    pub(super) fn scaled_for(mut self, weight: u16) -> Vec<Value> {
        let deployments =
            self.manifests.iter_mut().filter(|one| one.get("kind") == Some(&"Deployment".into()));
        for metadata in deployments.filter_map(|one| one.get_mut("metadata")?.as_object_mut()) {
            let annotations =
                metadata.entry("annotations").or_insert_with(|| serde_json::json!({}));
            if let Some(annotations) = annotations.as_object_mut() {
                annotations.insert(scaled_for_annotation(), weight.to_string().into());
            }
        }
        self.manifests
    }
}
