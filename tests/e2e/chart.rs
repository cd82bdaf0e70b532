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
pub(crate) fn built(name: &str) -> PathBuf {
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
pub(crate) fn overlay(components: &[&str], configuration: &str) -> String {
    let folder = copy_of_deploy();
    let append = |file: &str, text: &str| {
        let path = folder.path().join("deploy/overlay").join(file);
        let before = fs::read_to_string(&path).expect("a file of the overlay");
        fs::write(path, before + text).expect("a file of the overlay");
    };
    append("gateway.yaml", configuration);
    if components.contains(&"builder-sidecar") {
        let path = folder.path().join("deploy/overlay/kustomization.yaml");
        let text = fs::read_to_string(&path).expect("a kustomization");
        let resources = "  - ../kubernetes\n  - ../kubernetes/builder\n";
        fs::write(&path, text.replace("  - ../kubernetes\n", resources)).expect("a kustomization");
    }
    let paths = components.iter().map(|name| format!("  - ../kubernetes/components/{name}\n"));
    append("kustomization.yaml", &format!("components:\n{}", paths.collect::<String>()));
    kustomize(&folder.path().join("deploy/overlay"))
}

/// Renders the base as it is.
pub(crate) fn base() -> String {
    kustomize(&Path::new(DEPLOY).join("kubernetes"))
}

fn kustomize(folder: &Path) -> String {
    let mut kustomize = Command::new(built("kustomize"));
    text(kustomize.arg("build").arg(folder).output().expect("kustomize runs"))
}

fn copy_of_deploy() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    text(Command::new("cp").args(["-r", DEPLOY]).arg(folder.path()).output().expect("cp runs"));
    folder
}

/// The objects by kind and name, without what differs by the tool: Helm's labels, the hash in the
/// configuration's name, and the Namespace, which is an object for kustomize and an option for
/// Helm.
pub(crate) fn objects(manifests: &str) -> BTreeMap<String, Value> {
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
        for file in ["gateway.yaml", "builder.yaml"] {
            if let Some(text) = object.pointer_mut(&format!("/data/{file}")) {
                let settings: Value =
                    serde_saphyr::from_str(text.as_str().expect("a file")).expect("YAML");
                *text = settings;
                unhash(&mut object["metadata"]["name"]);
            }
        }
        let volumes = object.pointer_mut("/spec/template/spec/volumes");
        for volume in volumes.and_then(Value::as_array_mut).into_iter().flatten() {
            volume.pointer_mut("/configMap/name").map(unhash);
        }
        let key = format!("{} {}", object["kind"], object["metadata"]["name"]);
        assert!(objects.insert(key.clone(), object).is_none(), "{key} is there twice");
    }
    objects
}

/// Removes the hash from the name of a configuration's ConfigMap.
fn unhash(name: &mut Value) {
    let text = name.as_str().expect("a name");
    let end = if text.contains("-builder-") { "portcullis-builder" } else { "portcullis" };
    *name = json!(end);
}

fn assert_same(of_chart: &str, of_kustomize: &str, what: &str) {
    let (of_chart, of_kustomize) = (objects(of_chart), objects(of_kustomize));
    let names = |objects: &BTreeMap<String, Value>| objects.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&of_chart), names(&of_kustomize), "{what}: objects");
    for (name, object) in of_chart {
        assert_eq!(object, of_kustomize[&name], "{what}: {name}");
    }
}

/// The values of a builder with the configuration of the base.
const BUILDER: [&str; 3] = [
    "builder.enabled=true",
    "builder.configuration.registries[0].host=registry.example.com",
    "builder.configuration.registries[0].credentials=/etc/portcullis-registry/.dockerconfigjson",
];

#[test]
fn the_builder_is_the_same_alone_and_as_a_sidecar() {
    let values = [&FEATURES[..], &BUILDER, &["builder.sidecar=true"]].concat();
    let of_chart = chart("portcullis", "portcullis", &values);
    let components = ["acme", "load-balancer", "builder-sidecar"];
    assert_same(&of_chart, &overlay(&components, CONFIGURATION), "sidecar");

    let folder = copy_of_deploy();
    let base = objects(&kustomize(&folder.path().join("deploy/kubernetes/builder")));
    assert_eq!(builder_alone(&BUILDER), base);
}

/// The objects that the chart has for a builder in a Namespace of its own.
fn builder_alone(values: &[&str]) -> BTreeMap<String, Value> {
    let without = objects(&chart("portcullis", "portcullis", &FEATURES));
    let manifests = chart("portcullis", "portcullis", &[&FEATURES[..], values].concat());
    validate(&manifests);
    assert!(manifests.contains("namespace: \"portcullis-builder\""), "in a Namespace of its own");
    // The base's names of objects without a Namespace are those of its only installation.
    let manifests = manifests.replace("-builder:portcullis", "-builder");
    let manifests = manifests.replace("-environment:portcullis", "-environment");
    let manifests = manifests.replace("-secrets:portcullis", "-secrets");
    let manifests = manifests.replace("-gateway:portcullis", "-gateway");
    let mut alone = objects(&manifests);
    alone.retain(|name, _| !without.contains_key(name));
    alone
}

#[test]
fn builds_as_jobs_are_the_same_and_the_builder_knows_their_namespace() {
    let values = [&BUILDER[..], &["builder.jobs.enabled=true"]].concat();
    let mut of_chart = builder_alone(&values);
    let configuration = of_chart[r#""ConfigMap" "portcullis-builder""#].clone();
    let builds = &configuration["data"]["builder.yaml"]["builds"];
    let jobs = json!({ "namespace": "portcullis-builds", "image": "portcullis-builder:0.1.0" });
    assert_eq!(builds["jobs"], jobs);
    let without = builder_alone(&BUILDER);
    of_chart.retain(|name, _| !without.contains_key(name));
    let folder = copy_of_deploy();
    let path = folder.path().join("deploy/kubernetes/builder-jobs");
    let manifests = kustomize(&path);
    validate(&manifests);
    assert_eq!(of_chart, objects(&manifests));
    let level = "pod-security.kubernetes.io/enforce: privileged";
    let chart = chart("portcullis", "portcullis", &[&FEATURES[..], &values].concat());
    assert!(manifests.contains(level) && chart.contains(level));
    assert!(chart.contains("namespace: \"portcullis-builds\""), "in a Namespace of their own");
}

#[test]
fn pods_of_builds_reach_mirrors_and_dns_by_rules_of_the_operator() {
    let rule = "builder.jobs.mirrors.egress[0]";
    let rules = [
        "builder.jobs.enabled=true".to_owned(),
        format!("{rule}.to[0].ipBlock.cidr=192.0.2.0/24"),
        format!("{rule}.ports[0].port=443"),
    ];
    let values: Vec<&str> = BUILDER.into_iter().chain(rules.iter().map(String::as_str)).collect();
    let of_chart = builder_alone(&values);
    let name = r#""NetworkPolicy" "portcullis-builder-jobs""#;
    // As docs/builds.md has it for the base.
    let folder = copy_of_deploy();
    let documentation = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/builds.md");
    let documentation = fs::read_to_string(documentation).expect("the page");
    let (_, section) = documentation.split_once("### Mirrors in a cluster").expect("a section");
    let overlay = section.split("```yaml\n").nth(2).and_then(|rest| rest.split("```").next());
    let overlay = overlay.expect("an overlay").replace("deploy/kubernetes", "../kubernetes");
    let path = folder.path().join("deploy/mirrors");
    fs::create_dir(&path).expect("a folder");
    fs::write(path.join("kustomization.yaml"), overlay).expect("an overlay");
    let manifests = kustomize(&path);
    validate(&manifests);
    assert_eq!(of_chart[name], objects(&manifests)[name]);
    assert_eq!(of_chart[name]["spec"]["egress"].as_array().map(Vec::len), Some(2));
    assert_eq!(of_chart[name]["spec"]["egress"][1]["to"][0]["ipBlock"]["cidr"], "192.0.2.0/24");
}

#[test]
fn the_builder_with_a_database_is_the_same_and_has_no_volume_claim() {
    let database = "builder.postgresql.secretName=portcullis-builder-database";
    let of_chart = builder_alone(&[&BUILDER[..], &[database]].concat());
    assert!(!of_chart.contains_key(r#""PersistentVolumeClaim" "portcullis-builder""#));
    let folder = copy_of_deploy();
    let deploy = folder.path().join("deploy");
    let file = deploy.join("kubernetes/builder/builder.yaml");
    let settings = fs::read_to_string(&file).expect("the base");
    let store = "store: {postgresql: {urlFile: /etc/portcullis-database/url}}";
    let settings = settings.replace("store: /var/lib/portcullis/releases.db", store);
    fs::write(&file, settings).expect("the configuration");
    let path = deploy.join("postgresql");
    fs::create_dir(&path).expect("a folder");
    let overlay = "resources: [../kubernetes/builder]\n\
                   components: [../kubernetes/components/builder-postgresql]\n";
    fs::write(path.join("kustomization.yaml"), overlay).expect("an overlay");
    assert_eq!(of_chart, objects(&kustomize(&path)));

    let sidecar = [&BUILDER[..], &["builder.sidecar=true", database]].concat();
    let pod = chart("portcullis", "portcullis", &[&FEATURES[..], &sidecar].concat());
    validate(&pod);
    assert!(pod.contains("{name: builder-database, mountPath: /etc/portcullis-database"), "{pod}");
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
        assert_same(&of_chart, &of_overlay, component);
    }
}

#[test]
fn what_is_rendered_is_valid_for_kubernetes_and_for_the_gateway() {
    let everything = [
        "autoscaling.enabled=true",
        "podMonitor.enabled=true",
        "prometheusRule.enabled=true",
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
        .args([
            "-strict",
            "-summary",
            "-skip",
            "PodMonitor,PrometheusRule",
            "-schema-location",
            &schemas,
            "-",
        ])
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
        (&["zone=apps.example.com", "exposure.awsCertificate=x"], "/exposure/awsCertificate"),
        (&["zone=apps.example.com", "replicas=0"], "/replicas"),
        (&["zone=apps.example.com", "log.format=xml"], "/log/format"),
        (&["zone=apps.example.com", "acme.enabled=yes"], "/acme/enabled"),
        (&["zone=apps.example.com", "image.repository="], "/image/repository"),
        (&["zone=apps.example.com", "login.enabled=true"], "/login/issuer"),
        (&["zone=apps.example.com", "login.issuer=id.example.com"], "/login/issuer"),
    ] {
        let folder = format!("{DEPLOY}/helm/portcullis");
        let mut arguments = vec!["template", "portcullis", &folder];
        values.iter().for_each(|value| arguments.extend(["--set", value]));
        let output = helm(&arguments);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && message.contains(reason), "{values:?}: {message}");
    }
}

#[test]
fn every_value_is_in_the_documentation_and_in_the_schema() {
    fn names(value: &Value, path: &str, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) if !fields.is_empty() && !path.ends_with("resources") => {
                let dot = if path.is_empty() { "" } else { "." };
                fields.iter().for_each(|(name, value)| {
                    names(value, &format!("{path}{dot}{name}"), found);
                });
            }
            _ => found.push(path.to_owned()),
        }
    }
    let read = |path: &str| fs::read_to_string(format!("{DEPLOY}/{path}")).expect("a file");
    let values: Value = serde_saphyr::from_str(&read("helm/portcullis/values.yaml")).expect("YAML");
    let mut values_of_chart = Vec::new();
    names(&values, "", &mut values_of_chart);
    let schema = read("helm/portcullis/values.schema.json");
    let schema: Value = serde_json::from_str(&schema).expect("JSON");
    let documentation = include_str!("../../docs/install.md");
    for name in values_of_chart {
        assert!(documentation.contains(&format!("`{name}`")), "docs/install.md lacks {name}");
        let pointer = format!("/properties/{}", name.replace('.', "/properties/"));
        assert!(schema.pointer(&pointer).is_some(), "values.schema.json lacks {name}");
    }
}

#[test]
fn alerts_name_metrics_that_exist() {
    let values = [FEATURES[0], "prometheusRule.enabled=true"];
    let objects = objects(&chart("portcullis", "portcullis", &values));
    let rules = objects[r#""PrometheusRule" "portcullis""#]["spec"]["groups"][0]["rules"].clone();
    let metrics = include_str!("../../docs/metrics.md");
    let rules = rules.as_array().expect("rules");
    assert!(rules.len() >= 4, "{rules:?}");
    for rule in rules {
        let expression = rule["expr"].as_str().expect("an expression");
        assert!(expression.contains(r#"{namespace="portcullis"}"#), "{expression}");
        let is_of_metric = |char: char| char.is_ascii_lowercase() || char == '_';
        let words = expression.split(|char| !is_of_metric(char));
        for name in words.filter(|word| word.starts_with("portcullis_")) {
            assert!(metrics.contains(&format!("| `{name}` |")), "{name}");
        }
    }
}

#[test]
fn one_value_turns_a_feature_on() {
    let of = |values: &[&str]| objects(&chart("portcullis", "portcullis", values));
    let configuration = |values: &[&str]| {
        let manifests = chart("portcullis", "portcullis", values);
        check(&manifests);
        objects(&manifests)[r#""ConfigMap" "portcullis""#]["data"]["gateway.yaml"].clone()
    };
    let roles = |values: &[&str], name: &str| {
        of(values).contains_key(&format!("\"Role\" \"portcullis-{name}\""))
    };
    let acme = [FEATURES[0], "acme.enabled=true"];
    assert!(configuration(&acme)["acme"].is_object() && roles(&acme, "acme"));
    let brought = [FEATURES[0], FEATURES[1]];
    assert_eq!(configuration(&brought)["certificates"][0]["secret"]["name"], "portcullis-tls");
    assert!(roles(&brought, "certificates") && !roles(&brought, "acme"));

    let login = [
        FEATURES[0],
        "login.enabled=true,login.issuer=https://id.example.com,login.clientId=edge",
        "login.clientSecretName=corp-client,login.settings.idle=4h",
        "configuration.access.issuers[0].name=ci",
        "configuration.access.issuers[0].issuer=https://ci.example.com",
        "configuration.access.issuers[0].audiences={edge}",
        "configuration.access.issuers[0].prefix=ci:",
    ];
    let access = configuration(&login)["access"].clone();
    let file = "/etc/portcullis-secrets/login/client-secret";
    let expected =
        json!({ "issuer": "login", "clientId": "edge", "clientSecretFile": file, "idle": "4h" });
    assert_eq!(access["login"], expected);
    let named = |index: usize| access["issuers"][index]["name"].as_str();
    assert_eq!([named(0), named(1)], [Some("login"), Some("ci")], "{access}");
    let deployment = of(&login)[r#""Deployment" "portcullis""#]["spec"].to_string();
    assert!(deployment.contains("\"corp-client\""), "{deployment}");
    let github = [FEATURES[0], "login.enabled=true,login.issuer=github,login.clientId=Iv1.1"];
    assert_eq!(configuration(&github)["access"]["login"]["issuer"], "github");

    let dns = chart("portcullis", "portcullis", &[FEATURES[0], "exposure.externalDns=true"]);
    let hostname = "external-dns.alpha.kubernetes.io/hostname: '*.apps.example.com'";
    assert!(dns.contains(hostname), "{dns}");
    // The balancer of AWS ends TLS, and names the clients by the PROXY protocol.
    let aws = [FEATURES[0], "exposure.awsCertificate=arn:aws:acm:eu-west-1:1:certificate/1"];
    assert_eq!(configuration(&aws)["listeners"]["proxyProtocol"], true);
    let service = chart("portcullis", "portcullis", &aws);
    for line in ["ssl-cert: arn:aws:acm", "ssl-ports: https", "proxy-protocol: '*'"] {
        assert!(service.contains(&format!("aws-load-balancer-{line}")), "{line}: {service}");
    }
}

#[test]
fn a_pod_has_the_time_for_the_hook_and_for_its_drain() {
    let pod = |manifests: &str| {
        let deployment = objects(manifests)[r#""Deployment" "portcullis""#].clone();
        deployment["spec"]["template"]["spec"].clone()
    };
    for manifests in [chart("portcullis", "portcullis", &FEATURES[..1]), base()] {
        let objects = objects(&manifests);
        let configuration = &objects[r#""ConfigMap" "portcullis""#]["data"]["gateway.yaml"];
        let seconds = |name: &str| {
            let text = configuration["drain"][name].as_str().expect("a duration");
            text.strip_suffix('s').and_then(|text| text.parse::<u64>().ok()).expect("seconds")
        };
        let pod = pod(&manifests);
        let hook = &pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"];
        let needed = hook.as_u64().expect("a hook") + seconds("delay") + seconds("deadline");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("a time");
        assert!(grace > needed, "{grace} s for {needed} s");
        // Readiness fails within failureThreshold periods: the hook is longer, or it would be of no use.
        let probe = &pod["containers"][0]["readinessProbe"];
        let fails = probe["periodSeconds"].as_u64().zip(probe["failureThreshold"].as_u64());
        assert!(fails.is_some_and(|(period, times)| hook.as_u64() > Some(period * times)));
    }
    let without = chart("portcullis", "portcullis", &[FEATURES[0], "preStopSeconds=0"]);
    assert!(pod(&without)["containers"][0]["lifecycle"].is_null());
}
