//! The development loop: the demo that is built again, the Tiltfile, the devcontainer, and the
//! examples.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::harness::{soon, tool};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Stands in for cargo: the program that it "builds" reports its start and its end.
const CARGO: &str = r#"#!/bin/bash
set -e
grep -q broken src/main.rs && exit 101
mkdir -p target/debug
cat > target/debug/portcullis <<'END'
#!/bin/bash
trap 'echo stopped >> log; exit' TERM
echo "$*" >> log
while true; do sleep 0.1; done
END
"#;

async fn logged(log: &Path, lines: usize) -> Vec<String> {
    let read = async {
        loop {
            let text = fs::read_to_string(log).unwrap_or_default();
            if text.lines().count() >= lines {
                return text.lines().map(str::to_owned).collect();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    soon("the loop reacts", read).await
}

#[tokio::test]
async fn the_demo_is_built_and_started_again_when_a_source_changes() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    fs::create_dir_all(root.join("src")).unwrap();
    fs::create_dir_all(root.join("examples")).unwrap();
    fs::copy(format!("{ROOT}/examples/dev"), root.join("examples/dev")).unwrap();
    let cargo = root.join("cargo");
    fs::write(&cargo, CARGO).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let source = root.join("src/main.rs");
    fs::write(&source, "one").unwrap();
    let mut dev = tokio::process::Command::new(root.join("examples/dev"))
        .arg(root.join("kept"))
        .env("CARGO", &cargo)
        .env_remove("CARGO_TARGET_DIR")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let log = root.join("log");
    let started = logged(&log, 1).await;
    let kept = root.join("kept").canonicalize().unwrap();
    assert_eq!(started, [format!("demo --folder {}", kept.display())]);
    // One that does not compile leaves the last one running.
    fs::write(&source, "broken").unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(logged(&log, 1).await.len(), 1);
    fs::write(&source, "another").unwrap();
    let lines = logged(&log, 3).await;
    assert_eq!(lines[1..], ["stopped".to_owned(), lines[0].clone()]);
    let id = dev.id().unwrap().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    soon("the loop ends", dev.wait()).await.unwrap();
    assert_eq!(logged(&log, 4).await[3], "stopped");
}

/// What the Tiltfile calls, with the parameters of Tilt's own functions: each call is printed.
const TILT: &str = r#"
def recorder(name, parameters):
    def record(*arguments, **options):
        unknown = [key for key in options if key not in parameters]
        if unknown:
            fail(name, "has no", unknown)
        text = [str(argument) for argument in arguments]
        print(json.encode([name, text, {key: str(value) for key, value in options.items()}]))
        return name
    return record
allow_k8s_contexts = recorder("allow_k8s_contexts", ["contexts"])
local_resource = recorder("local_resource", ["name", "cmd", "deps", "ignore", "resource_deps", "labels"])
docker_build = recorder("docker_build", ["ref", "context", "dockerfile", "only", "ignore", "platform"])
k8s_yaml = recorder("k8s_yaml", ["yaml", "allow_duplicates"])
helm = recorder("helm", ["pathToChart", "name", "namespace", "values", "set", "kube_version"])
k8s_resource = recorder("k8s_resource", ["workload", "new_name", "port_forwards", "resource_deps", "labels"])
"#;

/// Loads the Tiltfile by the interpreter that Tilt has. Tilt itself cannot be had by the tests.
#[test]
fn the_tiltfile_loads_and_names_what_exists() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("Tiltfile.star");
    let tiltfile = fs::read_to_string(format!("{ROOT}/Tiltfile")).unwrap();
    fs::write(&file, TILT.to_owned() + &tiltfile).unwrap();
    let output = Command::new(tool("starlark")).arg(&file).output().unwrap();
    let printed = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{printed}");
    let calls: Vec<(String, Vec<String>, Value)> =
        printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let call = |name: &str| calls.iter().find(|(called, ..)| called == name).expect(name);
    for path in [&call("helm").1[0], "deploy/Containerfile", "examples/shop/staging.yaml"] {
        assert!(Path::new(ROOT).join(path).exists(), "{path}");
    }
    assert!(calls.iter().any(|(_, arguments, _)| arguments == &["examples/shop/staging.yaml"]));
    // A wrong context would replace what runs there.
    assert_eq!(call("allow_k8s_contexts").1, ["kind-kind"]);
}

#[test]
fn the_devcontainer_has_what_the_tests_need() {
    let file = fs::read_to_string(format!("{ROOT}/.devcontainer/devcontainer.json")).unwrap();
    let container: Value = serde_json::from_str(&file).unwrap();
    let features = container["features"].as_object().unwrap();
    for tool in ["go:", "node:", "kubectl"] {
        assert!(features.keys().any(|feature| feature.contains(tool)), "{tool}");
    }
    assert!(container["onCreateCommand"].as_str().unwrap().contains("make setup"));
}

#[test]
fn no_example_has_a_problem() {
    let mut checked = 0;
    for entry in fs::read_dir(format!("{ROOT}/examples")).unwrap() {
        let path = entry.unwrap().path();
        if !path.is_dir() || path.ends_with("echo") {
            continue;
        }
        let mut check = Command::new(env!("CARGO_BIN_EXE_portcullis"));
        // The client's secret is a file of the pod.
        let root = tempfile::tempdir().unwrap();
        let secrets = root.path().join("etc/portcullis-secrets/corp");
        fs::create_dir_all(&secrets).unwrap();
        fs::write(secrets.join("client-secret"), "secret").unwrap();
        let output = check.arg("check").arg("--root").arg(root.path()).arg(&path).output().unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {text}", path.display());
        assert!(text.contains("no problems found"), "{}: {text}", path.display());
        checked += 1;
    }
    assert!(checked >= 5, "{checked}");
}
