//! The node around the tests: who may use it beside whom, and the handles to it.

use std::env;
use std::fs;
use std::future::Future;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::RwLock;
use std::time::{Duration, Instant};

use kube::Client;

use crate::gateway::Gateway;

/// The node is one for all tests: those that disturb nobody run beside each other, the others
/// alone.
static NODE: RwLock<()> = RwLock::new(());

/// Whether a test bears others beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Company {
    /// Keeps to its own Namespace, and minds nobody.
    Welcome,
    /// Disturbs all of the node, or measures.
    Unwelcome,
}

/// What a test holds of the cluster.
pub(crate) struct Cluster {
    /// The API, as administrator.
    pub(crate) kube: Client,
    /// The gateway, installed.
    pub(crate) gateway: &'static Gateway,
}

/// Runs `test` with the gateway installed. It may block, as on `kubectl`: what it spawns runs on
/// threads of its own.
pub(crate) fn in_cluster(company: Company, test: impl AsyncFnOnce(&Cluster)) {
    let (_beside, _alone);
    match company {
        Company::Welcome => {
            _beside = NODE.read().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
        Company::Unwelcome => {
            _alone = NODE.write().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let gateway = Gateway::installed();
        let kube = Client::try_default().await.expect("the kubeconfig of the node");
        test(&Cluster { kube, gateway }).await;
    });
}

/// The folder with the node's logs and files.
pub(crate) fn state() -> PathBuf {
    PathBuf::from(
        env::var_os("PORTCULLIS_CLUSTER_STATE")
            .expect("these tests run inside the node that tests/cluster/test starts"),
    )
}

/// A folder or file of the repository.
pub(crate) fn repository(path: &str) -> PathBuf {
    let root = option_env!("CARGO_MANIFEST_DIR").unwrap_or(".");
    PathBuf::from(root).join(path)
}

/// Runs `kubectl`, and returns what it printed. Panics with what it said when it failed.
pub(crate) fn kubectl(arguments: &[&str]) -> String {
    output(Command::new("kubectl").args(arguments))
}

/// Applies manifests, as `kubectl apply -f` does.
pub(crate) fn apply(manifests: &str) {
    let mut kubectl = Command::new("kubectl")
        .args(["apply", "--server-side", "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    kubectl
        .stdin
        .take()
        .expect("it is piped")
        .write_all(manifests.as_bytes())
        .expect("kubectl reads all manifests");
    let output = kubectl.wait_with_output().expect("kubectl ends");
    assert!(output.status.success(), "kubectl apply: {}", String::from_utf8_lossy(&output.stderr));
}

/// Gives an image of the node, such as `local/portcullis:test`, one more name.
pub(crate) fn name_image(built: &str, name: &str) {
    let mut ctr = Command::new("ctr");
    ctr.arg("--address").arg(state().join("containerd.sock"));
    let built = format!("docker.io/{built}");
    output(ctr.args(["--namespace", "k8s.io", "images", "tag", "--force", &built, name]));
}

/// The address of the node, where clients reach its ports.
pub(crate) fn node_address() -> String {
    let address = r#"jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}"#;
    kubectl(&["get", "nodes", "--output", address])
}

/// Stops, starts and sets back parts of the node: see `tests/cluster/control`.
pub(crate) fn control(arguments: &[&str]) {
    output(Command::new(repository("tests/cluster/control")).args(arguments));
}

/// Runs a program, and returns what it printed. Panics with what it said when it failed.
pub(crate) fn output(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks `question` until its answer is yes. Panics with the last "no" after `limit`.
pub(crate) async fn eventually<F>(what: &str, limit: Duration, mut question: impl FnMut() -> F)
where
    F: Future<Output = Result<(), String>>,
{
    let deadline = Instant::now() + limit;
    loop {
        let Err(reason) = question().await else { return };
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}: {reason}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// How much a test does: `full` in `make bench-rollout`, else `short`.
pub(crate) fn scale<T>(short: T, full: T) -> T {
    if env::var_os("PORTCULLIS_CLUSTER_FULL").is_some() { full } else { short }
}

/// Tells a measured fact to whoever watches the run; kept with the node's logs too.
pub(crate) fn report(fact: &str) {
    let _ = writeln!(std::io::stderr(), "    {fact}");
    let log = fs::OpenOptions::new().create(true).append(true).open(state().join("facts.log"));
    let _ = log.and_then(|mut log| writeln!(log, "{fact}"));
}
