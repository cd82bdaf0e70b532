//! `portcullis key`: keys are created, shown once, rotated and revoked, and a gateway uses them.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::mpsc;

use portcullis_config::client_key;
use serde_json::{Value, json};

use crate::harness::{Gateway, Service, World, echo, eventually};

const HOST: &str = "web--team.apps.test";

/// Runs `portcullis key` on the manifests of `folder`.
fn key(folder: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command
        .arg("key")
        .args(arguments)
        .arg("--folder")
        .arg(folder)
        .env("NO_COLOR", "1")
        .env("KUBECONFIG", "/dev/null");
    command.output().expect("portcullis runs")
}

/// The printed key, which is alone on standard output and not on standard error.
fn printed(output: &Output) -> String {
    let (text, reported) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{reported}");
    let key = text.strip_suffix('\n').expect("a line");
    assert!(client_key::is_well_formed(key), "it is a key and nothing else");
    assert!(!reported.contains(key), "it is printed once");
    key.to_owned()
}

/// All keys, as JSON.
fn listed(folder: &Path) -> Vec<Value> {
    let output = key(folder, &["list", "-o", "json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("a list")
}

fn names(folder: &Path) -> Vec<String> {
    listed(folder).iter().map(|key| key["name"].as_str().expect("a name").to_owned()).collect()
}

fn refusal(output: &Output) -> String {
    assert!(
        !output.status.success() && output.stdout.is_empty(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn status(gateway: &Gateway, key: &str) -> u16 {
    gateway.curl(HOST, "/whoami").header(&format!("Authorization: Bearer {key}")).run().await.status
}

#[tokio::test]
async fn a_key_is_accepted_until_it_is_revoked() {
    let pod = echo("pod-1").await;
    let world = World::empty().with(Service::new("web").environment("team").pod(&pod));
    let world =
        world.annotation("team", "require", "app").annotation("team", "allow-apps", "billing");
    let gateway = Gateway::of(world)
        .settings(json!({"access": {"credentialsNamespace": "portcullis"}}))
        .start()
        .await;
    let folder = gateway.folder().join("manifests");
    assert_eq!(gateway.curl(HOST, "/whoami").run().await.status, 404);

    let first = printed(&key(&folder, &["create", "billing"]));
    let other = printed(&key(&folder, &["create", "shop", "--expires", "90d"]));
    eventually("the key is accepted", || async { status(&gateway, &first).await == 200 }).await;
    assert_eq!(status(&gateway, &other).await, 404, "another application's key lets nobody in");

    let second = printed(&key(&folder, &["rotate", "billing", "--overlap", "1h"]));
    eventually("the new key is accepted", || async { status(&gateway, &second).await == 200 })
        .await;
    assert_eq!(status(&gateway, &first).await, 200, "the old one still is");

    let old = listed(&folder)
        .into_iter()
        .find(|key| key["application"] == "billing" && !key["expires"].is_null())
        .expect("the old key ends");
    assert!(key(&folder, &["revoke", old["name"].as_str().unwrap()]).status.success());
    eventually("the old key is refused", || async { status(&gateway, &first).await == 404 }).await;
    assert_eq!(status(&gateway, &second).await, 200);

    for secret in [&first, &other, &second] {
        assert!(!gateway.log().contains(&**secret), "a key is in the log");
        for page in ["/routes", "/metrics"] {
            assert!(
                !gateway.admin_page(page).await.text().contains(&**secret),
                "a key is in {page}"
            );
        }
        for file in fs::read_dir(&folder).unwrap() {
            assert!(
                !fs::read_to_string(file.unwrap().path()).unwrap().contains(&**secret),
                "a key is in a file"
            );
        }
    }
}

#[test]
fn only_the_hash_is_stored_in_a_file_that_only_its_owner_can_read() {
    let folder = tempfile::tempdir().unwrap();
    let made = printed(&key(
        folder.path(),
        &["create", "billing", "--expires", "90d", "--namespace", "gateway"],
    ));
    let [name] = fs::read_dir(folder.path())
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect::<Vec<_>>()
        .try_into()
        .unwrap();
    assert_eq!(fs::metadata(&name).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(
        fs::read_to_string(&name)
            .unwrap()
            .contains(&client_key::write_hash(&client_key::hash(&made)))
    );
    assert_eq!(names(folder.path()), Vec::<String>::new(), "it is another Namespace's");
    let list = key(folder.path(), &["list", "-n", "gateway"]);
    let text = String::from_utf8_lossy(&list.stdout).into_owned();
    assert!(
        text.starts_with("NAME") && text.lines().count() == 2 && text.contains(" billing "),
        "{text}"
    );
    assert!(!text.contains(&made));
}

#[test]
fn a_printed_manifest_is_that_of_the_key_and_nothing_is_stored() {
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["key", "create", "billing", "--print"])
        .output()
        .unwrap();
    let (manifest, reported) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let made = reported.lines().last().unwrap();
    assert!(client_key::is_well_formed(made), "{reported}");
    assert!(
        manifest.contains(&client_key::write_hash(&client_key::hash(made)))
            && !manifest.contains(made),
        "{manifest}"
    );
}

#[test]
fn errors_are_reported_and_change_nothing() {
    let folder = tempfile::tempdir().unwrap();
    printed(&key(folder.path(), &["create", "billing"]));
    let before = names(folder.path());
    for (arguments, expected) in [
        (&["create", "team-*"][..], "not a valid application name"),
        (&["create", "billing", "--expires", "0d"], "write a duration above zero"),
        (&["create", "billing", "--namespace", "Gateway"], "not a valid Namespace name"),
        (&["rotate", "shop"], "`shop` has no key"),
        (&["revoke", &before[0], "nobody"], "there is no client key `nobody`"),
    ] {
        let reported = refusal(&key(folder.path(), arguments));
        assert!(reported.contains(expected), "{reported}");
    }
    assert!(
        refusal(&key(&folder.path().join("nowhere"), &["create", "billing"])).contains("nowhere")
    );
    assert_eq!(names(folder.path()), before);
}

/// Runs `portcullis key list` on a cluster at `server`, with a proxy in the environment, and returns
/// what was written to the proxy and the output of the command.
fn through_proxy(server: &str, userinfo: &str, exceptions: &str) -> (String, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let mut head = [0; 1024];
            let read = stream.read(&mut head).unwrap_or_default();
            let _gone = stream.write_all(b"HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\n");
            let _gone = sender.send(String::from_utf8_lossy(&head[..read]).into_owned());
        }
    });
    let mut kubeconfig = tempfile::NamedTempFile::new().unwrap();
    let content = json!({
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": server.replace("PROXY", &address.to_string())}}],
        "users": [{"name": "test", "user": {}}],
    });
    write!(kubeconfig, "{content}").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["key", "list"])
        .env("KUBECONFIG", kubeconfig.path())
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env("HTTPS_PROXY", format!("{userinfo}{address}"))
        .env("NO_PROXY", exceptions)
        .output()
        .unwrap();
    assert!(!output.status.success());
    let reported = String::from_utf8_lossy(&output.stderr).into_owned();
    (receiver.try_iter().collect(), reported)
}

#[test]
fn the_api_server_is_reached_through_the_proxy_unless_excluded() {
    let (asked, reported) = through_proxy("https://cluster.test:6443", "http://ann:hush@", "");
    assert!(asked.starts_with("CONNECT cluster.test:6443 HTTP/1.1\r\n"), "{asked} {reported}");
    assert!(asked.contains("Basic YW5uOmh1c2g="), "{asked}");
    assert!(!reported.contains("hush"), "{reported}");
    let (asked, _) = through_proxy("https://0.0.0.0:1", "http://", "0.0.0.0");
    assert_eq!(asked, "");
    // This machine is always excluded.
    let (asked, _) = through_proxy("http://PROXY", "http://", "");
    assert!(asked.starts_with("GET /"), "{asked}");
    // An unsupported proxy is rejected without printing its credentials.
    let (asked, reported) = through_proxy("https://cluster.test", "socks5://ann:hush@", "");
    assert_eq!(asked, "");
    assert!(reported.contains("proxy") && !reported.contains("hush"), "{reported}");
}
