//! What `check` and `routes` report of clusters, of other machines' files, and of a running
//! gateway.

use std::fs;

use super::{CONFIGURATION, MANIFESTS, WRONG_MANIFESTS, folder, output_of, run, temporary_folder};
use crate::harness::{Gateway, WEB, World, echo, eventually};

const CLUSTER: &str = "zone: apps.test
source: {kubernetes: {}}
access: {credentialsNamespace: portcullis}
certificates:
- secret: {namespace: portcullis, name: portcullis-tls}
";

#[test]
fn check_reports_what_it_does_not_read_of_a_cluster() {
    let folder = folder(CLUSTER, MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["check", "portcullis.yaml"]));
    // Standard output stays machine-readable.
    let json = run(folder.path(), &["check", "-o", "json", "portcullis.yaml"]);
    assert_eq!(String::from_utf8_lossy(&json.stdout).trim(), "[]");
    assert!(String::from_utf8_lossy(&json.stderr).contains("not read"), "{json:?}");
    // Manifests beside it are checked, and the cluster is still not.
    let both = output_of(folder.path(), &["check", "portcullis.yaml", "manifests"]);
    assert!(both.starts_with("exit code 0\n") && both.contains("not read"), "{both}");
    fs::write(folder.path().join("manifests/shop.yaml"), WRONG_MANIFESTS).unwrap();
    let wrong = output_of(folder.path(), &["check", "portcullis.yaml", "manifests"]);
    assert!(wrong.starts_with("exit code 1\n") && wrong.contains("not read"), "{wrong}");
}

/// A configuration with files that only its pod has.
const POD: &str = "zone: apps.test
source: {kubernetes: {}}
certificates:
- files: {certificate: /etc/tls/tls.crt, key: /etc/tls/tls.key}
access:
  clientCertificateAuthorities: authorities/ca.crt
";

#[test]
fn files_of_a_pod_are_warnings_elsewhere_and_looked_for_below_a_root() {
    let folder = folder(POD, MANIFESTS);
    let path = folder.path();
    insta::assert_snapshot!(output_of(path, &["check", "portcullis.yaml"]));
    let with_manifests = output_of(path, &["check", "portcullis.yaml", "manifests"]);
    assert!(with_manifests.starts_with("exit code 0\n"), "{with_manifests}");

    let below = |root: &str| output_of(path, &["check", "--root", root, "portcullis.yaml"]);
    assert!(below("nowhere").contains("the folder nowhere cannot be read"));
    let certificate = rcgen::generate_simple_self_signed(vec!["*.apps.test".to_owned()]).unwrap();
    fs::create_dir_all(path.join("pod/etc/tls")).unwrap();
    fs::create_dir_all(path.join("pod/authorities")).unwrap();
    fs::write(path.join("pod/etc/tls/tls.crt"), certificate.cert.pem()).unwrap();
    let missing = below("pod");
    assert!(missing.starts_with("exit code 2\n"), "{missing}");
    assert!(missing.contains("etc/tls/tls.key") && missing.contains("ca.crt"), "{missing}");
    assert!(!missing.contains("etc/tls/tls.crt cannot"), "{missing}");
    fs::write(path.join("pod/authorities/ca.crt"), certificate.cert.pem()).unwrap();
    fs::write(path.join("pod/etc/tls/tls.key"), certificate.signing_key.serialize_pem()).unwrap();
    let complete = below("pod");
    assert!(complete.starts_with("exit code 0\n"), "{complete}");
    // What is in the files is checked too.
    let other = rcgen::KeyPair::generate().unwrap();
    fs::write(path.join("pod/etc/tls/tls.key"), other.serialize_pem()).unwrap();
    let foreign = below("pod");
    assert!(foreign.starts_with("exit code 1\n"), "{foreign}");
}

#[test]
fn routes_lists_problems_with_their_remedies() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["routes", "--config", "portcullis.yaml"]));
}

#[test]
fn routes_escapes_what_would_control_a_terminal() {
    let manifests = WRONG_MANIFESTS.replace("sometimes", r#""\e[2Jsometimes""#);
    let folder = folder(CONFIGURATION, &manifests);
    let routes = output_of(folder.path(), &["routes", "--config", "portcullis.yaml"]);
    assert!(routes.contains("[2Jsometimes") && !routes.contains('\u{1b}'), "{routes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_reports_its_problems() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let admin = gateway.admin().to_string();
    let folder = temporary_folder();
    let check = ["check", "--admin", &admin];
    let good = output_of(folder.path(), &check);
    assert_eq!(good, "exit code 0\n--- stdout\nno problems found\n--- stderr\n");

    let wrong = "apiVersion: v1
kind: Service
metadata: {name: wrong, namespace: shop, annotations: {portcullis.dev/timeout: soon}}
spec: {ports: [{port: 80}]}
";
    fs::write(gateway.folder().join("manifests/wrong.yaml"), wrong).unwrap();
    let message = "`portcullis.dev/timeout: soon` is not a duration";
    eventually("the problem is reported", || async {
        output_of(folder.path(), &["routes", "--admin", &admin]).contains(message)
    })
    .await;
    let routes = output_of(folder.path(), &["routes", "--admin", &admin]);
    assert!(routes.contains(WEB) && routes.contains("\n1 problem:\n"), "{routes}");
    assert!(routes.contains("wrong.yaml:1:1") && routes.contains("help: "), "{routes}");
    let bad = output_of(folder.path(), &check);
    assert!(bad.starts_with("exit code 1\n") && bad.contains("portcullis.dev/"), "{bad}");
    let json = run(folder.path(), &["check", "--admin", &admin, "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(json[0]["message"], message);

    // The address comes from the environment too, and paths are of another kind of check.
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command.args(["check", "--admin"]).env("PORTCULLIS_ADMIN", &admin).output();
    assert_eq!(output.expect("it runs").status.code(), Some(1));
    assert_eq!(run(folder.path(), &["check", "--admin", &admin, "."]).status.code(), Some(2));
    assert_eq!(run(folder.path(), &["check"]).status.code(), Some(2));
}
