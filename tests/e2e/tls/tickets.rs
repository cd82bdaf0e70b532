//! Session tickets: replicas resume each other's sessions, and tickets grant no extra access.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::harness::credentials::session_key_secret;
use crate::harness::{Echo, Gateway, Service, WEB, World, echo, eventually, soon};

const VERSIONS: [&str; 2] = ["-tls1_2", "-tls1_3"];
/// A host that allows `dns:importer.test`, and one that does not.
const OURS: &str = "web--machines.apps.test";
const THEIRS: &str = "web--others.apps.test";

/// One connection by `openssl s_client`, with one request on it.
#[derive(Debug)]
struct Connection {
    is_resumed: bool,
    status: u16,
    reported: String,
}

/// Connects with SNI `name`, and requests `host`.
async fn connect(gateway: &Gateway, name: &str, host: &str, further: &[&str]) -> Connection {
    // Line by line, because openssl writes what it received past what it has buffered.
    let mut command = Command::new("stdbuf");
    command
        .args([
            "-oL",
            "openssl",
            "s_client",
            "-connect",
            &gateway.https().to_string(),
            "-servername",
            name,
            "-ign_eof",
        ])
        .args(further);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().expect("openssl runs");
    let request = format!("GET /whoami HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut stdin = child.stdin.take().expect("its standard input");
    stdin.write_all(request.as_bytes()).await.expect("it reads");
    let output = soon("openssl ends", child.wait_with_output()).await.expect("its output");
    drop(stdin);
    let reported = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = reported
        .lines()
        .find_map(|line| line.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok())
        .unwrap_or(0);
    let is_resumed = reported.lines().any(|line| line.starts_with("Reused, TLSv1."));
    assert!(
        is_resumed || reported.lines().any(|line| line.starts_with("New, TLSv1.")),
        "no handshake: {reported}"
    );
    Connection { is_resumed, status, reported }
}

async fn replica(pod: &Echo, key: Option<char>) -> Gateway {
    let world = World::web(pod);
    let world = match key {
        Some(octet) => world.with_file("key.json", &session_key_secret("key", octet).to_string()),
        None => world,
    };
    Gateway::of(world)
        .settings(json!({ "access": { "credentialsNamespace": "portcullis" } }))
        .start()
        .await
}

#[tokio::test]
async fn a_session_is_resumed_at_another_replica() {
    let pod = echo("pod-1").await;
    let (one, other) = (replica(&pod, Some('1')).await, replica(&pod, Some('1')).await);
    let (stranger, loner) = (replica(&pod, Some('2')).await, replica(&pod, None).await);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("session").to_string_lossy().into_owned();
    for version in VERSIONS {
        // The keys take effect a moment after the gateways are ready.
        eventually("it is resumed", || async {
            let first = connect(&one, WEB, WEB, &[version, "-sess_out", &file]).await;
            assert!(!first.is_resumed && first.status == 200, "{first:?}");
            let second = connect(&other, WEB, WEB, &[version, "-sess_in", &file]).await;
            assert_eq!(second.status, 200, "{second:?}");
            second.is_resumed
        })
        .await;
        for replica in [&stranger, &loner] {
            let refused = connect(replica, WEB, WEB, &[version, "-sess_in", &file]).await;
            assert!(
                !refused.is_resumed && refused.status == 200,
                "a whole handshake instead: {refused:?}"
            );
        }
        connect(&loner, WEB, WEB, &[version, "-sess_out", &file]).await;
        assert!(
            connect(&loner, WEB, WEB, &[version, "-sess_in", &file]).await.is_resumed,
            "without a key it still knows its own"
        );
        assert!(!connect(&one, WEB, WEB, &[version, "-sess_in", &file]).await.is_resumed);
    }
}

#[tokio::test]
async fn removing_a_session_key_invalidates_its_tickets() {
    let pod = echo("pod-1").await;
    let gateway = replica(&pod, Some('1')).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("session").to_string_lossy().into_owned();
    for (version, octet) in VERSIONS.into_iter().zip(['2', '3']) {
        connect(&gateway, WEB, WEB, &[version, "-sess_out", &file]).await;
        gateway.apply(
            &World::web(&pod).with_file("key.json", &session_key_secret("key", octet).to_string()),
        );
        eventually("it is not resumed any more", || async {
            let again = connect(&gateway, WEB, WEB, &[version, "-sess_in", &file]).await;
            assert_eq!(again.status, 200, "{again:?}");
            !again.is_resumed
        })
        .await;
    }
}

#[tokio::test]
async fn early_data_is_not_accepted() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    let connection = connect(&gateway, WEB, WEB, &["-tls1_3"]).await;
    assert!(connection.reported.contains("Max Early Data: 0"), "{connection:?}");
    assert!(
        !connection
            .reported
            .lines()
            .any(|line| line.trim().starts_with("Max Early Data: ") && !line.ends_with(" 0")),
        "{connection:?}"
    );
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority")
}

fn put(folder: &Path, name: &str, text: &str) -> String {
    let path: PathBuf = folder.join(name);
    std::fs::write(&path, text).expect("a file");
    path.to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_resumed_session_is_authorized_by_its_requested_host_and_the_current_state() {
    let pod = echo("pod-1").await;
    let folder = tempfile::tempdir().expect("a folder");
    let (ours, other) = (authority(), authority());
    let authorities = put(folder.path(), "authorities.pem", &ours.pem());
    let secret = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["importer.test".to_owned()]).expect("a name");
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = put(
        folder.path(),
        "client.crt",
        &params.signed_by(&secret, &ours).expect("a certificate").pem(),
    );
    let secret = put(folder.path(), "client.key", &secret.serialize_pem());
    let session = folder.path().join("session").to_string_lossy().into_owned();

    let service = |environment| {
        Service::new("web").environment(environment).annotation("require", "app").pod(&pod)
    };
    let world = World::empty()
        .with(service("machines"))
        .with(service("others"))
        .annotation("machines", "allow-apps", "dns:importer.test")
        .annotation("others", "allow-apps", "dns:exporter.test");
    let gateway = Gateway::of(world)
        .settings(json!({ "access": { "clientCertificateAuthorities": authorities } }))
        .start()
        .await;
    for version in VERSIONS {
        put(folder.path(), "authorities.pem", &ours.pem());
        eventually("the certificate lets in", || async {
            connect(
                &gateway,
                OURS,
                OURS,
                &[version, "-cert", &certificate, "-key", &secret, "-sess_out", &session],
            )
            .await
            .status
                == 200
        })
        .await;
        let resume = async |name: &str, host: &str| {
            let connection = connect(&gateway, name, host, &[version, "-sess_in", &session]).await;
            (connection.is_resumed, connection.status)
        };
        assert_eq!(resume(OURS, OURS).await, (true, 200), "{version}");
        assert_eq!(
            resume(OURS, THEIRS).await,
            (true, 404),
            "{version}: its certificate gives no right to that host"
        );
        assert_eq!(
            resume(THEIRS, OURS).await,
            (false, 404),
            "{version}: another name is another session, without a certificate"
        );
        assert_eq!(resume(THEIRS, THEIRS).await, (false, 404), "{version}");
        put(folder.path(), "authorities.pem", &other.pem());
        eventually("the authority is gone", || async { resume(OURS, OURS).await == (true, 404) })
            .await;
    }
}
