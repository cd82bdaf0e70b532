use proptest::prelude::*;
use serde_json::json;

use super::*;

const IMAGE: &str = "registry.test/web@sha256:0123";

fn deployment() -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "web", "image": "{{image}}"}]}}},
    })
}

fn with(pointer: &str, value: Value) -> Value {
    let mut object = deployment();
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    object.pointer_mut(parent).unwrap()[key] = value;
    object
}

/// The pointers and lines of all problems.
fn places(template: &Value) -> Vec<String> {
    let problems = Template::parse(template).expect_err("it has a problem");
    let place = |problem: TemplateProblem| {
        problem.line.map_or_else(|| problem.pointer.unwrap_or_default(), |line| line.to_string())
    };
    problems.into_iter().map(place).collect()
}

#[test]
fn text_and_json_in_any_spelling_are_the_same_template() {
    let expected = Template::parse(&deployment()).unwrap();
    let yaml = |image: &str| {
        format!(
            "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec:\n  \
             template:\n    spec:\n      containers:\n      - name: web\n        image: {image}\n"
        )
    };
    for image in ["{{image}}", "{{ image }}", "\"{{image}}\"", "'{{ image }}'"] {
        assert_eq!(Template::parse(&yaml(image).into()).as_ref(), Ok(&expected), "{image}");
    }
    let list = json!({"apiVersion": "v1", "kind": "List", "items": [deployment()]});
    for template in [json!([deployment()]), deployment().to_string().into(), list] {
        assert_eq!(Template::parse(&template).as_ref(), Ok(&expected));
    }
}

#[test]
fn rendering_sets_image_namespace_and_marks() {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"}});
    service["metadata"]["labels"] = json!({"team": "a"});
    let template = Template::parse(&json!([deployment(), service])).unwrap();
    assert_eq!(template.only_service().unwrap().as_str(), "web");
    let manifests = template.render(&"web.7".parse().unwrap(), IMAGE, &[], "staging");
    assert_eq!(manifests[0]["spec"]["template"]["spec"]["containers"][0]["image"], IMAGE);
    assert_eq!(
        manifests[1]["metadata"],
        json!({
            "name": "web", "namespace": "staging",
            "labels": {"team": "a", "releases.portcullis.dev/service": "web"},
            "annotations": {"releases.portcullis.dev/release": "web.7"},
        })
    );
}

#[test]
fn every_problem_is_reported_with_its_place() {
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "web"}});
    let role = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
        "metadata": {"name": "web"},
    });
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "web"}});
    let weight = with("/metadata/annotations", json!({"portcullis.dev/canary-weight": "5"}));
    for (template, expected) in [
        (json!([deployment(), namespace, role, secret]), vec!["/1/kind", "/2/kind", "/3/kind"]),
        (with("/metadata/namespace", "other".into()), vec!["/0/metadata/namespace"]),
        (with("/metadata/generateName", "web-".into()), vec!["/0/metadata/generateName"]),
        (with("/metadata/name", "No Name".into()), vec!["/0/metadata/name"]),
        (with("/metadata/labels", json!([])), vec!["/0/metadata/labels"]),
        (weight, vec!["/0/metadata/annotations/portcullis.dev~1canary-weight"]),
        (
            with("/metadata/labels", json!({"releases.portcullis.dev/service": "other"})),
            vec!["/0/metadata/labels/releases.portcullis.dev~1service"],
        ),
        (json!([deployment(), deployment()]), vec!["/1"]),
        (json!([deployment(), 5]), vec!["/1"]),
        (json!([deployment(), {}]), vec!["/1/apiVersion", "/1/kind", "/1/metadata/name"]),
        (json!([]), vec!["", ""]),
        ("a: b\nc: ]\n".into(), vec!["2"]),
    ] {
        assert_eq!(places(&template), expected, "{template}");
    }
    let object = |api_version: &str, kind: &str| json!([deployment(), {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x"}}]);
    for (version, kind, expected) in [
        ("v1", "Endpoints", "/1/kind"),
        ("discovery.k8s.io/v1", "EndpointSlice", "/1/kind"),
        ("gateway.networking.k8s.io/v1beta1", "ReferenceGrant", "/1/kind"),
        // Texts that would be another path of the API server, or the core group by another name.
        ("apps/../../api/v1", "Secret", "/1/apiVersion"),
        ("x/v1?", "Secret", "/1/apiVersion"),
        ("/v1", "Secret", "/1/apiVersion"),
        ("v1%3F", "Secret", "/1/apiVersion"),
        ("{{image}}", "ConfigMap", "/1/apiVersion"),
        ("v1", "{{image}}", "/1/kind"),
        ("v1", "../Secret", "/1/kind"),
    ] {
        assert_eq!(places(&object(version, kind)), [expected], "{version} {kind}");
    }
    for field in ["finalizers", "ownerReferences"] {
        let place = format!("/metadata/{field}");
        assert_eq!(places(&with(&place, json!([]))), [format!("/0{place}")]);
    }
    let missing =
        with("/spec/template/spec/containers", json!([{"name": "web", "image": "web:1"}]));
    assert_eq!(
        Template::parse(&missing).unwrap_err()[0].to_string(),
        "the placeholder `{{image}}` is missing (write `image: \"{{image}}\"` where the image of \
         the release belongs)"
    );
}

#[test]
fn a_service_takes_over_no_other_traffic() {
    let service = |name: &str, annotations: Value, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Service", "spec": spec,
            "metadata": {"name": name, "annotations": annotations}})
    };
    let stable = service("web", json!({}), json!({}));
    let canary =
        |of: &str| service("web-canary", json!({"portcullis.dev/canary-of": of}), json!({}));
    assert!(Template::parse(&json!([deployment(), stable, canary("web")])).is_ok());
    assert_eq!(
        places(&json!([deployment(), stable, canary("shop")])),
        ["/2/metadata/annotations/portcullis.dev~1canary-of"]
    );
    let outside = service("web", json!({}), json!({"externalIPs": ["192.0.2.1"]}));
    assert_eq!(places(&json!([deployment(), outside])), ["/1/spec/externalIPs"]);
}

#[test]
fn a_placeholder_is_a_value_in_both_spellings() {
    let spaced =
        with("/spec/template/spec/containers", json!([{"name": "web", "image": "{{ image }}"}]));
    assert_eq!(Template::parse(&spaced), Template::parse(&deployment()));
    let text = format!("{}\n---\nx: {{{{{{image}}}}: y}}\n", deployment());
    let problems = Template::parse(&text.into()).unwrap_err();
    assert_eq!(problems[0].message, "a placeholder is in a key");
}

fn settings() -> Value {
    json!({
        "apiVersion": "releases.portcullis.dev/v1", "kind": "Settings", "metadata": {"name": "web"},
        "settings": {
            "replicas": {"type": "integer", "default": 2},
            "host": {"type": "string"},
            "password": {"type": "secret", "default": "database/password"},
        },
    })
}

#[test]
fn settings_are_rendered_by_type_and_their_declaration_is_not_applied() {
    let mut object = with("/spec/replicas", "{{ settings.replicas }}".into());
    object["spec"]["url"] = "https://{{settings.host}}/{{settings.replicas}}".into();
    object["spec"]["secretKeyRef"] = "{{settings.password}}".into();
    let yaml = format!(
        "{object}\n---\napiVersion: releases.portcullis.dev/v1\nkind: Settings\nmetadata: {{name: \
         web}}\nsettings:\n  replicas: {{type: integer, default: 2}}\n  host: {{type: string}}\n  \
         password: {{type: secret, default: database/password}}\n"
    );
    let template = Template::parse(&json!([object, settings()])).unwrap();
    assert_eq!(Template::parse(&yaml.into()).as_ref(), Ok(&template));
    let environment = Values::from([("host".to_owned(), json!("a.test"))]);
    let layers = Layers { environment, service: Values::new() };
    let values = resolve_settings(&template.settings(), &layers).unwrap();
    let manifests = template.render(&"web.1".parse().unwrap(), IMAGE, &values, "dev");
    assert_eq!(manifests.len(), 1);
    let spec = &manifests[0]["spec"];
    assert_eq!((&spec["replicas"], &spec["url"]), (&json!(2), &json!("https://a.test/2")));
    assert_eq!(spec["secretKeyRef"], json!({"name": "database", "key": "password"}));
    let shown = template.with_values(IMAGE, &[]);
    assert_eq!((shown.len(), &shown[0]["spec"]["replicas"]), (2, &json!("{{settings.replicas}}")));
}

#[test]
fn settings_that_are_not_declared_or_not_valid_are_reported_with_their_place() {
    let declared = |declaration: Value| {
        let mut settings = settings();
        settings["settings"] = json!({"a": declaration});
        json!([deployment(), settings])
    };
    for (template, expected) in [
        (json!([with("/spec/replicas", "{{settings.x}}".into()), settings()]), "/0/spec/replicas"),
        (with("/spec/x", json!({"a/b": ["{{settings.x}}"]})), "/0/spec/x/a~1b/0"),
        (json!([with("/spec/x", "a{{settings.password}}".into()), settings()]), "/0/spec/x"),
        (with("/spec/x", "{{ setting.x }}".into()), "/0/spec/x"),
        (declared(json!({"type": "integer", "default": "2"})), "/1/settings/a/default"),
        (declared(json!({"type": "list"})), "/1/settings/a"),
        (declared(json!({"default": 1})), "/1/settings/a"),
        (json!([deployment(), settings(), settings()]), "/2"),
    ] {
        assert_eq!(places(&template), [expected], "{template}");
    }
}

#[test]
fn large_templates_are_bounded() {
    assert_eq!(places(&with("/spec/note", PLACEHOLDER.repeat(1001).into())), [""]);
    let many = json!(vec![deployment(); MAX_OBJECTS + 1]);
    assert_eq!(places(&many), [""]);
    let keys: Map<String, Value> =
        (0..10_000).map(|key| (format!("key-{key}"), "x".repeat(60).into())).collect();
    assert_eq!(places(&with("/metadata/labels", keys.into())), [""]);
    let deep = format!("{}{{{{image}}}}{}", "[".repeat(1000), "]".repeat(1000));
    assert!(Template::parse(&deep.into()).is_err());
    let problems = json!(vec![json!({"kind": "x"}); MAX_OBJECTS]);
    assert_eq!(places(&problems).len(), MAX_PROBLEMS);
}

#[test]
fn a_template_has_a_bounded_number_of_values() {
    let list = |length: usize| with("/spec/list", vec![json!(0); length].into());
    let beside = count(&list(0));
    assert!(Template::parse(&list(MAX_VALUES - beside)).is_ok());
    let too_many = list(MAX_VALUES - beside + 1);
    for template in [too_many.clone(), json!([too_many]), too_many.to_string().into()] {
        let problems = Template::parse(&template).unwrap_err();
        assert_eq!(problems[0].message, "the template has more than 20000 values");
        assert_eq!(problems.len(), 1);
    }
    let long = format!("{}\n# {}", deployment(), "x".repeat(MAX_BYTES));
    let problems = Template::parse(&long.into()).unwrap_err();
    assert_eq!(problems[0].message, "the template has more than 524288 bytes");
}

/// The values in a template.
fn count(template: &Value) -> usize {
    let mut count = 0;
    let mut pending = vec![template];
    while let Some(value) = pending.pop() {
        count += 1;
        pending.extend(value.as_array().into_iter().flatten());
        pending.extend(value.as_object().into_iter().flat_map(|map| map.values()));
    }
    count
}

proptest! {
    #[test]
    fn no_text_panics(text in "[-a{}:\\[\\], \n\"'&*!|>#?%@`]{0,60}") {
        let _ = Template::parse(&text.into());
    }

    #[test]
    fn rendering_leaves_no_placeholder_and_is_repeatable(name in "[a-z]{1,10}", times in 1..4_usize) {
        let template = with("/metadata/name", name.into());
        let template =
            { let mut t = template; t["spec"]["note"] = "{{image}} ".repeat(times).into(); t };
        let template = Template::parse(&template).unwrap();
        let render = || template.render(&"web.1".parse().unwrap(), IMAGE, &[], "dev");
        prop_assert!(!serde_json::to_string(&render()).unwrap().contains(PLACEHOLDER));
        prop_assert_eq!(render(), render());
    }
}

#[test]
fn secrets_are_sealed_and_shown_as_hashes() {
    let keys = crate::sealing::tests::keys(&[1]);
    let service = "web".parse().unwrap();
    let secret = |value: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"},
            "stringData": {"password": value}})
    };
    let sealed = |value: &str| {
        let template = Template::parse_unsealed(&json!([deployment(), secret(value)]), true);
        template.unwrap().seal(&keys, &service).unwrap()
    };
    let [one, same, other] = ["hunter2", "hunter2", "hunter3"].map(sealed);
    let shown = |template: &Template| template.with_values(IMAGE, &[]);
    assert!(diff(&shown(&one), &shown(&same)).is_empty());
    let found = diff(&shown(&one), &shown(&other));
    let field = &found[0].fields[0];
    assert_eq!(field.path, "data.password");
    assert_ne!(field.before, field.after);
    assert!(!serde_json::to_string(&found).unwrap().contains("hunter"));
    let render =
        |template: &Template| template.render(&"web.1".parse().unwrap(), IMAGE, &[], "dev");
    let mut rendered = render(&one);
    assert!(rendered[1]["data"]["password"].as_str().unwrap().starts_with("sealed:"));
    one.unseal(&mut rendered, &keys, &service).unwrap();
    assert_eq!(rendered[1]["data"], json!({"password": "aHVudGVyMg=="}));
    assert!(one.unseal(&mut render(&one), &keys, &"shop".parse().unwrap()).is_err());

    let places = |change: fn(&mut Value)| -> Vec<String> {
        let mut secret = secret("hunter2");
        change(&mut secret);
        let parsed = Template::parse_unsealed(&json!([deployment(), secret]), true);
        let problems = parsed.err().unwrap_or_default();
        for problem in &problems {
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
        problems.into_iter().filter_map(|problem| problem.pointer).collect()
    };
    assert_eq!(places(|_| {}), [""; 0]);
    assert_eq!(places(|secret| secret["data"] = json!({"a": "hunter2"})), ["/1/data/a"]);
    assert_eq!(places(|secret| secret["stringData"]["a"] = 5.into()), ["/1/stringData/a"]);
    let placeholder = |secret: &mut Value| secret["stringData"]["a"] = "{{settings.x}}".into();
    assert_eq!(places(placeholder), ["/1/stringData/a"]);
    let applied = |secret: &mut Value| {
        let key = "kubectl.kubernetes.io/last-applied-configuration";
        secret["metadata"]["annotations"] = json!({key: "hunter2"});
    };
    assert_eq!(
        places(applied),
        ["/1/metadata/annotations/kubectl.kubernetes.io~1last-applied-configuration"]
    );
}
