//! What the gateway asked of the API server, by the server's own audit log, against what it may
//! ask.

use std::collections::BTreeSet;
use std::fs;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde_json::Value;

use crate::environment::Environment;
use crate::gateway::NAMESPACE;
use crate::node::{Company, apply, eventually, in_cluster, kubectl, report, state};

const ACCOUNT: &str = "system:serviceaccount:portcullis:portcullis";

/// What is asked only of an API server that does not stream lists, or after an outage; there is none
/// while the Pods are watched.
const FALLBACKS: [&str; 1] = ["list pods"];

/// A verb on a kind of resource, or on one resource by name where only that is granted: `list
/// endpointslices.discovery.k8s.io`, `watch secrets portcullis-tls`.
type Permission = String;

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn the_gateway_is_refused_nothing_and_may_do_nothing_that_it_does_not_do() {
    in_cluster(Company::Unwelcome, async |cluster| {
        // A new problem again and again, each of which is an Event.
        let environment = Environment::open(cluster, "garbage");
        let service = |value: &str| {
            let namespace = &environment.name;
            apply(&format!(
                r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "web", "namespace": "{namespace}",
                    "annotations": {{"portcullis.dev/expose": "{value}"}}}}, "spec": {{"ports": [{{"port": 80}}]}}}}"#
            ));
        };
        let granted = granted();
        let mut values = (0..).map(|number| format!("perhaps-{number}"));
        eventually("every permission is used", Duration::from_secs(60), || {
            let used = used(&granted);
            let is_unused = |permission: &&Permission| {
                !used.contains(*permission) && !FALLBACKS.contains(&permission.as_str())
            };
            let unused: Vec<_> = granted.iter().filter(is_unused).cloned().collect();
            values.next().iter().for_each(|value| service(value));
            async move { if unused.is_empty() { Ok(()) } else { Err(format!("not used: {unused:?}")) } }
        })
        .await;
        let asked: BTreeSet<_> =
            entries().iter().map(|entry| permission(entry, &granted)).collect();
        let beyond: Vec<_> = asked.difference(&granted).collect();
        assert!(beyond.is_empty(), "asked for, and not granted: {beyond:?}");
        let starts = starts();
        let (early, refused): (Vec<_>, Vec<_>) = entries()
            .into_iter()
            .filter(is_refused)
            .partition(|entry| starts.iter().any(|start| start.contains(&received(entry))));
        report(&format!(
            "{} requests of the gateway in the audit log, {} refused by an API server that was \
             starting",
            entries().len(),
            early.len()
        ));
        assert!(refused.is_empty(), "refused: {refused:#?}");
    });
}

/// All that the ClusterRole and the Roles grant. What is for ACME or for logins alone is used by
/// the end-to-end tests of these that run before.
fn granted() -> BTreeSet<Permission> {
    let roles = [
        "clusterrole/portcullis",
        "clusterrole/portcullis-telemetry",
        "clusterrole/portcullis-verify-endpoints",
        "role/portcullis-certificates",
        "role/portcullis-credentials",
        "role/portcullis-acme",
        "role/portcullis-sessions",
    ];
    let rules = roles.iter().flat_map(|role| {
        let role = kubectl(&["get", role, "--namespace", NAMESPACE, "--output=json"]);
        let role: Value = serde_json::from_str(&role).expect("JSON");
        role["rules"].as_array().cloned().unwrap_or_default()
    });
    let texts = |rule: &Value, key: &str| -> Vec<String> {
        rule[key]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let mut granted = BTreeSet::new();
    for rule in rules {
        let names = texts(&rule, "resourceNames");
        for group in texts(&rule, "apiGroups") {
            for resource in texts(&rule, "resources") {
                for verb in texts(&rule, "verbs") {
                    let any = words(&verb, &resource, &group);
                    granted.extend(names.iter().map(|name| format!("{any} {name}")));
                    granted.extend(names.is_empty().then_some(any));
                }
            }
        }
    }
    assert!(!granted.is_empty(), "the roles grant something");
    granted
}

/// All that the gateway's ServiceAccount did.
fn used(granted: &BTreeSet<Permission>) -> BTreeSet<Permission> {
    entries()
        .iter()
        .filter(|entry| !is_refused(entry))
        .map(|entry| permission(entry, granted))
        .collect()
}

fn entries() -> Vec<Value> {
    let log = fs::read_to_string(state().join("audit.log")).expect("the audit log");
    // The last line may be half written.
    let entries = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    entries.filter(|entry| entry["user"]["username"] == ACCOUNT).collect()
}

/// When the API server was starting: until it has read the roles, it refuses everyone.
fn starts() -> Vec<RangeInclusive<String>> {
    let log = fs::read_to_string(state().join("apiserver-starts.log")).unwrap_or_default();
    log.lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(from, to)| from.to_owned()..=to.to_owned())
        .collect()
}

/// When a request came, in RFC 3339 with microseconds: in the order of the alphabet, as `control`
/// writes it.
fn received(entry: &Value) -> String {
    entry["requestReceivedTimestamp"].as_str().expect("every entry says when").to_owned()
}

fn is_refused(entry: &Value) -> bool {
    let decision = &entry["annotations"]["authorization.k8s.io/decision"];
    match entry["responseStatus"]["code"].as_u64() {
        Some(401) => true,
        // What is allowed may be forbidden for another reason: a Namespace that is being deleted
        // takes no Event.
        Some(403) => decision != "allow",
        _ => decision == "forbid",
    }
}

/// What a request needs: the permission for that one resource, where it is granted.
fn permission(entry: &Value, granted: &BTreeSet<Permission>) -> Permission {
    let (verb, object) = (&entry["verb"], &entry["objectRef"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let any = words(&text(verb), &text(&object["resource"]), &text(&object["apiGroup"]));
    let one = format!("{any} {}", text(&object["name"]));
    if granted.contains(&one) { one } else { any }
}

fn words(verb: &str, resource: &str, group: &str) -> Permission {
    if group.is_empty() {
        format!("{verb} {resource}")
    } else {
        format!("{verb} {resource}.{group}")
    }
}
