use super::*;
use crate::resources::ObjectId;

fn read(text: &str) -> (Vec<Object>, Vec<String>) {
    let secrets = Secrets {
        certificates: [NamespacedName::new("gateway", "wildcard")].into(),
        credentials: Some("gateway".into()),
    };
    let Manifests { objects, problems, .. } =
        read_manifests(&Arc::new("shop.yaml".into()), text.as_bytes(), &secrets);
    (objects, problems.iter().map(ToString::to_string).collect())
}

fn names(objects: &[Object]) -> Vec<String> {
    objects
        .iter()
        .map(|object| match object.id() {
            ObjectId::Namespace(name) => format!("namespace {name}"),
            ObjectId::Service(name) => format!("service {name}"),
            ObjectId::EndpointSlice(name) => format!("slice {name}"),
            ObjectId::Pod(uid) => format!("pod {uid}"),
            ObjectId::Certificate(settings) => format!("certificate {settings:?}"),
            ObjectId::Credential(name) => format!("credential {name}"),
        })
        .collect()
}

#[test]
fn all_kinds_are_read_from_documents_lists_and_json() {
    let (objects, problems) = read(include_str!("shop.yaml"));
    assert_eq!(problems, Vec::<String>::new());
    assert_eq!(
        names(&objects),
        [
            "namespace staging",
            "service staging/cart",
            "slice staging/cart-1",
            "service default/shop",
            "certificate Secret { namespace: \"gateway\", name: \"wildcard\" }",
        ]
    );
    let Object::Service(cart) = &objects[1] else { panic!("no service") };
    assert_eq!(cart.origin.to_string(), "shop.yaml:9:1: Service staging/cart");
}

#[test]
fn an_invalid_object_is_reported_with_location_and_name_and_the_others_are_read() {
    let text = "
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: staging, annotations: {portcullis.dev/expose: true}}
---
apiVersion: v1
kind: Service
metadata: {name: shop, namespace: staging}
spec:
  ports:
  - port: http
---
apiVersion: v1
kind: Namespace
metadata: {name: staging}
";
    let (objects, problems) = read(text);
    assert_eq!(names(&objects), ["namespace staging"]);
    assert_eq!(
        problems,
        [
            "shop.yaml:4:81: Service staging/cart: `metadata.annotations.portcullis.dev/expose`: \
             expected a string, found boolean `true` (put the value in quotes)",
            "shop.yaml:11:11: Service staging/shop: `spec.ports[0].port`: expected a whole \
             number, found string \"http\" (write a whole number)",
        ]
    );
}

#[test]
fn a_document_that_is_not_a_manifest_is_reported() {
    let (_, problems) = read(
        "- a\n---\nkind: Service\n---\napiVersion: v1\n---\napiVersion: v1\nkind: \
         List\n---\n{apiVersion: v1, kind: Namespace, metadata: {}}",
    );
    assert_eq!(
        problems,
        [
            "shop.yaml:1:1: a manifest must be a map (write `apiVersion`, `kind` and `metadata`)",
            "shop.yaml:3:1: the manifest has no `apiVersion` (add `apiVersion`)",
            "shop.yaml:5:1: the manifest has no `kind` (add `kind`)",
            "shop.yaml:7:1: the list has no `items` (add `items`, which may be `[]`)",
            "shop.yaml:10:1: Namespace : it has no `metadata.name` (give it a name)",
        ]
    );
}

#[test]
fn messages_contain_no_value_of_a_secret() {
    let (_, problems) = read(
        "{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: wildcard, \
         namespace: gateway}, data: {tls.key: \"not base64 SECRET\"}}",
    );
    assert_eq!(problems.len(), 1);
    assert!(!problems[0].contains("SECRET"), "{problems:?}");
    let (_, problems) = read(
        "{apiVersion: v1, kind: Secret, type: kubernetes.io/tls, metadata: {name: wildcard, \
         namespace: gateway}, data: SECRET}",
    );
    assert!(problems.len() == 1 && !problems[0].contains("SECRET"), "{problems:?}");
}

/// A Secret with a client key, with a dummy hash.
fn credential(metadata: &str) -> String {
    let hash = format!("sha256:{}", "0".repeat(64));
    format!(
        "{{apiVersion: v1, kind: Secret, metadata: {metadata}, stringData: {{application: \
         billing, hash: \"{hash}\"}}}}\n---\n"
    )
}

#[test]
fn only_labelled_credentials_of_the_namespace_are_read() {
    let (objects, problems) = read(
        &[
            "{name: a, namespace: gateway, labels: {portcullis.dev/credential: client-key}}",
            "{name: b, namespace: elsewhere, labels: {portcullis.dev/credential: client-key}}",
            "{name: c, labels: {portcullis.dev/credential: client-key}}",
            "{name: d, namespace: gateway, labels: {app: billing}, annotations: \
             {portcullis.dev/credential: client-key}}",
            "{name: e, namespace: gateway}",
        ]
        .map(credential)
        .concat(),
    );
    assert_eq!((names(&objects), problems), (vec!["credential gateway/a".to_owned()], Vec::new()));
}

#[test]
fn messages_contain_no_value_of_a_credential() {
    let labelled = |kind: &str, rest: &str| {
        format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: a, namespace: gateway, labels: \
             {{portcullis.dev/credential: {kind}}}}}, {rest}}}"
        )
    };
    for text in [
        labelled("client-key", "stringData: {application: billing, hash: SECRET}"),
        labelled("client-key", "stringData: {application: \"SECRET SECRET\"}"),
        labelled("client-key", "data: {application: SECRET, hash: \"*SECRET*\"}"),
        labelled("session-key", "stringData: {key: SECRET}"),
        labelled("session-key", "data: {key: [SECRET]}"),
        labelled("SECRET", "stringData: {key: SECRET}"),
        labelled("[SECRET]", "stringData: {key: SECRET}"),
    ] {
        let (objects, problems) = read(&text);
        assert!(objects.is_empty() && !problems.is_empty(), "{text}");
        assert!(problems.iter().all(|problem| !problem.contains("SECRET")), "{problems:?}");
    }
}
