//! Replicas that share a folder, or the Secrets of a cluster: they create their session keys
//! themselves, and a session that one of them revokes is rejected by all.

use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::*;
use crate::harness::node::{control, kubectl, rights};

/// The longest time until every replica rejects a session that one of them has revoked.
const SOON: Duration = Duration::from_secs(5);
const DAY: u64 = 24 * 3600;

/// Two gateways that read the same resources.
struct Pair {
    site: Site,
    replica: Gateway,
}

/// The cookie of a session on a host.
struct Session {
    host: &'static str,
    cookie: String,
}

// === impl Pair ===

impl Pair {
    async fn start(source: Value, pod: Echo) -> Self {
        let site = Site::reading(source, pod, json!({}), json!({})).await;
        let replica = site.replica().await;
        let pair = Self { site, replica };
        eventually("both have the same key", || async {
            let [one, other] =
                [published_keys(&pair.site.gateway).await, published_keys(&pair.replica).await];
            one == other
        })
        .await;
        pair
    }

    /// Two gateways on a folder with these services and these other files.
    async fn on_folder(files: &[(&str, &str)]) -> (Self, TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let pod = echo("pod-1").await;
        let world =
            files.iter().fold(services(&pod), |world, (name, text)| world.with_file(name, text));
        world.write(folder.path());
        (Self::start(json!({ "directory": folder.path() }), pod).await, folder)
    }

    /// Kills both as in a crash, and starts them again.
    async fn restart(&mut self) {
        kill(&mut self.replica).await;
        self.site.restart().await;
        self.replica = self.site.replica().await;
    }
}

// === impl Session ===

impl Session {
    async fn of(browser: &Browser<'_>, host: &'static str, name: &str) -> Self {
        browser.log_in(host, "/whoami", name).await;
        Self {
            host,
            cookie: format!(
                "Cookie: __Host-portcullis={}",
                browser.cookie(host, "__Host-portcullis")
            ),
        }
    }

    /// Whether a gateway accepts it, regardless of whether there is a pod.
    async fn holds_at(&self, gateway: &Gateway) -> bool {
        gateway.curl(self.host, "/whoami").header(&self.cookie).run().await.status != 404
    }
}

/// The keys that are derived from the session keys.
async fn published_keys(gateway: &Gateway) -> Value {
    let answer = gateway.curl(OPS, "/.well-known/portcullis/jwks.json").run().await;
    serde_json::from_slice(&answer.body).expect("JSON")
}

async fn sign_out(browser: &Browser<'_>) {
    let site = browser.site;
    let confirm = browser.get(&site.url(PORTAL, "/logout")).await;
    let page = browser
        .post(&site.url(PORTAL, "/logout"), &[("token", &confirm.field("token"))], None)
        .await;
    assert!(page.answer.text().contains("You are signed out"), "{:?}", page.answer);
}

/// The entries of a Secret that the gateways wrote into a folder.
fn entries(folder: &Path, secret: &str) -> Vec<String> {
    let text = std::fs::read(folder.join(format!("{secret}.json"))).expect("the file is there");
    let secret: Value = serde_json::from_slice(&text).expect("JSON");
    secret["data"].as_object().expect("a map").keys().cloned().collect()
}

/// A session revoked at one is rejected by both, also after a restart; others stay valid.
async fn ends_everywhere(mut pair: Pair) -> Pair {
    let (ann, bob, took) = {
        let (at_ann, at_bob) = (pair.site.browser(), pair.site.browser());
        let (ann, bob) =
            (Session::of(&at_ann, OPS, "ann").await, Session::of(&at_bob, SALES, "bob").await);
        for session in [&ann, &bob] {
            assert!(
                session.holds_at(&pair.site.gateway).await && session.holds_at(&pair.replica).await
            );
        }
        sign_out(&at_ann).await;
        let signed_out = Instant::now();
        assert!(!ann.holds_at(&pair.site.gateway).await);
        eventually("the other refuses it", || async { !ann.holds_at(&pair.replica).await }).await;
        (ann, bob, signed_out.elapsed())
    };
    println!("refused by the other after {} ms", took.as_millis());
    assert!(took < SOON, "{took:?}");
    assert_eq!(pair.site.gateway.metric("portcullis_session_revocations_pending").await, 0.0);
    assert!(bob.holds_at(&pair.site.gateway).await && bob.holds_at(&pair.replica).await);

    pair.restart().await;
    for gateway in [&pair.site.gateway, &pair.replica] {
        eventually("sessions are known again", || async {
            let knows = bob.holds_at(gateway).await;
            // Never, not even before.
            assert!(!ann.holds_at(gateway).await);
            knows
        })
        .await;
    }
    pair
}

#[tokio::test]
async fn signing_out_at_one_gateway_revokes_the_session_at_both_even_after_a_restart() {
    let (pair, folder) = Pair::on_folder(&[]).await;
    assert_eq!(entries(folder.path(), "portcullis-session-keys").len(), 1, "one makes the key");
    let pair = ends_everywhere(pair).await;
    assert_eq!(
        pair.site.gateway.metric("portcullis_session_revocations_total{outcome=\"failed\"}").await,
        0.0
    );
    drop(pair);
    let [ended] = &entries(folder.path(), "portcullis-ended-sessions-1")[..] else {
        panic!("one end")
    };
    assert!(
        ended
            .split_once('-')
            .is_some_and(|(hash, at)| hash.len() == 32 && at.parse::<u64>().is_ok()),
        "{ended}"
    );
}

#[tokio::test]
async fn signing_out_at_one_gateway_closes_streams_at_the_other() {
    let (pair, _folder) = Pair::on_folder(&[]).await;
    let browser = pair.site.browser();
    let ann = Session::of(&browser, OPS, "ann").await;
    let before = pair.site.pod.counts().borrow().started;
    let stream = tokio::spawn(
        pair.replica.curl(OPS, "/stream/100000?interval=20ms").header(&ann.cookie).run(),
    );
    pair.site
        .pod
        .counts()
        .wait_for(|counts| counts.started > before)
        .await
        .expect("the pod counts");
    sign_out(&browser).await;
    let signed_out = Instant::now();
    let answer = soon("the stream ends", stream).await.unwrap();
    assert!(answer.exit != 0 && !answer.body.is_empty(), "it was broken off: {}", answer.complaint);
    assert!(signed_out.elapsed() < SOON, "{:?}", signed_out.elapsed());
}

#[tokio::test]
async fn signing_out_succeeds_while_the_store_is_down_and_is_published_later() {
    let (pair, folder) = Pair::on_folder(&[]).await;
    // The folder is neither readable nor writable.
    let obstacle = folder.path().join("portcullis-ended-sessions-1.json");
    std::fs::create_dir(&obstacle).unwrap();
    let browser = pair.site.browser();
    let ann = Session::of(&browser, OPS, "ann").await;
    sign_out(&browser).await;
    assert!(!ann.holds_at(&pair.site.gateway).await && ann.holds_at(&pair.replica).await);
    pair.site.gateway.has_written("failed to publish revoked sessions").await;
    let failed = "portcullis_session_revocations_total{outcome=\"failed\"}";
    assert!(pair.site.gateway.metric(failed).await >= 1.0);
    assert_eq!(pair.site.gateway.metric("portcullis_session_revocations_pending").await, 1.0);
    std::fs::remove_dir(&obstacle).unwrap();
    eventually("the other refuses it", || async { !ann.holds_at(&pair.replica).await }).await;
    assert_eq!(pair.site.gateway.metric("portcullis_session_revocations_pending").await, 0.0);
}

#[tokio::test]
async fn session_keys_are_rotated_and_removed_when_unused() {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let [over, old] = [now - 80 * DAY, now - 40 * DAY].map(|made| made.to_string());
    let metadata = json!({ "name": "portcullis-session-keys", "namespace": "portcullis", "labels": { "portcullis.dev/credential": "session-keys" } });
    let key = |octet: &str| format!("{}MTE=", octet.repeat(40));
    let data = json!({ &over: key("A"), &old: key("B") });
    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data });
    let (pair, folder) =
        Pair::on_folder(&[("portcullis-session-keys.json", &secret.to_string())]).await;
    eventually("the next key is made", || async {
        !entries(folder.path(), "portcullis-session-keys").contains(&over)
    })
    .await;
    let [kept, made] = &entries(folder.path(), "portcullis-session-keys")[..] else {
        panic!("two keys")
    };
    assert!(*kept == old && made.parse::<u64>().unwrap() >= now, "{kept} {made}");
    for gateway in [&pair.site.gateway, &pair.replica] {
        eventually("both are known", || async {
            published_keys(gateway).await["keys"].as_array().unwrap().len() == 2
        })
        .await;
    }
}

/// Runs `portcullis sessions` for one gateway.
async fn sessions(gateway: &Gateway, arguments: &[&str]) -> String {
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"));
    let output = command
        .arg("sessions")
        .args(arguments)
        .args(["--admin", &gateway.admin().to_string()])
        .output()
        .await
        .expect("portcullis runs");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[tokio::test]
async fn a_command_rotates_the_key_and_optionally_revokes_all_sessions() {
    let (pair, folder) = Pair::on_folder(&[]).await;
    let keys = || entries(folder.path(), "portcullis-session-keys");
    let [first] = &keys()[..] else { panic!("one key") };
    let browser = pair.site.browser();
    let ann = Session::of(&browser, OPS, "ann").await;

    let reported = sessions(&pair.replica, &["rotate"]).await;
    assert!(reported.contains("created a new session key"), "{reported}");
    assert!(keys().len() == 2 && keys().contains(first), "{:?}", keys());
    for gateway in [&pair.site.gateway, &pair.replica] {
        eventually("it is known", || async {
            published_keys(gateway).await["keys"].as_array().unwrap().len() == 2
        })
        .await;
        assert!(ann.holds_at(gateway).await);
    }

    let metadata = json!({ "name": "by-hand", "namespace": "portcullis", "labels": { "portcullis.dev/credential": "session-key" } });
    let by_hand = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": { "key": format!("{}=", "A".repeat(43)) } });
    std::fs::write(folder.path().join("by-hand.json"), by_hand.to_string()).unwrap();
    eventually("it is known", || async {
        published_keys(&pair.replica).await["keys"].as_array().unwrap().len() == 3
    })
    .await;
    let reported = sessions(&pair.replica, &["rotate", "--end-sessions"]).await;
    assert!(
        reported.contains("their sessions are revoked") && reported.contains("by-hand"),
        "{reported}"
    );
    assert!(keys().len() == 1 && !keys().contains(first), "{:?}", keys());
    for gateway in [&pair.site.gateway, &pair.replica] {
        eventually("the session is revoked", || async { !ann.holds_at(gateway).await }).await;
    }
    assert!(Session::of(&pair.site.browser(), SALES, "bob").await.holds_at(&pair.replica).await);
}

/// The number of entries of each Secret with revoked sessions.
async fn told_in_cluster() -> Vec<usize> {
    let text = kubectl(
        &[
            "get",
            "secrets",
            "--namespace",
            "portcullis",
            "--selector=portcullis.dev/credential=ended-sessions",
            "-o",
            "json",
        ],
        "",
    )
    .await;
    let list: Value = serde_json::from_str(&text).expect("a list");
    list["items"]
        .as_array()
        .expect("items")
        .iter()
        .map(|secret| secret["data"].as_object().map_or(0, serde_json::Map::len))
        .collect()
}

#[tokio::test]
#[ignore = "needs the node that tests/cluster/test starts"]
async fn signing_out_at_one_replica_revokes_the_session_at_all_of_a_cluster() {
    let place = tempfile::tempdir().unwrap();
    let kubeconfig = rights(place.path(), &["access.yaml", "sessions.yaml"]).await;
    let closed = json!({ "portcullis.dev/expose": "all", "portcullis.dev/require": "user", "portcullis.dev/allow-users": "*" });
    let labels = json!({ "portcullis.dev/environment": "closed" });
    let metadata = json!({ "name": "closed", "labels": labels, "annotations": closed });
    let namespace = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": metadata });
    kubectl(&["apply", "--server-side", "-f", "-"], &namespace.to_string()).await;
    for name in ["crm", "biz"] {
        let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": name }, "spec": { "ports": [{ "port": 80 }] } });
        kubectl(
            &["apply", "--server-side", "--namespace", "closed", "-f", "-"],
            &service.to_string(),
        )
        .await;
    }
    let pair =
        Pair::start(json!({ "kubernetes": { "kubeconfig": kubeconfig } }), echo("pod-1").await)
            .await;
    let pair = ends_everywhere(pair).await;

    // Each writes to the Secret with the fewest entries, so that all are used.
    for reported in 2..=4 {
        let browser = pair.site.browser();
        Session::of(&browser, OPS, "ann").await;
        sign_out(&browser).await;
        eventually("it is reported", || async {
            told_in_cluster().await.iter().sum::<usize>() == reported
        })
        .await;
    }
    assert_eq!(told_in_cluster().await, [1, 1, 1, 1]);

    let browser = pair.site.browser();
    let ann = Session::of(&browser, OPS, "ann").await;
    control(&["stop-apiserver"]).await;
    sign_out(&browser).await;
    assert!(
        !ann.holds_at(&pair.site.gateway).await && ann.holds_at(&pair.replica).await,
        "it can only be reported later"
    );
    control(&["start-apiserver"]).await;
    eventually("the other refuses it", || async { !ann.holds_at(&pair.replica).await }).await;

    let bob = Session::of(&pair.site.browser(), SALES, "bob").await;
    assert!(bob.holds_at(&pair.replica).await);
    sessions(&pair.site.gateway, &["rotate", "--end-sessions"]).await;
    for gateway in [&pair.site.gateway, &pair.replica] {
        eventually("all sessions have ended", || async { !bob.holds_at(gateway).await }).await;
    }
}
