//! The command line as people and programs meet it: what is printed where, and the exit code.

use std::path::Path;
use std::process::{Command, Output};

use crate::harness::{Gateway, WEB, World, echo};

const CONFIGURATION: &str = "zone: apps.test\nsource:\n  directory: manifests\n";

const MANIFESTS: &str = r"apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {portcullis.dev/environment: staging}
  annotations: {portcullis.dev/expose: all, portcullis.dev/require: none}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: web-1
  namespace: shop
  labels: {kubernetes.io/service-name: web}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints:
  - addresses: [10.0.0.1]
    conditions: {ready: true}
  - addresses: [10.0.0.2]
    conditions: {ready: false}
";

const WRONG_MANIFESTS: &str = r"apiVersion: v1
kind: Namespace
metadata:
  name: shop
  labels: {portcullis.dev/environment: staging}
  annotations: {portcullis.dev/expose: sometimes}
---
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop, annotations: {portcullis.dev/timout: 5s}}
spec: {ports: [{port: http}]}
";

/// A folder whose name is as long on every machine: lines are broken before a test can put another
/// name in its place.
fn place() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").expect("a temporary folder")
}

/// A folder with a configuration and manifests.
fn folder(configuration: &str, manifests: &str) -> tempfile::TempDir {
    let folder = place();
    std::fs::write(folder.path().join("portcullis.yaml"), configuration)
        .expect("the configuration");
    std::fs::create_dir(folder.path().join("manifests")).expect("the folder of manifests");
    std::fs::write(folder.path().join("manifests/shop.yaml"), manifests).expect("the manifests");
    folder
}

/// Runs `portcullis` in `folder`, as nobody's terminal.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).current_dir(folder).env_remove("PORTCULLIS_ADMIN").env("NO_COLOR", "1");
    command.output().expect("portcullis runs")
}

/// All that a run tells, for a snapshot: exit code, standard output and standard error, with
/// `folder` by that name.
fn told(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let text = |octets: &[u8]| {
        let text = String::from_utf8_lossy(octets).into_owned();
        let real = folder.canonicalize().expect("the folder is there");
        text.replace(&*real.to_string_lossy(), "FOLDER")
            .replace(&*folder.to_string_lossy(), "FOLDER")
    };
    let code = output.status.code().expect("no signal ended it");
    format!(
        "exit code {code}\n--- stdout\n{}--- stderr\n{}",
        text(&output.stdout),
        text(&output.stderr)
    )
}

#[test]
fn help_lists_what_can_be_asked_for() {
    let folder = place();
    insta::assert_snapshot!(told(folder.path(), &["--help"]));
}

#[test]
fn an_unknown_command_is_named_with_the_one_that_was_meant() {
    let folder = place();
    insta::assert_snapshot!(told(folder.path(), &["rotes"]));
}

#[test]
fn check_is_content_with_what_is_right() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(told(folder.path(), &["check", "portcullis.yaml", "manifests"]));
}

#[test]
fn check_tells_file_and_line_of_a_wrong_configuration_with_exit_code_2() {
    let folder = folder(
        "zone: apps.test\nsource:\n  directory: manifests\nlisteners:\n  http: {mode: \
         redirct}\nlimits: {conections: 5}\n",
        MANIFESTS,
    );
    insta::assert_snapshot!(told(folder.path(), &["check", "portcullis.yaml"]));
}

#[test]
fn check_tells_file_and_line_of_wrong_manifests_with_exit_code_1() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    insta::assert_snapshot!(told(folder.path(), &["check", "manifests"]));
}

#[test]
fn check_tells_programs_the_same() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    insta::assert_snapshot!(told(folder.path(), &["check", "-o", "json", "manifests"]));
}

#[test]
fn check_knows_files_of_manifests_by_what_is_in_them() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    for files in [&["manifests/shop.yaml"][..], &["portcullis.yaml", "manifests/shop.yaml"]] {
        let text = told(folder.path(), &[&["check", "-o", "json"], files].concat());
        assert!(text.starts_with("exit code 1\n"), "{text}");
        for wrong in ["InvalidAnnotation", "Unreadable", "UnknownAnnotation"] {
            assert_eq!(text.matches(wrong).count(), 1, "{wrong} in {text}");
        }
    }
}

#[test]
fn check_knows_a_configuration_beside_manifests() {
    let folder = folder("zone: apps.test\nsource: {directory: .}\nlimitz: {}\n", MANIFESTS);
    let text = told(folder.path(), &["check", "-o", "json", "."]);
    assert!(text.starts_with("exit code 2\n") && text.contains("limitz"), "{text}");
    assert!(!text.contains("has no `kind`"), "{text}");
    // Its settings count: in the default environment this name is one of another environment.
    let manifests = MANIFESTS.replace("name: web,", "name: web--dev,");
    std::fs::write(folder.path().join("manifests/shop.yaml"), manifests).expect("the manifests");
    for (environment, is_wrong) in [("other", false), ("staging", true)] {
        let text = format!(
            "zone: apps.test\ndefaultEnvironment: {environment}\nsource: {{directory: .}}\n"
        );
        std::fs::write(folder.path().join("portcullis.yaml"), text).expect("the configuration");
        let text = told(folder.path(), &["check", "-o", "json", "."]);
        assert_eq!(text.contains("is a name of another environment"), is_wrong, "{text}");
    }
}

#[test]
fn check_shows_no_secret_of_a_file_that_cannot_be_parsed() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let text = "apiVersion: v1\nkind: Secret\nstringData: {key: hunter2\nmetadata: {name: a}\n";
    std::fs::write(folder.path().join("secret.yaml"), text).expect("the manifest");
    let text = told(folder.path(), &["check", "secret.yaml"]);
    assert!(text.starts_with("exit code 1\n") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_gateway_with_a_wrong_configuration_tells_all_of_it_and_starts_nothing() {
    let folder = folder(
        "zone: Apps.test\nsource:\n  directory: manifests\nadmin: {address: nowhere}\n",
        MANIFESTS,
    );
    insta::assert_snapshot!(told(folder.path(), &["gateway", "--config", "portcullis.yaml"]));
}

#[test]
fn routes_are_a_table_for_people() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(told(folder.path(), &["routes", "--config", "portcullis.yaml"]));
}

#[test]
fn routes_are_json_for_programs() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(told(
        folder.path(),
        &["routes", "--config", "portcullis.yaml", "-o", "json"]
    ));
}

#[test]
fn an_explanation_walks_the_steps_for_people() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let url = format!("https://{WEB}/cart");
    insta::assert_snapshot!(told(folder.path(), &["explain", "--config", "portcullis.yaml", &url]));
}

#[test]
fn an_explanation_is_json_for_programs() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let url = "https://nothing--staging.apps.test/";
    insta::assert_snapshot!(told(
        folder.path(),
        &["explain", "--config", "portcullis.yaml", "--output", "json", url]
    ));
}

#[test]
fn an_address_where_no_gateway_answers_is_told() {
    let folder = place();
    // Bound, and not listening: nobody else can be there.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let told = told(folder.path(), &["routes", "--admin", &address]).replace(&address, "ADDRESS");
    insta::assert_snapshot!(told);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_tells_the_same_as_its_configuration() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let (admin, configuration) =
        (gateway.admin().to_string(), gateway.folder().join("portcullis.yaml"));
    let stdout = |arguments: &[&str]| {
        String::from_utf8(run(gateway.folder(), arguments).stdout).expect("text")
    };
    let url = format!("https://{WEB}/cart?a=b");
    for question in [
        &["routes"][..],
        &["explain", &url],
        &["explain", &url, "-X", "POST", "-H", "X-Version: 2"],
    ] {
        let asked = |place: &str, value: &str| stdout(&[question, &[place, value]].concat());
        let (running, configured) =
            (asked("--admin", &admin), asked("--config", &configuration.to_string_lossy()));
        assert!(running.contains("staging"), "{question:?}: {running}");
        assert_eq!(running, configured, "{question:?}");
    }
}

#[test]
fn bash_completes_commands_by_the_script() {
    let folder = place();
    let script = folder.path().join("completion.bash");
    std::fs::write(&script, run(folder.path(), &["completion", "bash"]).stdout).unwrap();
    let completed = |words: &str| {
        let ask = format!(
            "source {}; COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); \
             _portcullis portcullis \"${{COMP_WORDS[-1]}}\" \"${{COMP_WORDS[-2]}}\"; echo \
             \"${{COMPREPLY[*]}}\"",
            script.display()
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().expect("bash runs");
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim_end().to_owned()
    };
    assert_eq!(completed("portcullis ro"), "routes");
    assert_eq!(completed("portcullis ch"), "check");
    assert_eq!(completed("portcullis routes --ad"), "--admin");
    assert_eq!(completed("portcullis routes --output j"), "json");
}

#[test]
fn every_shell_gets_a_script_that_knows_all_commands() {
    let folder = place();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completion", shell]);
        assert!(output.status.success(), "{shell}: {output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        for command in ["gateway", "check", "routes", "explain", "completion", "demo"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
}
