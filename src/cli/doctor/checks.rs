//! What the facts of an installation mean, and how to mend what is wrong.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::facts::Facts;
use super::{Finding, builds, registry};
use crate::cli::kubectl::text_at;

/// Renewed every 10 s, and read within moments: what is older is a clock, or a node that is gone.
const LEASE_SECONDS: i64 = 45;
/// What a clock may be ahead: sessions and tokens allow as much.
const AHEAD_SECONDS: i64 = 5;

/// All findings, in the order in which a request meets their causes.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let Some(deployment) = &facts.deployment else { return vec![missing(facts)] };
    let mut findings = vec![pods(facts, deployment), version(facts), permissions(facts)];
    findings.extend(registry::findings(&facts.registries));
    findings.push(address(facts));
    findings.push(record(facts));
    findings.extend(ports(facts));
    findings.push(certificate(facts));
    findings.push(clock(facts));
    findings.extend(issuers(facts));
    findings.extend(builds::findings(&facts.builders));
    findings
}

fn missing(facts: &Facts) -> Finding {
    let message = format!("there is no gateway in the Namespace {}", facts.namespace);
    let help = "name its Namespace by --namespace; or install it: \
                portcullis install --zone ZONE | kubectl apply -f -";
    Finding::error("pods", message, help)
}

fn pods(facts: &Facts, deployment: &Value) -> Finding {
    let count = |pointer: &str| deployment.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
    let (ready, wanted) = (count("/status/readyReplicas"), count("/spec/replicas"));
    let states: Vec<(&str, &str, &str)> = facts.pods.iter().filter_map(waiting).collect();
    let namespace = &facts.namespace;
    if let Some((pod, reason, message)) = states.first() {
        let is_image = reason.contains("Image");
        let help = if is_image {
            format!(
                "push the image, name it as the nodes pull it (portcullis install --image), or \
                 give the pods a Secret with the registry's credentials (kubectl describe pod {pod} \
                 --namespace {namespace})"
            )
        } else {
            format!("read why: kubectl logs {pod} --namespace {namespace} --previous")
        };
        let message = format!("{ready} of {wanted} pods are ready; {pod}: {reason} {message}");
        let message = message.trim_end().to_owned();
        return match ready {
            0 => Finding::error("pods", message, help),
            // The pods of the last version go on.
            _ => Finding::warning("pods", message, help),
        };
    }
    let message = format!("{ready} of {wanted} pods are ready");
    let help = format!(
        "read why: kubectl describe pods --namespace {namespace}, and kubectl logs deployment/{} \
         --namespace {namespace}",
        text_at(deployment, "/metadata/name")
    );
    match ready {
        0 => Finding::error("pods", message, help),
        _ if ready < wanted => Finding::warning("pods", message, help),
        _ => Finding::ok("pods", message),
    }
}

/// A pod whose container waits for something other than its start, with reason and message.
fn waiting(pod: &Value) -> Option<(&str, &str, &str)> {
    let states = pod.pointer("/status/containerStatuses")?.as_array()?;
    let waiting = states.iter().filter_map(|status| status.pointer("/state/waiting"));
    let waiting = waiting.map(|state| (text_at(state, "/reason"), text_at(state, "/message")));
    let is_normal = |reason: &str| ["", "ContainerCreating", "PodInitializing"].contains(&reason);
    let (reason, message) = waiting.into_iter().find(|(reason, _)| !is_normal(reason))?;
    Some((text_at(pod, "/metadata/name"), reason, message))
}

fn version(facts: &Facts) -> Finding {
    let own = env!("CARGO_PKG_VERSION");
    let images: BTreeSet<&str> = facts.pods.iter().map(image).collect();
    match images.iter().collect::<Vec<_>>()[..] {
        [] => Finding::skipped("version", "there are no pods"),
        [image] => match tag(image) {
            Some(tag) if tag != own => Finding::warning(
                "version",
                format!("the pods run {tag}, and this program is {own}"),
                "use the program of the same version, which reads the same configuration",
            ),
            Some(_) => Finding::ok("version", format!("the pods run {own}, as this program")),
            None => Finding::skipped("version", format!("{image} has a digest, and no version")),
        },
        _ => Finding::warning(
            "version",
            format!(
                "pods run different images: {}",
                images.into_iter().collect::<Vec<_>>().join(", ")
            ),
            "wait for the rollout (kubectl rollout status), or undo it (kubectl rollout undo)",
        ),
    }
}

fn image(pod: &Value) -> &str {
    let containers = pod.pointer("/spec/containers").and_then(Value::as_array);
    let gateway = containers.into_iter().flatten().find(|one| text_at(one, "/name") == "gateway");
    gateway.map(|container| text_at(container, "/image")).unwrap_or_default()
}

fn tag(image: &str) -> Option<&str> {
    let (_, tag) = image.rsplit_once(':').filter(|_| !image.contains('@'))?;
    Some(tag).filter(|tag| !tag.contains('/'))
}

fn permissions(facts: &Facts) -> Finding {
    match &facts.denied {
        Err(error) => Finding::skipped(
            "permissions",
            format!("you may not create SubjectAccessReviews: {error}"),
        ),
        Ok(denied) if denied.is_empty() => {
            Finding::ok("permissions", "the gateway has every right that it uses")
        }
        Ok(denied) => {
            let denied: Vec<&str> = denied.iter().map(String::as_str).collect();
            Finding::error(
                "permissions",
                format!("the gateway may not {}", denied.join(", ")),
                "apply the manifests of this version, with the components that the configuration \
                 needs (deploy/README.md, Permissions); a certificate of another Namespace needs a \
                 Role there",
            )
        }
    }
}

/// Whether clients have an address to connect to.
fn address(facts: &Facts) -> Finding {
    let Some(service) = &facts.service else {
        return Finding::error(
            "address",
            "the gateway has no Service",
            "apply the manifests of this version",
        );
    };
    let kind = text_at(service, "/spec/type");
    if !facts.targets.is_empty() {
        return Finding::ok("address", format!("{kind}: {}", list(&facts.targets)));
    }
    if kind == "LoadBalancer" {
        let help = "wait some minutes, and read its Events (kubectl describe service). If the \
                    cluster has no controller for load balancers, install one such as MetalLB, or \
                    use ports of nodes: portcullis install --exposure node-port, or host-ports";
        return Finding::error("address", "the load balancer's address is pending", help);
    }
    Finding::error(
        "address",
        format!("{kind}: no node with a pod of the gateway has a known address"),
        "wait until a pod runs; you need the right to list nodes",
    )
}

fn record(facts: &Facts) -> Finding {
    let Some(zone) = facts.zone() else {
        return Finding::skipped("dns", "the configuration could not be read");
    };
    let expected: BTreeSet<IpAddr> = facts.targets.iter().map(SocketAddr::ip).collect();
    let help = match expected.is_empty() {
        true => format!("create the record *.{zone} when the gateway has an address"),
        false => format!("create the record *.{zone} with {}", list(&expected)),
    };
    let found = match &facts.record {
        Some(Ok(found)) if !found.is_empty() => found,
        Some(Err(error)) => {
            return Finding::error("dns", format!("*.{zone} has no record: {error}"), help);
        }
        _ => return Finding::error("dns", format!("*.{zone} has no record"), help),
    };
    if expected.is_empty() || found.is_subset(&expected) {
        return Finding::ok("dns", format!("*.{zone} is {}", list(found)));
    }
    if found.is_disjoint(&expected) {
        let message = format!("*.{zone} is {}, and not {}", list(found), list(&expected));
        let help = format!("{help}; this is right if a proxy or a firewall in front has these");
        return Finding::warning("dns", message, help);
    }
    let others: BTreeSet<_> = found.difference(&expected).collect();
    Finding::warning(
        "dns",
        format!("*.{zone} has addresses that are not the gateway's: {}", list(&others)),
        "remove them from the record, unless a proxy in front has them",
    )
}

fn ports(facts: &Facts) -> Vec<Finding> {
    let finding = |(target, why): &(SocketAddr, Option<String>)| match why {
        None => Finding::ok("ports", format!("{target} accepts connections")),
        Some(why) => Finding::error(
            "ports",
            format!("{target} is not reachable from here: {why}"),
            "open the port in the firewall or the security group; a node without a ready pod of \
             the gateway does not respond",
        ),
    };
    match facts.ports.is_empty() {
        true => vec![Finding::skipped("ports", "there is no address to connect to")],
        false => facts.ports.iter().map(finding).collect(),
    }
}

fn certificate(facts: &Facts) -> Finding {
    match &facts.https {
        None => Finding::skipped("certificate", "the zone leads nowhere yet"),
        Some(Ok(())) => {
            Finding::ok("certificate", "clients with the authorities of this system trust it")
        }
        Some(Err((error, true))) => Finding::error(
            "certificate",
            format!("it is expired, or not yet valid: {error}"),
            "compare the clock of this machine; list the certificates and their orders: \
             kubectl exec deployment/portcullis -- /portcullis certs",
        ),
        Some(Err((error, false))) => Finding::error(
            "certificate",
            error,
            "bring one for the zone, or turn on acme (docs/install.md, Certificate); one of an \
             authority of your own is right if its clients trust it",
        ),
    }
}

fn clock(facts: &Facts) -> Finding {
    let clocks = match &facts.clocks {
        Err(error) => {
            return Finding::skipped("clock", format!("you may not list Leases of nodes: {error}"));
        }
        Ok(clocks) if clocks.is_empty() => {
            return Finding::skipped("clock", "there are no Leases of nodes");
        }
        Ok(clocks) => clocks,
    };
    let is_wrong = |seconds: i64| !(-LEASE_SECONDS..=AHEAD_SECONDS).contains(&seconds);
    let wrong: Vec<String> = clocks
        .iter()
        .filter(|(_, seconds)| is_wrong(*seconds))
        .map(|(node, seconds)| format!("{node} by {seconds} s"))
        .collect();
    if wrong.is_empty() {
        return Finding::ok("clock", "the clocks of nodes and of this machine agree");
    }
    Finding::error(
        "clock",
        format!("clocks differ from this machine's: {}", wrong.join(", ")),
        "synchronise the clocks (NTP) of the nodes and of this machine: tokens, sessions and \
         certificates depend on them; a node that is gone has an old Lease",
    )
}

fn issuers(facts: &Facts) -> Vec<Finding> {
    let finding = |(name, why): &(String, Option<String>)| match why {
        None => Finding::ok("issuer", format!("{name} responds")),
        Some(why) => Finding::error(
            "issuer",
            format!("{name}: {why}"),
            "compare access.issuers[].issuer with the `issuer` of its discovery document, and open \
             the way to it",
        ),
    };
    facts.issuers.iter().map(finding).collect()
}

fn list<T: ToString>(values: &BTreeSet<T>) -> String {
    values.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
