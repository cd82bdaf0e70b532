//! What is granted and what is taken away takes effect on every replica, on open streams too.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::environment::Environment;
use crate::gateway::{Gateway, HTTPS, NAMESPACE};
use crate::node::{Cluster, Company, eventually, in_cluster, kubectl, output, report};
use crate::pods::Pod;

/// How soon what is taken away must be gone.
const SOON: Duration = Duration::from_secs(5);

fn portcullis(arguments: &[&str]) -> String {
    output(Command::new(env!("CARGO_BIN_EXE_portcullis")).args(arguments))
}

/// curl, asking one replica with a client key.
fn curl(gateway: &Gateway, replica: &Pod, host: &str, key: &str, path: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--max-time", "60", "--cacert"]).arg(&gateway.authority);
    curl.args([
        "--resolve",
        &format!("{host}:{HTTPS}:{}", replica.address),
        "--header",
        &format!("X-Api-Key: {key}"),
    ]);
    curl.args([
        "--output",
        "/dev/null",
        "--write-out",
        "%{http_code}",
        &format!("https://{host}:{HTTPS}{path}"),
    ]);
    curl
}

fn status(gateway: &Gateway, replica: &Pod, host: &str, key: &str) -> String {
    let answer = curl(gateway, replica, host, key, "/whoami").output().expect("curl runs");
    String::from_utf8_lossy(&answer.stdout).into_owned()
}

/// Waits until every replica answers with `wanted`.
async fn all_answer(cluster: &Cluster, host: &str, key: &str, wanted: &str) {
    for replica in cluster.gateway.replicas() {
        eventually(
            &format!("{} answers {wanted}", replica.name),
            Duration::from_secs(60),
            || async {
                let got = status(cluster.gateway, &replica, host, key);
                if got == wanted { Ok(()) } else { Err(format!("it answered {got}")) }
            },
        )
        .await;
    }
}

/// A stream through each replica, which has begun and would last for minutes.
async fn streams(cluster: &Cluster, host: &str, key: &str) -> Vec<Child> {
    let mut streams = Vec::new();
    for replica in cluster.gateway.replicas() {
        let head = tempfile::NamedTempFile::new().expect("a file");
        let mut curl = curl(cluster.gateway, &replica, host, key, "/stream/100000?interval=50ms");
        curl.arg("--dump-header").arg(head.path()).stdout(Stdio::null()).stderr(Stdio::null());
        streams.push(curl.spawn().expect("curl runs"));
        eventually(
            &format!("a stream through {} begins", replica.name),
            Duration::from_secs(30),
            || async {
                let head = std::fs::read_to_string(head.path()).expect("the file is there");
                if head.contains(" 200") { Ok(()) } else { Err(head) }
            },
        )
        .await;
    }
    streams
}

/// Waits until all have ended, as long as that may take; returns how long it took.
async fn ended(mut streams: Vec<Child>) -> Duration {
    let start = Instant::now();
    while !streams.iter_mut().all(|stream| stream.try_wait().expect("curl runs").is_some()) {
        if start.elapsed() > SOON {
            streams.iter_mut().for_each(|stream| drop(stream.kill()));
            panic!("a stream outlived its credential by more than {SOON:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    start.elapsed()
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn what_is_taken_away_is_gone_within_five_seconds_on_both_replicas() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "keys");
        environment.serve("web", 1).await;
        let annotate = |annotation: &str| {
            kubectl(&["annotate", "namespace", &environment.name, "--overwrite", annotation])
        };
        annotate("portcullis.dev/require=app");
        annotate("portcullis.dev/allow-apps=importer");
        let host = environment.host("web");
        assert_eq!(cluster.gateway.replicas().len(), 2);
        let key =
            portcullis(&["key", "create", "importer", "--namespace", NAMESPACE]).trim().to_owned();
        all_answer(cluster, &host, &key, "200").await;

        let open = streams(cluster, &host, &key).await;
        annotate("portcullis.dev/allow-apps=somebody-else");
        report(&format!(
            "a grant that was withdrawn ended streams through both replicas after {} ms",
            ended(open).await.as_millis()
        ));
        all_answer(cluster, &host, &key, "404").await;

        annotate("portcullis.dev/allow-apps=importer");
        all_answer(cluster, &host, &key, "200").await;
        let open = streams(cluster, &host, &key).await;
        let list: serde_json::Value = serde_json::from_str(&portcullis(&[
            "key",
            "list",
            "-o",
            "json",
            "--namespace",
            NAMESPACE,
        ]))
        .expect("JSON");
        let name = list[0]["name"].as_str().expect("the only key").to_owned();
        portcullis(&["key", "revoke", &name, "--namespace", NAMESPACE]);
        report(&format!(
            "a key that was revoked ended streams through both replicas after {} ms",
            ended(open).await.as_millis()
        ));
        all_answer(cluster, &host, &key, "404").await;
    });
}
