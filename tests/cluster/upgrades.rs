//! The chart is upgraded to another image and configuration, and rolled back, while requests are sent;
//! and an upgrade to a configuration that is wrong changes nothing.

use std::process::Command;
use std::time::Duration;

use crate::environment::Environment;
use crate::gateway::create_certificate;
use crate::load::Load;
use crate::node::{self, Cluster, Company, in_cluster, kubectl, output, report, repository};
use crate::rollouts::both_versions;

/// The Namespace and the name of the release.
const NAMESPACE: &str = "portcullis-chart";
/// Requests over all upgrades: in the tests, and in `make bench-rollout`.
const REQUESTS: (u64, u64) = (10_000, 100_000);

/// A release of the chart, beside the gateway of the other tests; deleted at the end.
struct Release;

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn upgrades_of_the_chart_lose_no_request_and_a_wrong_one_changes_nothing() {
    in_cluster(Company::Unwelcome, async |cluster| {
        node::name_image("local/portcullis:test", "docker.io/local/portcullis:next");
        let release = Release::install();
        let gateway = Box::leak(Box::new(cluster.gateway.of_release(NAMESPACE)));
        let cluster = Cluster { kube: cluster.kube.clone(), gateway };
        let environment = Environment::open(&cluster, "chart");
        environment.serve("web", 2).await;
        let loads = both_versions(&cluster, &environment.host("web"), Duration::from_millis(2));
        let requests = node::scale(REQUESTS.0, REQUESTS.1);
        let mut upgrades = 0;
        while upgrades < 1 || loads.iter().map(Load::answered).sum::<u64>() < requests {
            release
                .upgrade("image.tag=next,configuration.timeouts.connect=4s")
                .expect("the upgrade succeeds");
            release.roll_back();
            upgrades += 1;
        }

        // Its pod says what is wrong, and is never ready.
        let error =
            release.upgrade("configuration.timeouts.connect=never").expect_err("a wrong one");
        let logs =
            ["logs", "--namespace", NAMESPACE, "--selector", "app.kubernetes.io/name=portcullis"];
        let logs = kubectl(&[&logs[..], &["--tail=50"]].concat());
        assert!(logs.contains("timeouts.connect"), "{error}\n{logs}");
        release.roll_back();

        for load in loads {
            load.pass(20).await;
            let work = load.work();
            let result = load.stop().await;
            report(&format!(
                "{work:?}: {} requests over {upgrades} upgrades of the chart and rollbacks, {} failed",
                result.answered, result.failed
            ));
            result.assert_flawless();
        }
    });
}

// === impl Release ===

impl Release {
    fn install() -> Self {
        kubectl(&["create", "namespace", NAMESPACE]);
        let release = Self;
        create_certificate(NAMESPACE);
        let mut helm = release.helm(&["upgrade", "--install"]);
        helm.args(["--set", "zone=apps.test,certificate.secretName=portcullis-tls"]);
        helm.args(["--set", "image.repository=local/portcullis,image.tag=test"]);
        helm.args(["--set", "exposure.type=NodePort", "--wait", "--timeout=180s"]);
        output(&mut helm);
        release
    }

    /// Upgrades to another value.
    ///
    /// # Errors
    /// The new pods were not ready in time.
    fn upgrade(&self, value: &str) -> Result<(), String> {
        let mut helm = self.helm(&["upgrade"]);
        let patience = if value.ends_with("never") { "--timeout=15s" } else { "--timeout=180s" };
        helm.args(["--reset-then-reuse-values", "--set", value, "--wait", patience]);
        let output = helm.output().expect("helm runs");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).ok_or(error)
    }

    /// Returns to the revision before.
    fn roll_back(&self) {
        let deployment = format!("deployment/{NAMESPACE}");
        let mut helm = self.helm(&["rollback"]);
        output(helm.args(["--wait", "--timeout=180s"]));
        kubectl(&["rollout", "status", &deployment, "--namespace", NAMESPACE, "--timeout=180s"]);
    }

    /// A command of helm for the release.
    fn helm(&self, command: &[&str]) -> Command {
        let folder = output(Command::new(repository("tests/chart/build")).arg("--print-dir"));
        let mut helm = Command::new(format!("{}/helm", folder.trim()));
        helm.args(command).arg(NAMESPACE);
        if command.first() == Some(&"upgrade") {
            helm.arg(repository("deploy/helm/portcullis"));
        }
        helm.args(["--namespace", NAMESPACE]);
        helm
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        // Its rights belong to no Namespace.
        let _ = self.helm(&["uninstall"]).output();
        let mut kubectl = Command::new("kubectl");
        let _ = kubectl.args(["delete", "namespace", NAMESPACE, "--wait=false"]).output();
    }
}
