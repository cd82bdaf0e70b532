//! Whether the gateway's account has the rights that the manifests of this version grant it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::cli::install::of_account;
use crate::cli::kubectl::{items, text_at};

/// The gateway's account, and what its configuration needs rights for.
pub(super) struct Account {
    /// Its Namespace.
    pub(super) namespace: String,
    /// Its name.
    pub(super) name: String,
    /// The components of the base that its configuration needs.
    pub(super) components: Vec<&'static str>,
    /// The Secrets with certificates, as Namespace and name.
    pub(super) certificates: Vec<(String, String)>,
}

/// The role whose Secrets are those of the configuration.
const CERTIFICATES: &str = "portcullis-certificates";

/// A question to the API server for every right of an account, as a list of SubjectAccessReviews.
pub(super) fn reviews(account: &Account) -> Value {
    let mut attributes = Vec::new();
    for (role, is_own, rule) in of_account(&account.components) {
        let namespace = if is_own { account.namespace.as_str() } else { "" };
        if role != CERTIFICATES {
            attributes.extend(attributes_of(&rule, namespace, &strings(&rule, "resourceNames")));
            continue;
        }
        for (namespace, name) in &account.certificates {
            attributes.extend(attributes_of(&rule, namespace, std::slice::from_ref(name)));
        }
    }
    of_user(&account.namespace, &account.name, attributes)
}

/// The same for rules of another account, given by Namespace and name, in a Namespace.
pub(super) fn reviews_in(account: (&str, &str), rules: &[Value], namespace: &str) -> Value {
    let attributes = rules.iter().flat_map(|rule| attributes_of(rule, namespace, &[])).collect();
    of_user(account.0, account.1, attributes)
}

fn of_user(namespace: &str, name: &str, attributes: Vec<Value>) -> Value {
    let user = format!("system:serviceaccount:{namespace}:{name}");
    let groups = [
        "system:serviceaccounts".to_owned(),
        format!("system:serviceaccounts:{namespace}"),
        "system:authenticated".to_owned(),
    ];
    let review = |attributes| {
        json!({
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": { "user": user, "groups": groups, "resourceAttributes": attributes },
        })
    };
    let reviews: Vec<Value> = attributes.into_iter().map(review).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": reviews })
}

/// What each verb of a rule may be applied to.
fn attributes_of(rule: &Value, namespace: &str, names: &[String]) -> Vec<Value> {
    let any = [String::new()];
    let names = if names.is_empty() { &any } else { names };
    let mut attributes = Vec::new();
    for group in strings(rule, "apiGroups") {
        for resource in strings(rule, "resources") {
            for verb in strings(rule, "verbs") {
                // The server takes what follows a `/` for a part of the resource.
                let (resource, part) = resource.split_once('/').unwrap_or((&resource, ""));
                attributes.extend(names.iter().map(|name| {
                    json!({
                        "group": group,
                        "resource": resource,
                        "subresource": part,
                        "verb": verb,
                        "namespace": namespace,
                        "name": name,
                    })
                }));
            }
        }
    }
    attributes
}

/// The rights that the API server's answers deny, such as `list secrets in portcullis`.
pub(super) fn denied(answers: &Value) -> BTreeSet<String> {
    // One answer comes as itself, several as items.
    let single = answers.get("spec").is_some().then_some(answers);
    let answers = items(answers).chain(single);
    let is_denied =
        |answer: &&Value| answer.pointer("/status/allowed").and_then(Value::as_bool) != Some(true);
    answers.filter(is_denied).map(describe).collect()
}

fn describe(answer: &Value) -> String {
    let attribute = |name: &str| text_at(answer, &format!("/spec/resourceAttributes/{name}"));
    let (group, name, namespace) = (attribute("group"), attribute("name"), attribute("namespace"));
    let mut text = format!("{} {}", attribute("verb"), attribute("resource"));
    let part = attribute("subresource");
    if !part.is_empty() {
        text.push_str(&format!("/{part}"));
    }
    if !group.is_empty() {
        text.push_str(&format!(".{group}"));
    }
    if !name.is_empty() {
        text.push_str(&format!(" {name}"));
    }
    if !namespace.is_empty() {
        text.push_str(&format!(" in {namespace}"));
    }
    text
}

fn strings(rule: &Value, key: &str) -> Vec<String> {
    let values = rule.get(key).and_then(Value::as_array).into_iter().flatten();
    values.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account {
            namespace: "ingress".to_owned(),
            name: "portcullis".to_owned(),
            components: vec![],
            certificates: vec![("certificates".to_owned(), "zone".to_owned())],
        }
    }

    fn all(account: &Account) -> BTreeSet<String> {
        // Answers that say nothing deny.
        denied(&reviews(account))
    }

    #[test]
    fn every_right_of_the_manifests_is_asked_for() {
        let rights = all(&account());
        for right in [
            "list services",
            "watch endpointslices.discovery.k8s.io",
            "create events.events.k8s.io",
            "create tokenreviews.authentication.k8s.io",
            "list secrets in ingress",
            "list secrets zone in certificates",
            "patch secrets portcullis-session-keys in ingress",
        ] {
            assert!(rights.contains(right), "{right}: {rights:#?}");
        }
        assert!(!rights.iter().any(|right| right.starts_with("delete")), "{rights:#?}");
        let acme = all(&Account { components: vec!["acme"], ..account() });
        assert!(acme.contains("delete secrets in ingress"), "{acme:#?}");
        assert!(acme.contains("update leases.coordination.k8s.io in ingress"), "{acme:#?}");
        let reviews = reviews(&account());
        let user = text_at(&reviews, "/items/0/spec/user");
        assert_eq!(user, "system:serviceaccount:ingress:portcullis");
    }

    #[test]
    fn an_answer_that_allows_denies_nothing() {
        let mut answers = reviews(&account());
        let items = answers["items"].as_array_mut().expect("items");
        for answer in items.iter_mut() {
            answer["status"] = json!({ "allowed": true });
        }
        let mut one = items[0].clone();
        assert!(denied(&answers).is_empty());
        one["status"] = json!({ "allowed": false });
        assert_eq!(denied(&one).len(), 1, "a single answer is no list");
    }
}
