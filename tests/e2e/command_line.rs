//! The command line: standard output, standard error, and the exit code.

mod check;
mod repo;

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

/// A folder whose name has the same length on every machine: lines are wrapped before a test can
/// replace the name.
fn temporary_folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/tmp").expect("a temporary folder")
}

/// A folder with a configuration and manifests.
fn folder(configuration: &str, manifests: &str) -> tempfile::TempDir {
    let folder = temporary_folder();
    std::fs::write(folder.path().join("portcullis.yaml"), configuration)
        .expect("the configuration");
    std::fs::create_dir(folder.path().join("manifests")).expect("the folder of manifests");
    std::fs::write(folder.path().join("manifests/shop.yaml"), manifests).expect("the manifests");
    folder
}

/// Runs `portcullis` in `folder`, without a terminal.
fn run(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(arguments).current_dir(folder).env_remove("PORTCULLIS_ADMIN").env("NO_COLOR", "1");
    command.output().expect("portcullis runs")
}

/// The output of a run for a snapshot: exit code, standard output and standard error, with
/// `folder` replaced by `FOLDER`.
fn output_of(folder: &Path, arguments: &[&str]) -> String {
    let output = run(folder, arguments);
    let text = |octets: &[u8]| {
        let text = String::from_utf8_lossy(octets).into_owned();
        let real = folder.canonicalize().expect("the folder is there");
        text.replace(&*real.to_string_lossy(), "FOLDER")
            .replace(&*folder.to_string_lossy(), "FOLDER")
    };
    let code = output.status.code().expect("no signal stopped it");
    format!(
        "exit code {code}\n--- stdout\n{}--- stderr\n{}",
        text(&output.stdout),
        text(&output.stderr)
    )
}

#[test]
fn help_lists_all_commands() {
    let folder = temporary_folder();
    insta::assert_snapshot!(output_of(folder.path(), &["--help"]));
}

#[test]
fn an_unknown_command_gets_a_suggestion() {
    let folder = temporary_folder();
    insta::assert_snapshot!(output_of(folder.path(), &["rotes"]));
}

#[test]
fn check_accepts_a_valid_configuration() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["check", "portcullis.yaml", "manifests"]));
}

#[test]
fn check_reports_an_invalid_configuration_with_file_and_line_and_exit_code_2() {
    let folder = folder(
        "zone: apps.test\nsource:\n  directory: manifests\nlisteners:\n  http: {mode: \
         redirct}\nlimits: {conections: 5}\n",
        MANIFESTS,
    );
    insta::assert_snapshot!(output_of(folder.path(), &["check", "portcullis.yaml"]));
}

#[test]
fn check_reports_invalid_manifests_with_file_and_line_and_exit_code_1() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["check", "manifests"]));
}

#[test]
fn check_prints_the_same_problems_as_json() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["check", "-o", "json", "manifests"]));
}

#[test]
fn check_detects_manifest_files_by_content() {
    let folder = folder(CONFIGURATION, WRONG_MANIFESTS);
    for files in [&["manifests/shop.yaml"][..], &["portcullis.yaml", "manifests/shop.yaml"]] {
        let text = output_of(folder.path(), &[&["check", "-o", "json"], files].concat());
        assert!(text.starts_with("exit code 1\n"), "{text}");
        for wrong in ["InvalidAnnotation", "Unreadable", "UnknownAnnotation"] {
            assert_eq!(text.matches(wrong).count(), 1, "{wrong} in {text}");
        }
    }
}

#[test]
fn check_finds_a_configuration_among_manifests() {
    let folder = folder("zone: apps.test\nsource: {directory: .}\nlimitz: {}\n", MANIFESTS);
    let text = output_of(folder.path(), &["check", "-o", "json", "."]);
    assert!(text.starts_with("exit code 2\n") && text.contains("limitz"), "{text}");
    assert!(!text.contains("has no `kind`"), "{text}");
    // Its settings apply: in the default environment this name belongs to another environment.
    let manifests = MANIFESTS.replace("name: web,", "name: web--dev,");
    std::fs::write(folder.path().join("manifests/shop.yaml"), manifests).expect("the manifests");
    for (environment, is_wrong) in [("other", false), ("staging", true)] {
        let text = format!(
            "zone: apps.test\ndefaultEnvironment: {environment}\nsource: {{directory: .}}\n"
        );
        std::fs::write(folder.path().join("portcullis.yaml"), text).expect("the configuration");
        let text = output_of(folder.path(), &["check", "-o", "json", "."]);
        assert_eq!(text.contains("is a name of another environment"), is_wrong, "{text}");
    }
}

#[test]
fn check_prints_no_secret_of_an_invalid_file() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let text = "apiVersion: v1\nkind: Secret\nstringData: {key: hunter2\nmetadata: {name: a}\n";
    std::fs::write(folder.path().join("secret.yaml"), text).expect("the manifest");
    let text = output_of(folder.path(), &["check", "secret.yaml"]);
    assert!(text.starts_with("exit code 1\n") && !text.contains("hunter2"), "{text}");
}

#[test]
fn a_gateway_with_an_invalid_configuration_reports_all_problems_and_does_not_start() {
    let folder = folder(
        "zone: Apps.test\nsource:\n  directory: manifests\nadmin: {address: nowhere}\n",
        MANIFESTS,
    );
    insta::assert_snapshot!(output_of(folder.path(), &["gateway", "--config", "portcullis.yaml"]));
}

#[test]
fn routes_prints_a_table() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(output_of(folder.path(), &["routes", "--config", "portcullis.yaml"]));
}

#[test]
fn routes_prints_json() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    insta::assert_snapshot!(output_of(
        folder.path(),
        &["routes", "--config", "portcullis.yaml", "-o", "json"]
    ));
}

#[test]
fn explain_prints_the_steps_as_text() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let url = format!("https://{WEB}/cart");
    insta::assert_snapshot!(output_of(
        folder.path(),
        &["explain", "--config", "portcullis.yaml", &url]
    ));
}

#[test]
fn explain_prints_json() {
    let folder = folder(CONFIGURATION, MANIFESTS);
    let url = "https://nothing--staging.apps.test/";
    insta::assert_snapshot!(output_of(
        folder.path(),
        &["explain", "--config", "portcullis.yaml", "--output", "json", url]
    ));
}

#[test]
fn an_unreachable_admin_address_is_reported() {
    let folder = temporary_folder();
    // Bound, but not listening: reserves the port.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let output =
        output_of(folder.path(), &["routes", "--admin", &address]).replace(&address, "ADDRESS");
    insta::assert_snapshot!(output);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_gateway_reports_the_same_as_its_configuration() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let (admin, configuration) =
        (gateway.admin().to_string(), gateway.folder().join("portcullis.yaml"));
    let stdout = |arguments: &[&str]| {
        String::from_utf8(run(gateway.folder(), arguments).stdout).expect("text")
    };
    let url = format!("https://{WEB}/cart?a=b");
    for command in [
        &["routes"][..],
        &["explain", &url],
        &["explain", &url, "-X", "POST", "-H", "X-Version: 2"],
    ] {
        let run_with = |option: &str, value: &str| stdout(&[command, &[option, value]].concat());
        let (running, configured) =
            (run_with("--admin", &admin), run_with("--config", &configuration.to_string_lossy()));
        assert!(running.contains("staging"), "{command:?}: {running}");
        assert_eq!(running, configured, "{command:?}");
    }
}

#[test]
fn the_bash_completion_script_works() {
    let folder = temporary_folder();
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
    assert_eq!(completed("portcullis rou"), "routes");
    assert_eq!(completed("portcullis ch"), "check");
    assert_eq!(completed("portcullis routes --ad"), "--admin");
    assert_eq!(completed("portcullis routes --output j"), "json");
}

#[test]
fn completion_scripts_of_all_shells_have_all_commands() {
    let folder = temporary_folder();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = run(folder.path(), &["completion", shell]);
        assert!(output.status.success(), "{shell}: {output:?}");
        let script = String::from_utf8(output.stdout).unwrap();
        for command in ["gateway", "check", "routes", "explain", "completion", "demo"] {
            assert!(script.contains(command), "{shell} lacks {command}");
        }
    }
}
