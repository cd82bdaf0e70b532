//! Decides how a gateway is installed, as an overlay of the kustomize base.

use clap::ValueEnum;
use portcullis_config::model::Hostname;
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::manifests::CONFIGURATION;
use crate::cli::problems::Failure;

/// How clients reach the gateway: a component of the kustomize base.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(in crate::cli) enum Exposure {
    /// The cloud's load balancer.
    LoadBalancer,
    /// Ports 30080 and 30443 of the nodes.
    NodePort,
    /// Ports 80 and 443 of the nodes with the label `portcullis.dev/gateway`.
    HostPorts,
}

/// Where certificates come from.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Certificate {
    /// Clients trust none.
    None,
    /// A Secret of the gateway's Namespace.
    Secret(String),
    /// Ordered by the gateway.
    Acme,
}

/// What the user has chosen.
#[derive(Debug)]
pub(super) struct Choices {
    /// The zone.
    pub(super) zone: Hostname,
    /// The gateway's Namespace.
    pub(super) namespace: String,
    /// The image, with or without a tag or a digest.
    pub(super) image: String,
    /// How clients reach the gateway, if it was said.
    pub(super) exposure: Option<Exposure>,
    /// Where certificates come from.
    pub(super) certificate: Certificate,
}

/// An overlay of the base, and what was found.
#[derive(Debug)]
pub(super) struct Plan {
    /// The overlay's `kustomization.yaml`.
    pub(super) kustomization: String,
    /// The overlay's `gateway.yaml`.
    pub(super) configuration: String,
    /// What was found, decided, and is left to do.
    pub(super) notes: Vec<String>,
}

// === impl Exposure ===

impl Exposure {
    /// The component's folder.
    fn component(self) -> &'static str {
        match self {
            Self::LoadBalancer => "load-balancer",
            Self::NodePort => "node-port",
            Self::HostPorts => "host-ports",
        }
    }
}

/// Decides how a gateway is installed.
///
/// # Errors
/// The configuration of the base is not valid YAML, which is a fault of this program.
pub(super) fn plan(cluster: &Cluster, choices: &Choices) -> Result<Plan, Failure> {
    let (exposure, why) = exposure(cluster, choices);
    let mut notes = vec![why];
    notes.extend(notes_on_cluster(cluster, choices, exposure));
    let kustomization = kustomization(cluster, choices, exposure);
    Ok(Plan {
        kustomization: serde_saphyr::to_string(&kustomization).map_err(Failure::new)?,
        configuration: configuration(choices, exposure)?,
        notes,
    })
}

/// How clients reach the gateway, and why.
fn exposure(cluster: &Cluster, choices: &Choices) -> (Exposure, String) {
    if let Some(exposure) = choices.exposure {
        return (exposure, format!("Clients reach it by {}.", exposure.component()));
    }
    if let Some(reason) = &cluster.balancer {
        let note = format!("Clients reach it by load-balancer, because {reason}.");
        return (Exposure::LoadBalancer, note);
    }
    if cluster.gateway_nodes > 0 {
        let note = format!(
            "Clients reach it by host-ports, because there is no load balancer, and {} nodes have \
             the label portcullis.dev/gateway.",
            cluster.gateway_nodes
        );
        return (Exposure::HostPorts, note);
    }
    let note = "Clients reach it by node-port (30080 and 30443), because there is no load \
                balancer. Label nodes with portcullis.dev/gateway for ports 80 and 443.";
    (Exposure::NodePort, note.to_owned())
}

fn notes_on_cluster(cluster: &Cluster, choices: &Choices, exposure: Exposure) -> Vec<String> {
    let Choices { zone, namespace, certificate, .. } = choices;
    let mut notes = Vec::new();
    let zone = zone.as_str();
    match &cluster.external_dns {
        Some(name) if exposure != Exposure::HostPorts => {
            notes.push(format!("external-dns ({name}) writes the record *.{zone}."));
        }
        _ => notes.push(format!("To do: point the record *.{zone} at the gateway.")),
    }
    if *certificate == Certificate::None {
        let mut note = format!(
            "To do: there is no certificate that clients trust. Add --acme, or --certificate with \
             a Secret of the Namespace {namespace} for *.{zone}"
        );
        if cluster.cert_manager {
            note.push_str(", such as that of a Certificate of cert-manager, which is installed");
        }
        notes.push(note + ".");
    }
    if cluster.prometheus_operator {
        notes.push(
            "The Prometheus operator is installed: deploy/README.md has a PodMonitor.".into(),
        );
    }
    if cluster.is_installed {
        notes.push(format!(
            "The Namespace {namespace} has a gateway already: this replaces its configuration, \
             and `kubectl diff` shows what changes."
        ));
    }
    notes
}

fn kustomization(cluster: &Cluster, choices: &Choices, exposure: Exposure) -> Value {
    let mut components = vec![exposure.component()];
    let mut patches = Vec::new();
    if let Certificate::Secret(name) = &choices.certificate {
        let rule = json!([{ "op": "replace", "path": "/rules/0/resourceNames", "value": [name] }]);
        let target = json!({ "kind": "Role", "name": "portcullis-certificates" });
        patches.push(json!({ "target": target, "patch": rule.to_string() }));
    }
    if choices.certificate == Certificate::Acme {
        components.push("acme");
    }
    if cluster.external_dns.is_some() && exposure != Exposure::HostPorts {
        let name = "external-dns.alpha.kubernetes.io/hostname";
        let annotations = json!({ name: format!("*.{}", choices.zone.as_str()) });
        let add = json!([{ "op": "add", "path": "/metadata/annotations", "value": annotations }]);
        let target = json!({ "kind": "Service", "name": "portcullis" });
        patches.push(json!({ "target": target, "patch": add.to_string() }));
    }
    let components: Vec<String> =
        components.iter().map(|name| format!("../kubernetes/components/{name}")).collect();
    let mut kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": choices.namespace,
        "resources": ["../kubernetes"],
        "components": components,
        "transformers": ["../kubernetes/instance"],
        "images": [image(&choices.image)],
        "configMapGenerator":
            [{ "name": "portcullis", "behavior": "replace", "files": ["gateway.yaml"] }],
        "patches": patches,
    });
    // A node has room for one pod with its ports.
    if exposure == Exposure::HostPorts {
        let replicas = json!([{ "name": "portcullis", "count": cluster.gateway_nodes.max(1) }]);
        set(&mut kustomization, &["replicas"], replicas);
    }
    kustomization
}

/// The image of an overlay. A colon in the host of a registry is that of its port.
fn image(reference: &str) -> Value {
    if let Some((name, digest)) = reference.split_once('@') {
        return json!({ "name": "portcullis", "newName": name, "digest": digest });
    }
    let (name, tag) = match reference.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, tag),
        _ => (reference, env!("CARGO_PKG_VERSION")),
    };
    json!({ "name": "portcullis", "newName": name, "newTag": tag })
}

/// The configuration of the base, with what was chosen.
fn configuration(choices: &Choices, exposure: Exposure) -> Result<String, Failure> {
    let mut configuration: Value = serde_saphyr::from_str(CONFIGURATION).map_err(Failure::new)?;
    set(&mut configuration, &["zone"], json!(choices.zone.as_str()));
    set(&mut configuration, &["access", "credentialsNamespace"], json!(choices.namespace));
    if exposure == Exposure::NodePort {
        // A redirect keeps clients of node ports on these.
        let ports = json!([{ "http": 30080, "https": 30443 }]);
        set(&mut configuration, &["listeners", "http", "redirectPorts"], ports);
    }
    match &choices.certificate {
        Certificate::None => {}
        Certificate::Secret(name) => {
            let secret = json!({ "namespace": choices.namespace, "name": name });
            set(&mut configuration, &["certificates"], json!([{ "secret": secret }]));
        }
        Certificate::Acme => set(&mut configuration, &["acme"], json!({})),
    }
    serde_saphyr::to_string(&configuration).map_err(Failure::new)
}

/// Sets a field of an object, and makes the objects on the way to it.
fn set(object: &mut Value, path: &[&str], value: Value) {
    let ([name, rest @ ..], Some(fields)) = (path, object.as_object_mut()) else { return };
    if rest.is_empty() {
        fields.insert((*name).to_owned(), value);
    } else {
        set(fields.entry(*name).or_insert_with(|| json!({})), rest, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choices() -> Choices {
        Choices {
            zone: "apps.example.com".parse().expect("a zone"),
            namespace: "ingress".to_owned(),
            image: "registry.example.com:5000/portcullis".to_owned(),
            exposure: None,
            certificate: Certificate::None,
        }
    }

    fn planned(cluster: &Cluster, choices: &Choices) -> (Value, Value, String) {
        let plan = plan(cluster, choices).expect("a plan");
        let parse = |text: &str| serde_saphyr::from_str::<Value>(text).expect("YAML");
        (parse(&plan.kustomization), parse(&plan.configuration), plan.notes.join("\n"))
    }

    #[test]
    fn clients_come_by_what_the_cluster_has() {
        let component = |cluster: &Cluster, choices: &Choices| {
            planned(cluster, choices).0["components"][0].as_str().expect("a name").to_owned()
        };
        let balancer = Cluster { balancer: Some("it is".to_owned()), ..Cluster::default() };
        let labelled = Cluster { gateway_nodes: 3, ..Cluster::default() };
        let named = |name: &str| format!("../kubernetes/components/{name}");
        assert_eq!(component(&balancer, &choices()), named("load-balancer"));
        assert_eq!(component(&labelled, &choices()), named("host-ports"));
        assert_eq!(component(&Cluster::default(), &choices()), named("node-port"));
        let chosen = Choices { exposure: Some(Exposure::NodePort), ..choices() };
        assert_eq!(component(&balancer, &chosen), named("node-port"), "a choice wins");
        assert_eq!(planned(&labelled, &choices()).0["replicas"][0]["count"], 3);
    }

    #[test]
    fn the_configuration_names_zone_and_namespace_and_is_valid() {
        for certificate in
            [Certificate::None, Certificate::Acme, Certificate::Secret("corp".to_owned())]
        {
            let choices = Choices { certificate, ..choices() };
            let (overlay, configuration, _) = planned(&Cluster::default(), &choices);
            assert_eq!(configuration["zone"], "apps.example.com");
            assert_eq!(configuration["access"]["credentialsNamespace"], "ingress");
            let folder = tempfile::tempdir().expect("a folder");
            let file = folder.path().join("gateway.yaml");
            std::fs::write(&file, configuration.to_string()).expect("a file");
            let read = portcullis_config::settings::Settings::read(&file);
            assert!(read.is_ok(), "{read:?}");
            let patches = overlay["patches"].as_array().expect("patches");
            assert_eq!(patches.len(), usize::from(configuration.get("certificates").is_some()));
        }
    }

    #[test]
    fn what_is_left_to_do_is_said() {
        let (_, _, notes) = planned(&Cluster::default(), &choices());
        assert!(notes.contains("To do: point the record *.apps.example.com"), "{notes}");
        assert!(notes.contains("To do: there is no certificate"), "{notes}");
        let cluster = Cluster {
            external_dns: Some("dns/external-dns".to_owned()),
            is_installed: true,
            ..Cluster::default()
        };
        let acme = Choices { certificate: Certificate::Acme, ..choices() };
        let (overlay, _, notes) = planned(&cluster, &acme);
        assert!(!notes.contains("To do"), "{notes}");
        assert!(notes.contains("has a gateway already"), "{notes}");
        assert!(
            overlay["patches"][0]["patch"].as_str().is_some_and(|patch| patch.contains("*.apps"))
        );
    }

    #[test]
    fn an_image_is_a_name_with_tag_or_digest() {
        let tag = env!("CARGO_PKG_VERSION");
        let of = |name: &str, key: &str, value: &str| json!({ "name": "portcullis", "newName": name, key: value });
        assert_eq!(image("r:5000/a"), of("r:5000/a", "newTag", tag));
        assert_eq!(image("r:5000/a:2"), of("r:5000/a", "newTag", "2"));
        assert_eq!(image("a@sha256:0"), of("a", "digest", "sha256:0"));
    }
}
