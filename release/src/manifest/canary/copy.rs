//! Copies of the objects that a canary needs.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_config::model::vocabulary::PREFIX;
use serde_json::{Value, json};

use super::super::ObjectRef;
use super::super::configuration::{self, Configuration, configuration};
use super::selector::{self, Selector, Visit, items};
use super::{Canary, Labels, MAX_LABEL, Refusal, SUFFIX, is, name, pod_labels};

/// What a Service's copy does not have: its addresses and ports outside of the cluster.
const OUTSIDE: [&str; 10] = [
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "loadBalancerClass",
    "loadBalancerIP",
    "loadBalancerSourceRanges",
    "allocateLoadBalancerNodePorts",
    "type",
];

/// The objects of a release, and how the canary's pods are labelled.
pub(super) struct Copier<'m> {
    manifests: &'m [Value],
    service: &'m Value,
    replicas: u32,
    pods: Vec<Pods<'m>>,
}

/// A Deployment whose pods the Service selects.
struct Pods<'m> {
    deployment: &'m Value,
    stable: Labels,
    canary: Labels,
}

/// Calls the second argument with each of some selectors of the first one.
type EachSelector = fn(&mut Value, &mut Visit<'_>);

// === impl Copier ===

impl<'m> Copier<'m> {
    /// Finds the Deployments whose pods the Service selects.
    pub(super) fn new(
        manifests: &'m [Value],
        service: &'m Value,
        replicas: u32,
    ) -> Result<Self, Vec<Refusal>> {
        let mut serves = Vec::new();
        selector::own(service, &mut |one| {
            serves = manifests.iter().filter(|object| selects(one, object)).collect();
        });
        if service
            .pointer("/spec/selector")
            .and_then(Value::as_object)
            .is_none_or(|one| one.is_empty())
        {
            return Err(vec![Refusal::NoSelector(name(service).to_owned())]);
        }
        if serves.is_empty() {
            return Err(vec![Refusal::NoDeployment(name(service).to_owned())]);
        }
        let other = serves.iter().filter(|object| !is(object, "apps", "Deployment"));
        let refused = other.filter_map(|object| ObjectRef::of(object));
        let refused = refused.map(|ObjectRef { kind, name, .. }| Refusal::Workload { kind, name });
        let refused: Vec<Refusal> = refused.collect();
        if !refused.is_empty() {
            return Err(refused);
        }
        let keys = keys(manifests);
        let pods = serves.into_iter().map(|deployment| {
            let stable = pod_labels(deployment).unwrap_or_default();
            let canary = stable.iter().map(|(key, value)| {
                let is_selected = keys.contains(key);
                (key.clone(), if is_selected { suffixed(value) } else { value.clone() })
            });
            Pods { deployment, canary: canary.collect(), stable }
        });
        Ok(Self { manifests, service, replicas, pods: pods.collect() })
    }

    pub(super) fn copy(&self) -> Canary {
        let mut manifests = self.configuration();
        let policies = self.manifests.iter().filter(|object| {
            is(object, "networking.k8s.io", "NetworkPolicy")
                || is(object, "policy", "PodDisruptionBudget")
        });
        manifests.extend(policies.filter_map(|policy| {
            let copy = self.with_selectors(policy, selector::own_mut);
            (copy != *policy).then(|| renamed(copy))
        }));
        manifests.extend(self.pods.iter().map(|pods| self.deployment(pods)));
        manifests.push(self.service());
        Canary {
            manifests,
            labels: self.pods.iter().map(|pods| pods.canary.clone()).collect(),
            claims: self
                .claims()
                .map(|(_, claim)| claim)
                .filter(|claim| self.claim(claim).is_none())
                .collect(),
        }
    }

    /// The copy of an object in which each selector that matches the stable pods matches the
    /// canary's instead.
    fn with_selectors(&self, object: &Value, each: EachSelector) -> Value {
        let mut copy = object.clone();
        each(&mut copy, &mut |selector| {
            let pods = self.pods.iter().find(|pods| selector.matches(&pods.stable));
            if let Some(pods) = pods {
                selector.replace(&pods.stable, &pods.canary);
            }
        });
        copy
    }

    fn deployment(&self, pods: &Pods<'_>) -> Value {
        let mut copy = self.with_selectors(pods.deployment, selector::own_mut);
        copy = self.with_selectors(&copy, selector::affinities);
        if let Some(spec) = copy.get_mut("spec").and_then(Value::as_object_mut) {
            spec.insert("replicas".to_owned(), self.replicas.into());
        }
        if let Some(labels) = copy.pointer_mut("/spec/template/metadata/labels") {
            *labels = json!(pods.canary);
        }
        let kept = self.kept();
        configuration::references(&mut copy, &mut |kind, name: &mut String| {
            if kept.contains(&(kind, name.clone())) {
                name.push_str(SUFFIX);
            }
        });
        renamed(copy)
    }

    /// The ConfigMaps and Secrets that the pods refer to. Those that are named after their content
    /// are what the stable pods get later; others are copied.
    fn configuration(&self) -> Vec<Value> {
        let mut used = BTreeSet::new();
        for pods in &self.pods {
            configuration::references(
                &mut pods.deployment.clone(),
                &mut |kind, name: &mut String| {
                    used.insert((kind, name.clone()));
                },
            );
        }
        let kept = self.kept();
        let copies = self.manifests.iter().filter_map(|object| {
            let known = configuration(object).filter(|known| used.contains(known))?;
            Some(if kept.contains(&known) { renamed(object.clone()) } else { object.clone() })
        });
        copies.collect()
    }

    /// The ConfigMaps and Secrets that are not named after their content.
    fn kept(&self) -> BTreeSet<Configuration> {
        let kept = self.manifests.iter().filter(|object| configuration::keeps_name(object));
        kept.filter_map(configuration).collect()
    }

    /// The Service, without what exposes the stable one.
    fn service(&self) -> Value {
        let mut copy = renamed(self.with_selectors(self.service, selector::own_mut));
        if let Some(spec) = copy.get_mut("spec").and_then(Value::as_object_mut) {
            OUTSIDE.iter().for_each(|field| {
                spec.remove(*field);
            });
            // A headless Service stays one; an address belongs to the stable one.
            if spec.get("clusterIP").is_some_and(|address| address != "None") {
                spec.remove("clusterIP");
            }
            for port in items(spec.get_mut("ports")) {
                port.as_object_mut().map(|port| port.remove("nodePort"));
            }
        }
        let mut annotations: BTreeMap<String, Value> = copy
            .pointer("/metadata/annotations")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        // A variant has its port and nothing else of its own.
        annotations.retain(|key, _| key.strip_prefix(PREFIX).is_none_or(|key| key == "port"));
        annotations.insert(format!("{PREFIX}canary-of"), name(self.service).into());
        if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("annotations".to_owned(), json!(annotations));
        }
        copy
    }

    /// All reasons for which the copies cannot run beside the stable pods.
    pub(super) fn check(&self, canary: &Canary) -> Vec<Refusal> {
        let mut refusals: Vec<Refusal> = self.volumes().chain(self.node_ports()).collect();
        refusals.extend(canary.manifests.iter().filter_map(|copy| self.check_name(copy)));
        refusals.extend(self.manifests.iter().filter_map(|object| {
            let ObjectRef { kind, name, .. } = ObjectRef::of(object)?;
            let mut selects = false;
            selector::own(object, &mut |one| {
                selects |= canary.labels.iter().any(|labels| one.matches(labels));
            });
            // A policy or a budget for all pods is for the canary's, too.
            let is_harmless = matches!(kind.as_str(), "NetworkPolicy" | "PodDisruptionBudget");
            (selects && !is_harmless).then_some(Refusal::Selects { kind, name })
        }));
        refusals.extend(self.check_others(canary));
        refusals
    }

    /// Pods of the release that the canary's Service would select.
    fn check_others<'a>(&'a self, canary: &'a Canary) -> impl Iterator<Item = Refusal> {
        let others = self.manifests.iter().filter(|object| {
            let labels = pod_labels(object).unwrap_or_default();
            let mut is_selected = false;
            for copy in canary.manifests.iter().filter(|copy| is(copy, "", "Service")) {
                selector::own(copy, &mut |one| is_selected |= one.matches(&labels));
            }
            is_selected
        });
        others.filter_map(ObjectRef::of).map(|object| Refusal::Name {
            kind: object.kind,
            name: object.name,
            why: "the canary's Service would select its pods",
        })
    }

    fn check_name(&self, copy: &Value) -> Option<Refusal> {
        let object = ObjectRef::of(copy)?;
        if self.manifests.contains(copy) {
            return None;
        }
        let is_taken = |other: &Value| ObjectRef::of(other).is_some_and(|it| it.is_same(&object));
        let why = if self.manifests.iter().any(is_taken) {
            "the release has an object of that name"
        } else if object.name.len() > MAX_LABEL {
            "the name is longer than 63 characters"
        } else {
            return None;
        };
        Some(Refusal::Name { kind: object.kind, name: object.name, why })
    }

    /// The claims of the copied pods, each with the name of its Deployment.
    fn claims(&self) -> impl Iterator<Item = (String, String)> {
        self.pods.iter().flat_map(|pods| {
            let volumes = pods.deployment.pointer("/spec/template/spec/volumes");
            let volumes = volumes.and_then(Value::as_array).into_iter().flatten();
            let claim = |volume: &Value| {
                let claim = volume.pointer("/persistentVolumeClaim/claimName")?.as_str()?;
                Some((name(pods.deployment).to_owned(), claim.to_owned()))
            };
            volumes.filter_map(claim)
        })
    }

    fn claim(&self, claim: &str) -> Option<&Value> {
        let is_it =
            |object: &&Value| is(object, "", "PersistentVolumeClaim") && name(object) == claim;
        self.manifests.iter().find(is_it)
    }

    fn volumes(&self) -> impl Iterator<Item = Refusal> {
        self.claims().filter_map(|(deployment, claim)| {
            let modes = self.claim(&claim)?.pointer("/spec/accessModes");
            let mut modes = modes.and_then(Value::as_array).into_iter().flatten();
            let is_shared = modes.any(|mode| mode == "ReadWriteMany" || mode == "ReadOnlyMany");
            (!is_shared).then_some(Refusal::Volume { deployment, claim })
        })
    }

    fn node_ports(&self) -> impl Iterator<Item = Refusal> {
        self.pods.iter().flat_map(|pods| {
            let spec = pods.deployment.pointer("/spec/template/spec");
            let network = spec.and_then(|spec| spec.get("hostNetwork")) == Some(&json!(true));
            let containers = ["containers", "initContainers"].into_iter().flat_map(move |kind| {
                spec.and_then(|spec| spec.get(kind)?.as_array()).into_iter().flatten()
            });
            let ports = containers
                .flat_map(|one| one.get("ports").and_then(Value::as_array).into_iter().flatten())
                .filter_map(|port| port.get("hostPort")?.as_u64())
                .filter(|port| *port > 0)
                .map(|port| format!("hostPort {port}"));
            let what = network.then(|| "hostNetwork".to_owned()).into_iter().chain(ports);
            let deployment = name(pods.deployment);
            what.map(|what| Refusal::NodePorts { deployment: deployment.to_owned(), what })
        })
    }
}

fn selects(selector: &Selector<'_>, object: &Value) -> bool {
    pod_labels(object).is_some_and(|labels| selector.matches(&labels))
}

/// The keys of labels that any selector of the release uses.
fn keys(manifests: &[Value]) -> BTreeSet<String> {
    let mut keys = BTreeSet::new();
    for manifest in manifests {
        let mut manifest = manifest.clone();
        selector::own_mut(&mut manifest, &mut |selector| keys.extend(selector.keys()));
        selector::affinities(&mut manifest, &mut |selector| keys.extend(selector.keys()));
    }
    keys
}

/// The value of a label in the canary's pods, at most as long as a label may be.
fn suffixed(value: &str) -> String {
    // Values of labels are ASCII, and end with a letter or a digit.
    let kept: String = value.chars().take(MAX_LABEL - SUFFIX.len()).collect();
    format!("{}{SUFFIX}", kept.trim_end_matches(['-', '_', '.']))
}

fn renamed(mut copy: Value) -> Value {
    let suffixed = format!("{}{SUFFIX}", name(&copy));
    if let Some(metadata) = copy.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("name".to_owned(), suffixed.into());
    }
    copy
}
