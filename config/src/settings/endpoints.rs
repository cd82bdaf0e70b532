//! Settings of endpoints: the addresses that EndpointSlices may have.

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::check::ErrorSink;
use crate::model::{Origin, check_label};
use crate::problem::{Problem, Severity};

/// The addresses that EndpointSlices may have.
///
/// Rejected in any case: loopback, link-local, unspecified and multicast addresses, metadata
/// services of clouds, the Kubernetes API server, cluster IPs, and the gateway's own addresses.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EndpointSettings {
    /// Networks in which no endpoint may be, such as those of nodes, Services and databases.
    #[schemars(with = "Vec<String>")]
    pub deny: Vec<IpNet>,
    /// How endpoints are verified.
    pub verify: EndpointVerification,
    /// With `verify: pods`, the endpoints that no Pod can verify: those of Pods in their node's
    /// network, and of EndpointSlices without Pods. Each entry allows the endpoints of some
    /// Namespaces in one network.
    pub allow: Vec<AllowedEndpoints>,
}

/// How endpoints are verified.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum EndpointVerification {
    /// Not at all: whoever may write EndpointSlices of a Namespace chooses its endpoints.
    #[default]
    None,
    /// By Pods: the address must be in `status.podIPs` of the Pod that the endpoint refers to
    /// (`targetRef`), of the same Namespace. The gateway needs the right to list and watch Pods.
    Pods,
}

/// Endpoints that no Pod can verify.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AllowedEndpoints {
    /// The network of their addresses.
    #[schemars(with = "String")]
    pub network: IpNet,
    /// The Namespaces of their EndpointSlices.
    pub namespaces: Vec<String>,
}

pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    for (index, network) in settings.endpoints.deny.iter().enumerate() {
        check_network(*network, &["endpoints", "deny", &index.to_string()], report);
    }
    for (index, allowed) in settings.endpoints.allow.iter().enumerate() {
        let index = index.to_string();
        check_network(allowed.network, &["endpoints", "allow", &index, "network"], report);
        let keys = ["endpoints", "allow", &index, "namespaces"];
        if allowed.namespaces.is_empty() {
            let help = "name the Namespaces whose endpoints it allows".to_owned();
            report(&keys, "it allows the endpoints of no Namespace".to_owned(), help);
        }
        for (position, namespace) in allowed.namespaces.iter().enumerate() {
            if let Err(error) = check_label(namespace) {
                let message = format!("no Namespace can have this name: it {error}");
                let help = "write the name of a Namespace".to_owned();
                let [first, second, index, last] = keys;
                report(&[first, second, index, last, &position.to_string()], message, help);
            }
        }
    }
}

/// Addresses are compared in their canonical form, so an IPv4-mapped network would match none.
fn check_network(network: IpNet, keys: &[&str], report: &mut ErrorSink<'_>) {
    if network.addr().to_canonical() != network.addr() {
        let help = "write it as a network of IPv4, such as 10.0.0.0/8".to_owned();
        report(keys, format!("{network} is a network of IPv4 in IPv6 notation"), help);
    }
}

pub(super) fn warnings(settings: &Settings) -> Option<Problem> {
    let endpoints = &settings.endpoints;
    let has_no_effect =
        endpoints.verify == EndpointVerification::None && !endpoints.allow.is_empty();
    has_no_effect.then(|| Problem {
        severity: Severity::Warning,
        reason: "NoEffect",
        origin: Origin::default(),
        message: "`endpoints.allow` has no effect: endpoints are not verified".to_owned(),
        help: "set `endpoints.verify: pods`, or remove it".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(endpoints: &str) -> Result<Settings, Vec<Problem>> {
        let text = format!(
            "zone: apps.example.com\nsource: {{kubernetes: {{}}}}\nendpoints:\n{endpoints}"
        );
        Settings::parse(Path::new("gateway.yaml"), text.as_bytes())
    }

    #[test]
    fn invalid_networks_and_namespaces_are_reported_with_their_lines() {
        let text = "  deny:\n  - 10.0.0.0/8\n  - ::ffff:10.0.0.0/104\n  allow:\n  - network: \
                    10.9.0.0/16\n    namespaces: []\n  - network: 10.9.0.0/16\n    namespaces: \
                    [legacy, No]\n";
        let problems = parse(text).unwrap_err();
        let lines: Vec<_> = problems
            .iter()
            .map(|problem| problem.origin.place.as_ref().map(|place| place.line))
            .collect();
        assert_eq!(lines, [Some(6), Some(9), Some(11)], "{problems:#?}");
    }

    #[test]
    fn allowed_networks_without_verification_are_a_warning() {
        let allow = "  allow:\n  - {network: 10.9.0.0/16, namespaces: [legacy]}\n";
        assert_eq!(parse(allow).unwrap().warnings().len(), 1);
        assert_eq!(parse(&format!("  verify: pods\n{allow}")).unwrap().warnings(), []);
    }
}
