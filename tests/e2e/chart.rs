//! The Helm chart: of the same meaning as the kustomize base with its components, valid by the
//! schemas of Kubernetes, and strict about its values.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy");
/// The values of a comparison, besides how clients reach the gateway: what the base has rights for.
const FEATURES: [&str; 4] = [
    "zone=apps.example.com",
    "certificate.secretName=portcullis-tls",
    "acme.enabled=true",
    "acme.settings.challenge=http-01",
];
/// The same in the configuration file of the overlay.
const CONFIGURATION: &str = "certificates:
- secret: {namespace: portcullis, name: portcullis-tls}
acme: {challenge: http-01}
";

/// A program that `tests/chart/build` built, or its folder of schemas.
fn built(name: &str) -> PathBuf {
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/chart/build");
    let output = Command::new(build).arg("--print-dir").output().expect("tests/chart/build runs");
    let path = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim()).join(name);
    assert!(path.exists(), "{name} is not there: run tests/chart/build");
    path
}

fn helm(arguments: &[&str]) -> Output {
    Command::new(built("helm")).args(arguments).output().expect("helm runs")
}

fn text(output: Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Renders the chart with values as `--set` has them.
fn chart(release: &str, namespace: &str, values: &[&str]) -> String {
    let folder = format!("{DEPLOY}/helm/portcullis");
    let mut arguments = vec!["template", release, &folder, "--namespace", namespace];
    values.iter().for_each(|value| arguments.extend(["--set", value]));
    text(helm(&arguments))
}

/// Renders the overlay with components and further configuration.
fn overlay(components: &[&str], configuration: &str) -> String {
    let folder = copy_of_deploy();
    let append = |file: &str, text: &str| {
        let path = folder.path().join("deploy/overlay").join(file);
        let before = fs::read_to_string(&path).expect("a file of the overlay");
        fs::write(path, before + text).expect("a file of the overlay");
    };
    append("gateway.yaml", configuration);
    let paths = components.iter().map(|name| format!("  - ../kubernetes/components/{name}\n"));
    append("kustomization.yaml", &format!("components:\n{}", paths.collect::<String>()));
    let mut kustomize = Command::new(built("kustomize"));
    kustomize.arg("build").arg(folder.path().join("deploy/overlay"));
    text(kustomize.output().expect("kustomize runs"))
}

fn copy_of_deploy() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    text(Command::new("cp").args(["-r", DEPLOY]).arg(folder.path()).output().expect("cp runs"));
    folder
}

/// The objects by kind and name, without what differs by the tool: Helm's labels, the hash in the
/// configuration's name, and the Namespace, which is an object for kustomize and an option for
/// Helm.
fn objects(manifests: &str) -> BTreeMap<String, Value> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(manifests).expect("YAML");
    let mut objects = BTreeMap::new();
    for mut object in documents.into_iter().filter(|object| object["kind"] != "Namespace") {
        let metadata = object["metadata"].as_object_mut().expect("metadata");
        metadata.remove("namespace");
        metadata.remove("annotations");
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.retain(|key, _| {
                !key.starts_with("helm.sh/")
                    && !["instance", "managed-by", "version"]
                        .iter()
                        .any(|own| *key == format!("app.kubernetes.io/{own}"))
            });
        }
        if let Some(file) = object.pointer_mut("/data/gateway.yaml") {
            let settings: Value =
                serde_saphyr::from_str(file.as_str().expect("a file")).expect("YAML");
            *file = settings;
            object["metadata"]["name"] = json!("portcullis");
        }
        let volumes = "/spec/template/spec/volumes/0/configMap/name";
        if let Some(name) = object.pointer_mut(volumes) {
            *name = json!("portcullis");
        }
        let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

#[test]
fn chart_and_overlay_have_the_same_meaning() {
    for (component, values) in [
        ("load-balancer", &["exposure.type=LoadBalancer"][..]),
        ("node-port", &["exposure.type=NodePort"]),
        ("host-ports", &["exposure.type=HostPort"]),
        ("verify-endpoints", &["verifyEndpoints=true"]),
    ] {
        let exposure = if component == "verify-endpoints" { "load-balancer" } else { component };
        let components = &["acme", exposure, component];
        let count = 2 + usize::from(exposure != component);
        let of_overlay = overlay(components.get(..count).unwrap_or(components), CONFIGURATION);
        let of_chart = chart("portcullis", "portcullis", &[&FEATURES[..], values].concat());
        let (of_chart, of_overlay) = (objects(&of_chart), objects(&of_overlay));
        let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&of_chart), names(&of_overlay), "{component}: objects");
        for (name, object) in of_chart {
            assert_eq!(object, of_overlay[&name], "{component}: {name}");
        }
    }
}

#[test]
fn what_is_rendered_is_valid_for_kubernetes_and_for_the_gateway() {
    let everything = [
        "autoscaling.enabled=true",
        "podMonitor.enabled=true",
        "exposure.externalDns=true",
        "exposure.proxyProtocol=true",
        "exposure.trustedNetworks={10.0.0.0/8}",
        "log.format=json",
        "log.level=debug",
        "image.pullSecrets[0].name=registry",
        "secretMounts[0].name=corp,secretMounts[0].secretName=corp-client",
        "env[0].name=HTTPS_PROXY,env[0].value=http://proxy.example.com:3128",
        "tolerations[0].key=edge,tolerations[0].operator=Exists",
        "configuration.defaultEnvironment=production",
        "configuration.drain.delay=10s",
    ];
    let minimal = chart("portcullis", "portcullis", &FEATURES[..1]);
    let complete = chart("edge", "ingress", &[&FEATURES[..], &everything].concat());
    assert!(!complete.contains("namespace: portcullis"), "another Namespace appears nowhere");
    // A name that looks like a number stays a name.
    validate(&chart("portcullis", "123", &[FEATURES[0], FEATURES[1]]));
    for manifests in [&minimal, &complete, &overlay(&["node-port"], CONFIGURATION)] {
        validate(manifests);
        check(manifests);
    }
    let configuration = objects(&complete)[r#""ConfigMap" "portcullis""#].clone();
    let drain = &configuration["data"]["gateway.yaml"]["drain"];
    assert_eq!(*drain, json!({ "delay": "10s", "deadline": "30s" }), "values are merged");
    let lint = ["lint", "--strict", &format!("{DEPLOY}/helm/portcullis"), "--set", FEATURES[0]];
    text(helm(&lint));
}

/// Validates manifests strictly; the kinds of the Prometheus operator have no schema here.
fn validate(manifests: &str) {
    let schemas = built("schemas").display().to_string();
    let schemas =
        format!("{schemas}/{{{{.Group}}}}/{{{{.ResourceKind}}}}_{{{{.ResourceAPIVersion}}}}.json");
    let mut kubeconform = Command::new(built("kubeconform"))
        .args(["-strict", "-summary", "-skip", "PodMonitor", "-schema-location", &schemas, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubeconform runs");
    let mut input = kubeconform.stdin.take().expect("its input");
    input.write_all(manifests.as_bytes()).expect("it reads all");
    drop(input);
    let output = kubeconform.wait_with_output().expect("kubeconform ends");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

/// Checks the configuration file in manifests.
fn check(manifests: &str) {
    let configuration = objects(manifests)[r#""ConfigMap" "portcullis""#].clone();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.yaml");
    fs::write(&file, configuration["data"]["gateway.yaml"].to_string()).expect("a file");
    let mut check = Command::new(Path::new(env!("CARGO_BIN_EXE_portcullis")));
    let output = check.arg("check").arg(file).output().expect("portcullis runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn wrong_values_are_rejected_before_anything_is_applied() {
    for (values, reason) in [
        (&[][..], "/zone"),
        (&["zone=Apps.example.com"], "/zone"),
        (&["zone=apps.example.com", "zones=x"], "'zones' not allowed"),
        (
            &["zone=apps.example.com", "exposure.type=Ingress"],
            "'LoadBalancer', 'NodePort', 'HostPort'",
        ),
        (&["zone=apps.example.com", "exposure.nodePorts.http=70000"], "/exposure/nodePorts/http"),
        (&["zone=apps.example.com", "replicas=0"], "/replicas"),
        (&["zone=apps.example.com", "log.format=xml"], "/log/format"),
        (&["zone=apps.example.com", "acme.enabled=yes"], "/acme/enabled"),
        (&["zone=apps.example.com", "image.repository="], "/image/repository"),
        (&["zone=apps.example.com", "login.enabled=true"], "/login/settings"),
    ] {
        let folder = format!("{DEPLOY}/helm/portcullis");
        let mut arguments = vec!["template", "portcullis", &folder];
        values.iter().for_each(|value| arguments.extend(["--set", value]));
        let output = helm(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(reason), "{values:?}: {message}");
    }
}
