//! The real gateway: annotations of Services, and the telemetry listeners of pods.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use http::HeaderValue;
use k8s_openapi::api::core::v1::{Pod, Service as Object};
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use portcullis_config::model::vocabulary::{PREFIX, SPLIT_LATENCY_THRESHOLD};
use portcullis_config::settings::KubernetesSettings;
use portcullis_config::snapshot::split::{VariantIndex, Weight};
use portcullis_config::traffic::cluster::{Cluster, FIELD_MANAGER as FIELD_MANAGER_OF_WEIGHTS};
use portcullis_config::traffic::{Change, Selector, TrafficError};
use portcullis_config::translate::SplitView;
use serde_json::json;

use super::{Answer, Gateway, WrittenSplit};
use crate::causes::causes;
use crate::cluster::ClusterError;
use crate::feed::{self, Reading, Replica, Service};
use crate::rollout::Split;
use crate::settings::GatewaySettings;

/// The pods of gateways, as all installations label them.
const PODS: &str = "app.kubernetes.io/name=portcullis,app.kubernetes.io/component=gateway";
/// The name of the port of the telemetry listener.
const PORT: &str = "telemetry";
/// The port, where the pods name none.
const DEFAULT_PORT: u16 = 9903;
/// More than a gateway may have.
const MAX_PODS: u32 = 200;
/// The field manager of the threshold of latency. That of weights would remove them.
const FIELD_MANAGER: &str = "portcullis-rollouts";
/// The token of the pod's own account.
const ACCOUNT_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The gateway of a cluster.
pub struct Replicas {
    client: Client,
    weights: Cluster,
    settings: GatewaySettings,
}

/// Why the gateway cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// There is no API server.
    #[error(transparent)]
    Cluster(#[from] TrafficError),
}

// === impl Replicas ===

impl Replicas {
    /// Sends no request.
    ///
    /// # Errors
    /// There is no kubeconfig, or it is not usable.
    pub async fn new(
        client: Client,
        kubernetes: &KubernetesSettings,
        settings: GatewaySettings,
    ) -> Result<Self, GatewayError> {
        Ok(Self { client, weights: Cluster::new(kubernetes).await?, settings })
    }

    async fn view(&self, service: &Service) -> Result<SplitView, ClusterError> {
        let (_, view) =
            self.weights.view(&selector(service)).await.map_err(|error| failed(&error))?;
        Ok(view)
    }

    async fn set(
        &self,
        service: &Service,
        weight: u16,
        if_generation: u64,
    ) -> Result<(), ClusterError> {
        let view = self.view(service).await?;
        if counter(&view) != if_generation {
            return Ok(());
        }
        let reported = view.split.as_ref().map_or(0, |split| split.generation().number());
        let weight = Weight::new(weight).unwrap_or_default();
        let change = Change::Weights(vec![(service.canary.clone(), weight)]);
        // Ranges of a canary that is no more are dropped; those of others are not.
        let force = !view.missing.is_empty()
            && view.missing.iter().all(|range| *range.name == *service.canary);
        match self.weights.set(&selector(service), &change, Some(reported), force).await {
            Ok(_) | Err(TrafficError::Generation { .. }) => Ok(()),
            Err(error) => Err(failed(&error)),
        }
    }

    async fn set_threshold(
        &self,
        service: &Service,
        milliseconds: u64,
    ) -> Result<(), ClusterError> {
        let key = format!("{PREFIX}{}", SPLIT_LATENCY_THRESHOLD.name);
        let duration = std::time::Duration::from_millis(milliseconds);
        let text = portcullis_config::model::duration::format(duration);
        let manifest = json!({ "apiVersion": "v1", "kind": "Service",
            "metadata": { "name": service.name, "annotations": { key: text } } });
        let api: Api<Object> = Api::namespaced(self.client.clone(), &service.namespace);
        let parameters = PatchParams::apply(FIELD_MANAGER);
        let patched = api.patch(&service.name, &parameters, &Patch::Apply(&manifest)).await;
        patched.map(drop).map_err(|error| {
            ClusterError::Unreachable(format!("failed to set the threshold: {}", causes(&error)))
        })
    }

    /// The replicas that are configured, else the pods that run.
    async fn find(&self) -> Result<Vec<Replica>, ClusterError> {
        let Some(namespace) = &self.settings.namespace else {
            let replica =
                |address: &SocketAddr| Replica { name: address.to_string(), address: *address };
            return Ok(self.settings.replicas.iter().map(replica).collect());
        };
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let parameters =
            ListParams::default().labels(PODS).fields("status.phase=Running").limit(MAX_PODS);
        let pods = api.list(&parameters).await.map_err(|error| {
            let why = causes(&error);
            ClusterError::Unreachable(format!("failed to list the gateway's pods: {why}"))
        })?;
        pods.items.iter().map(replica).collect()
    }

    fn token(&self) -> Result<Option<HeaderValue>, ClusterError> {
        let account = Path::new(ACCOUNT_TOKEN);
        let own = || self.settings.namespace.is_some() && account.exists();
        let path: PathBuf = match &self.settings.token_file {
            Some(path) => path.clone(),
            None if own() => account.to_owned(),
            None => return Ok(None),
        };
        let invalid = |why: String| {
            ClusterError::Unreachable(format!("the token {} cannot be used: {why}", path.display()))
        };
        // Kubernetes replaces the token of an account: it is read anew each time.
        let token = std::fs::read_to_string(&path).map_err(|error| invalid(error.to_string()))?;
        let value = HeaderValue::from_str(&format!("Bearer {}", token.trim()));
        let mut value = value.map_err(|_| invalid("it has control characters".to_owned()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

impl Gateway for Replicas {
    fn split<'a>(&'a self, service: &'a Service) -> Answer<'a, WrittenSplit> {
        Box::pin(async move {
            let viewed = self.weights.view_with_writer(&selector(service)).await;
            let (view, by) = viewed.map_err(|error| failed(&error))?;
            Ok(WrittenSplit { by: by.as_deref().map(manager), ..written(&view, &service.canary) })
        })
    }

    fn set_weight<'a>(
        &'a self,
        service: &'a Service,
        weight: u16,
        if_generation: u64,
    ) -> Answer<'a, ()> {
        Box::pin(self.set(service, weight, if_generation))
    }

    fn set_latency_threshold<'a>(
        &'a self,
        service: &'a Service,
        milliseconds: u64,
    ) -> Answer<'a, ()> {
        Box::pin(self.set_threshold(service, milliseconds))
    }

    fn read<'a>(&'a self, service: &'a Service, from: u64) -> Answer<'a, Vec<Reading>> {
        Box::pin(async move {
            let (replicas, token) = (self.find().await?, self.token()?);
            Ok(feed::read(&replicas, service, from, token.as_ref()).await)
        })
    }
}

fn selector(service: &Service) -> Selector {
    Selector {
        service: service.name.clone(),
        namespace: Some(service.namespace.clone()),
        environment: None,
    }
}

/// How often the split was changed. Before the first change, replicas report a hash instead.
fn counter(view: &SplitView) -> u64 {
    view.counter.map_or(0, |counter| counter.number())
}

fn written(view: &SplitView, canary: &str) -> WrittenSplit {
    let position = view.variants.iter().position(|name| **name == *canary);
    let index = position.and_then(|position| VariantIndex::new(position + 1));
    let share = index.zip(view.split.as_ref()).map(|(index, split)| split.ranges().share(index));
    let missing =
        view.missing.iter().filter(|range| *range.name == *canary).map(|range| {
            range.last.number().saturating_sub(range.first.number()).saturating_add(1)
        });
    let weight = share.unwrap_or_else(|| missing.sum());
    WrittenSplit {
        split: Split { weight, generation: counter(view) },
        reported: view.split.as_ref().map(|split| split.generation().number()),
        by: None,
    }
}

/// A field manager for people: it may have any name.
fn manager(name: &str) -> String {
    const MAX: usize = 64;
    match name {
        FIELD_MANAGER_OF_WEIGHTS => "`portcullis traffic set`".to_owned(),
        name => name.chars().filter(|character| !character.is_control()).take(MAX).collect(),
    }
}

/// The replica in a running pod.
fn replica(pod: &Pod) -> Result<Replica, ClusterError> {
    let name = pod.name_any();
    let address = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref());
    let address: IpAddr = address.and_then(|address| address.parse().ok()).ok_or_else(|| {
        ClusterError::Unreachable(format!("the gateway's pod {name} has no address"))
    })?;
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    let mut ports = containers.flat_map(|container| container.ports.iter().flatten());
    let port = ports.find(|port| port.name.as_deref() == Some(PORT));
    let port = port.and_then(|port| u16::try_from(port.container_port).ok());
    Ok(Replica { name, address: SocketAddr::new(address, port.unwrap_or(DEFAULT_PORT)) })
}

/// A failure to read or to set weights. What others own is for people to decide.
fn failed(error: &TrafficError) -> ClusterError {
    match error {
        TrafficError::Cluster(..) | TrafficError::Conflict(_) | TrafficError::Source(_) => {
            ClusterError::Unreachable(causes(error))
        }
        _ => ClusterError::Rejected(causes(error)),
    }
}

#[cfg(test)]
mod tests {
    use portcullis_config::resources::{self, Change as Upsert, Object as Known, Resources};
    use portcullis_config::translate::split_view;
    use serde_json::Value;

    use super::*;

    /// The split of `web` with these annotations, beside the Services of these names.
    fn split(annotations: Value, canaries: &[&str]) -> WrittenSplit {
        let service = |name: &str, annotations: Value| {
            let object = json!({ "metadata": { "name": name, "namespace": "shop",
                "annotations": annotations }, "spec": { "ports": [{ "port": 80 }] } });
            let object: Object = serde_json::from_value(object).unwrap();
            resources::Service::from_object(&object, None).unwrap()
        };
        let mut resources = Resources::default();
        let stable = service("web", annotations);
        resources.apply(Upsert::Upsert(Known::Service(stable.clone())));
        for name in canaries {
            let variant = service(name, json!({ "portcullis.dev/canary-of": "web" }));
            resources.apply(Upsert::Upsert(Known::Service(variant)));
        }
        written(&split_view(&stable, &resources), "web-canary")
    }

    fn annotations(ranges: &str, generation: &str) -> Value {
        json!({ "portcullis.dev/split": ranges, "portcullis.dev/split-generation": generation })
    }

    #[test]
    fn a_split_has_the_weight_of_the_canary_and_counts_its_changes() {
        let none = split(json!({}), &[]);
        let split_of = |weight, generation| Split { weight, generation };
        assert_eq!(none, WrittenSplit { split: split_of(0, 0), reported: None, by: None });
        let first = split(json!({}), &["web-canary"]);
        assert_eq!(first.split, split_of(0, 0));
        assert!(first.reported.is_some_and(|hash| hash > 0), "replicas report a hash");
        let ranges = annotations("web-b=0-99,web-canary=100-599", "12");
        let both = split(ranges.clone(), &["web-b", "web-canary"]);
        assert_eq!(both, WrittenSplit { split: split_of(500, 12), reported: Some(12), by: None });
        let gone = split(ranges, &["web-b"]);
        assert_eq!(gone.split, split_of(500, 12), "its range is still there");
    }

    #[test]
    fn a_pod_is_read_at_its_telemetry_port() {
        let pod = |address: &str, port: Value| -> Pod {
            let ports = json!([{ "name": "http", "containerPort": 8080 }, port]);
            let containers = json!([{ "name": "gateway", "ports": ports }]);
            let pod = json!({ "metadata": { "name": "gateway-1" }, "spec": { "containers":
                containers }, "status": { "podIP": address } });
            serde_json::from_value(pod).unwrap()
        };
        let named = json!({ "name": "telemetry", "containerPort": 9000 });
        let other = json!({ "name": "other", "containerPort": 9000 });
        for (address, port, expected) in
            [("10.0.0.5", named.clone(), "10.0.0.5:9000"), ("fd00::5", other, "[fd00::5]:9903")]
        {
            let replica = replica(&pod(address, port)).unwrap();
            assert_eq!((&*replica.name, &*replica.address.to_string()), ("gateway-1", expected));
        }
        assert!(replica(&pod("", named)).is_err());
    }
}
