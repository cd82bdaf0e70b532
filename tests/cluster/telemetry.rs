//! The listeners of the gateway's pods that are not for clients, as any pod of the cluster finds
//! them.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

use crate::environment::{Environment, SOON};
use crate::node::{Company, apply, eventually, in_cluster, kubectl, output};

const PROBES: u16 = 9902;
const TELEMETRY: u16 = 9903;
const ADMIN: u16 = 9901;

/// Status and body of a page, with a bearer token or without.
fn page(address: SocketAddr, path: &str, token: Option<&str>) -> (String, String) {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--write-out", "\n%{http_code}"]);
    curl.args(
        token
            .iter()
            .flat_map(|token| ["--header".to_owned(), format!("Authorization: Bearer {token}")]),
    );
    let answer = output(curl.arg(format!("http://{address}{path}")));
    let (body, status) = answer.rsplit_once('\n').expect("a status");
    (status.to_owned(), body.to_owned())
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn metrics_are_for_service_accounts_with_the_right_to_read_them() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "metrics");
        let namespace = &environment.name;
        apply(&format!(
            r#"
apiVersion: v1
kind: ServiceAccount
metadata: {{name: prometheus, namespace: {namespace}}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {{name: curious, namespace: {namespace}}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: {{name: {namespace}-metrics-reader}}
roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: portcullis-metrics-reader}}
subjects: [{{kind: ServiceAccount, name: prometheus, namespace: {namespace}}}]
"#
        ));
        let token = |account: &str, more: &[&str]| {
            let arguments = ["create", "token", account, "--namespace", namespace];
            kubectl(&[&arguments, more].concat()).trim().to_owned()
        };
        let (prometheus, curious) = (token("prometheus", &[]), token("curious", &[]));
        let for_others = token("prometheus", &["--audience=https://elsewhere.example.com"]);
        for replica in cluster.gateway.replicas() {
            let telemetry = replica.port(TELEMETRY);
            let status = |token| page(telemetry, "/metrics", token).0;
            // The API server reads bindings a moment after they are made.
            eventually("Prometheus reads metrics", SOON, || async {
                match &*status(Some(&prometheus)) {
                    "200" => Ok(()),
                    other => Err(other.to_owned()),
                }
            })
            .await;
            assert!(page(telemetry, "/metrics", Some(&prometheus)).1.contains("portcullis_hosts"));
            assert_eq!(status(Some(&curious)), "403");
            assert_eq!(status(Some(&for_others)), "401");
            assert_eq!(status(Some("junk")), "401");
            assert_eq!(status(None), "401");
            assert_eq!(page(telemetry, "/routes", Some(&prometheus)).0, "404");
        }
        kubectl(&["delete", "clusterrolebinding", &format!("{namespace}-metrics-reader")]);
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_pod_neither_crowds_out_probes_nor_reaches_the_admin_listener() {
    in_cluster(Company::Welcome, async |cluster| {
        for replica in cluster.gateway.replicas() {
            let second = Duration::from_secs(1);
            assert!(TcpStream::connect_timeout(&replica.port(ADMIN), second).is_err());
            let held: Vec<_> = (0..500).map(|_| TcpStream::connect(replica.port(PROBES))).collect();
            assert_eq!(page(replica.port(PROBES), "/livez", None).0, "200");
            assert_eq!(page(replica.port(PROBES), "/readyz", None).0, "200");
            assert_eq!(page(replica.port(PROBES), "/routes", None).0, "404");
            drop(held);
            let exec = ["exec", &replica.name, "--namespace", crate::gateway::NAMESPACE, "--"];
            let routes = kubectl(&[&exec[..], &["/portcullis", "routes"]].concat());
            assert!(routes.contains("HOST"), "{routes}");
        }
    });
}
