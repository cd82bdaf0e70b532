//! `portcullis traffic set` against a real API server and the gateway's pods.

use std::process::{Command, Output};

use crate::client::{self, Version, WHO};
use crate::environment::Environment;
use crate::gateway::NAMESPACE;
use crate::node::{Company, in_cluster, kubectl};

/// Runs `portcullis traffic set web` in an environment.
fn set(environment: &Environment, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_portcullis"));
    command.args(["traffic", "set", "web", "-n", &environment.name]).args(arguments);
    command.output().expect("portcullis runs")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn weights_are_applied_by_every_pod_and_the_owner_of_others_is_named() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "traffic-set");
        environment.serve("web", 1).await;
        // Until it is a variant, it has a hostname: then every replica knows its pod.
        environment.serve("web-canary", 1).await;
        let namespace = &*environment.name;
        let annotate = |service: &str, annotation: &str| {
            kubectl(&["annotate", "service", service, annotation, "--overwrite", "-n", namespace])
        };
        annotate("web-canary", "portcullis.dev/canary-of=web");
        let wait = ["--wait", "--gateway", NAMESPACE];
        let (stable, canary) = (environment.pods("web"), environment.pods("web-canary"));
        for (change, expected) in
            [("canary=100", &canary[0]), ("--previous", &stable[0]), ("--previous", &canary[0])]
        {
            let output = set(&environment, &[&[change], &wait[..]].concat());
            let count = cluster.gateway.replicas().len();
            let all = format!("applied by all replicas: {count}");
            assert!(output.status.success() && said(&output).contains(&all), "{}", said(&output));
            let host = environment.host("web");
            for _ in 0..10 {
                let gateway = cluster.gateway;
                let answer = client::get(gateway, gateway.https, Version::Http1, &host, WHO).await;
                assert_eq!(answer.expect("an answer").pod(), expected.name, "{change}");
            }
        }
        annotate("web", "portcullis.dev/split=web-canary=0-99");
        let output = set(&environment, &["canary=5"]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains("kubectl-annotate"), "{}", said(&output));
        let output = set(&environment, &["canary=5", "--force"]);
        assert!(output.status.success(), "{}", said(&output));
        let split = "jsonpath={.metadata.annotations.portcullis\\.dev/split}";
        let written = kubectl(&["get", "service", "web", "-n", namespace, "-o", split]);
        assert_eq!(written, "web-canary=0-499");
    });
}
