//! The installation itself: what `kubectl apply -k` makes, and that it answers.

use std::process::Command;

use crate::client::{self, Version};
use crate::environment::Environment;
use crate::gateway::NAMESPACE;
use crate::node::{Company, in_cluster, kubectl, output, repository};

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn the_base_is_accepted_as_it_is() {
    in_cluster(Company::Welcome, async |_| {
        let base = repository("deploy/kubernetes");
        output(
            Command::new("kubectl")
                .args(["apply", "--server-side", "--force-conflicts", "--dry-run=server", "-k"])
                .arg(base),
        );
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn two_replicas_run_with_as_little_power_as_can_be() {
    in_cluster(Company::Welcome, async |cluster| {
        assert_eq!(cluster.gateway.replicas().len(), 2);
        let get = |path: &str| {
            let path = format!("jsonpath={{.items[0].spec{path}}}");
            kubectl(&[
                "get",
                "pods",
                "--namespace",
                NAMESPACE,
                "--selector=app.kubernetes.io/component=gateway",
                "--output",
                &path,
            ])
        };
        assert_eq!(get(".securityContext.runAsNonRoot"), "true");
        assert_eq!(get(".securityContext.seccompProfile.type"), "RuntimeDefault");
        assert_eq!(get(".containers[0].securityContext.readOnlyRootFilesystem"), "true");
        assert_eq!(get(".containers[0].securityContext.allowPrivilegeEscalation"), "false");
        assert_eq!(get(".containers[0].securityContext.capabilities.drop"), r#"["ALL"]"#);
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn curl_gets_an_answer_over_http_1_and_http_2() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "curl");
        environment.serve("web", 1).await;
        let (gateway, host) = (cluster.gateway, environment.host("web"));
        for (option, version) in [("--http1.1", "1.1"), ("--http2", "2")] {
            let mut curl = Command::new("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--fail",
                "--max-time",
                "10",
                option,
                "--cacert",
            ])
            .arg(&gateway.authority);
            curl.args([
                "--resolve",
                &format!("{host}:{}:{}", gateway.https.port(), gateway.https.ip()),
            ]);
            curl.args(["--output", "/dev/null", "--write-out", "%{http_code} %{http_version}"]);
            curl.arg(format!("https://{host}:{}/", gateway.https.port()));
            assert_eq!(output(&mut curl), format!("200 {version}"));
        }
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn plain_http_is_redirected_whatever_the_name() {
    in_cluster(Company::Welcome, async |cluster| {
        let url = format!("http://{}/path?query", cluster.gateway.http);
        for host in ["web--nowhere.apps.test", "example.com"] {
            let mut curl = Command::new("curl");
            curl.args([
                "--silent",
                "--show-error",
                "--max-time",
                "10",
                "--header",
                &format!("Host: {host}"),
                "--output",
                "/dev/null",
            ]);
            curl.args(["--write-out", "%{http_code} %{redirect_url}", &url]);
            assert_eq!(output(&mut curl), format!("308 https://{host}/path?query"));
        }
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_name_that_nobody_has_is_not_found() {
    in_cluster(Company::Welcome, async |cluster| {
        for version in [Version::Http1, Version::Http2] {
            let answer = client::get(
                cluster.gateway,
                cluster.gateway.https,
                version,
                "web--nowhere.apps.test",
                "/",
            )
            .await
            .expect("an answer");
            assert_eq!(answer.status, 404);
        }
    });
}
