//! Selectors of pods: where they are in manifests, what they match, and their copies.

use serde_json::{Map, Value};

use super::Labels;

/// A selector in a manifest: a map of labels, or a LabelSelector.
pub(super) struct Selector<'v> {
    value: &'v mut Value,
    /// Whether it is a map of labels itself, as in Services.
    is_map: bool,
}

/// What is done with each selector.
pub(super) type Visit<'f> = dyn FnMut(&mut Selector<'_>) + 'f;

/// Calls `visit` with each selector by which an object selects pods, and not with those in the
/// affinities of its own pods.
pub(super) fn own(manifest: &Value, visit: &mut dyn FnMut(&Selector<'_>)) {
    let mut copy = manifest.clone();
    own_mut(&mut copy, &mut |selector| visit(selector));
}

/// The same, to change them.
pub(super) fn own_mut(manifest: &mut Value, visit: &mut Visit<'_>) {
    match manifest.get("kind").and_then(Value::as_str) {
        Some("Service" | "ReplicationController") => {
            visit_at(manifest.pointer_mut("/spec/selector"), true, visit);
        }
        Some("Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet" | "PodDisruptionBudget") => {
            visit_at(manifest.pointer_mut("/spec/selector"), false, visit);
        }
        Some("NetworkPolicy") => policy(manifest, visit),
        _ => {}
    }
}

/// The selectors of a NetworkPolicy: of the pods that it is for, and of their peers.
fn policy(manifest: &mut Value, visit: &mut Visit<'_>) {
    visit_at(manifest.pointer_mut("/spec/podSelector"), false, visit);
    for (rules, peers) in [("/spec/ingress", "from"), ("/spec/egress", "to")] {
        for rule in items(manifest.pointer_mut(rules)) {
            for peer in items(rule.get_mut(peers)) {
                visit_at(peer.get_mut("podSelector"), false, visit);
            }
        }
    }
}

/// Calls `visit` with each selector in the affinities and spread constraints of a workload's pods.
pub(super) fn affinities(manifest: &mut Value, visit: &mut Visit<'_>) {
    let Some(spec) = manifest.pointer_mut("/spec/template/spec") else { return };
    for constraint in items(spec.get_mut("topologySpreadConstraints")) {
        visit_at(constraint.get_mut("labelSelector"), false, visit);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let Some(affinity) = spec.get_mut("affinity").and_then(|all| all.get_mut(kind)) else {
            continue;
        };
        for term in items(affinity.get_mut("requiredDuringSchedulingIgnoredDuringExecution")) {
            visit_at(term.get_mut("labelSelector"), false, visit);
        }
        for term in items(affinity.get_mut("preferredDuringSchedulingIgnoredDuringExecution")) {
            visit_at(term.pointer_mut("/podAffinityTerm/labelSelector"), false, visit);
        }
    }
}

fn visit_at(value: Option<&mut Value>, is_map: bool, visit: &mut Visit<'_>) {
    if let Some(value) = value.filter(|value| value.is_object()) {
        visit(&mut Selector { value, is_map });
    }
}

pub(super) fn items(value: Option<&mut Value>) -> impl Iterator<Item = &mut Value> {
    value.and_then(Value::as_array_mut).into_iter().flatten()
}

// === impl Selector ===

impl Selector<'_> {
    /// The keys of labels that it uses.
    pub(super) fn keys(&self) -> Vec<String> {
        let labels = self.labels().into_iter().flat_map(Map::keys).cloned();
        let expressions = self.expressions().filter_map(|one| text(one, "key")).map(str::to_owned);
        labels.chain(expressions).collect()
    }

    /// Whether it selects pods with these labels. An empty selector of a Service selects none.
    pub(super) fn matches(&self, labels: &Labels) -> bool {
        if self.is_map && self.labels().is_none_or(Map::is_empty) {
            return false;
        }
        let has = |(key, value): (&String, &Value)| {
            labels.get(key).is_some_and(|found| value.as_str() == Some(found))
        };
        self.labels().into_iter().flatten().all(has)
            && self.expressions().all(|one| holds(one, labels))
    }

    /// Replaces the values of labels that it asks for by those of the canary.
    pub(super) fn replace(&mut self, values: &Labels, canary: &Labels) {
        let of_canary = |key: &str, value: &mut Value| {
            let is_stable = values.get(key).map(String::as_str) == value.as_str();
            if let Some(other) = canary.get(key).filter(|_| is_stable) {
                *value = other.as_str().into();
            }
        };
        let labels =
            if self.is_map { Some(&mut *self.value) } else { self.value.get_mut("matchLabels") };
        for (key, value) in labels.and_then(Value::as_object_mut).into_iter().flatten() {
            of_canary(key, value);
        }
        if self.is_map {
            return;
        }
        for expression in items(self.value.get_mut("matchExpressions")) {
            let Some(key) = text(expression, "key").map(str::to_owned) else { continue };
            if text(expression, "operator") == Some("In") {
                items(expression.get_mut("values")).for_each(|value| of_canary(&key, value));
            }
        }
    }

    fn labels(&self) -> Option<&Map<String, Value>> {
        let map = if self.is_map { Some(&*self.value) } else { self.value.get("matchLabels") };
        map?.as_object()
    }

    fn expressions(&self) -> impl Iterator<Item = &Value> {
        let list = if self.is_map { None } else { self.value.get("matchExpressions") };
        list.and_then(Value::as_array).into_iter().flatten()
    }
}

/// Whether labels meet an expression. One that is not known matches everything: it is better to
/// refuse.
fn holds(expression: &Value, labels: &Labels) -> bool {
    let found = text(expression, "key").and_then(|key| labels.get(key));
    let values = expression.get("values").and_then(Value::as_array);
    let is_listed = found.is_some_and(|found| {
        values.into_iter().flatten().any(|value| value.as_str() == Some(found))
    });
    match text(expression, "operator") {
        Some("In") => is_listed,
        Some("NotIn") => !is_listed,
        Some("Exists") => found.is_some(),
        Some("DoesNotExist") => found.is_none(),
        _ => true,
    }
}

fn text<'v>(value: &'v Value, key: &str) -> Option<&'v str> {
    value.get(key)?.as_str()
}
