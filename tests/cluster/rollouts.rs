//! Rolling updates under load: of the pods behind the gateway, and of the gateway itself. No
//! request is lost.

use std::time::Duration;

use crate::client::Version;
use crate::environment::Environment;
use crate::gateway::NAMESPACE;
use crate::load::{Load, Plan};
use crate::node::{Cluster, Company, in_cluster, kubectl, report};

/// Requests over all versions together.
const REQUESTS: u64 = 100_000;
const FEWEST_UPDATES: u64 = 5;

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn rolling_updates_of_pods_lose_no_request_of_a_hundred_thousand() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "rollout");
        environment.serve("web", 3).await;
        let loads = both_versions(cluster, &environment.host("web"), Duration::ZERO);
        let mut updates = 0;
        while updates < FEWEST_UPDATES || loads.iter().any(|load| load.answered() < REQUESTS / 2) {
            environment.restart("web");
            environment.rolled_out("web");
            updates += 1;
            assert!(
                loads.iter().all(Load::goes_on),
                "too slow a machine: {:?}",
                loads.map(|load| load.report())
            );
        }
        for load in loads {
            let result = load.stop().await;
            result.assert_flawless();
            assert!(
                result.pods.len() as u64 > 3 * updates,
                "every update's pods got requests: {:?}",
                result.pods
            );
            report(&format!(
                "{} requests over {updates} rolling updates and {} pods, {} failed",
                result.answered,
                result.pods.len(),
                result.failed
            ));
        }
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_rolling_update_of_the_gateway_loses_no_request() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "upgrade");
        environment.serve("web", 2).await;
        let before = cluster.gateway.replicas();
        let loads = both_versions(cluster, &environment.host("web"), Duration::from_millis(2));
        kubectl(&["rollout", "restart", "deployment/portcullis", "--namespace", NAMESPACE]);
        kubectl(&[
            "rollout",
            "status",
            "deployment/portcullis",
            "--namespace",
            NAMESPACE,
            "--timeout=180s",
        ]);
        cluster.gateway.settled(2).await;
        let after = cluster.gateway.replicas();
        assert!(
            before.iter().all(|replica| !after.contains(replica)),
            "all replicas were replaced"
        );
        for load in loads {
            load.pass(100).await;
            let result = load.stop().await;
            result.assert_flawless();
            report(&format!(
                "{} requests over a rolling update of the gateway, {} connections opened anew",
                result.answered, result.reconnected
            ));
        }
    });
}

fn both_versions(cluster: &Cluster, host: &str, pause: Duration) -> [Load; 2] {
    [(Version::Http1, 8, 1), (Version::Http2, 2, 8)].map(|(version, connections, streams)| {
        let plan = Plan { host: host.to_owned(), version, connections, streams, pause };
        Load::start(cluster.gateway, plan)
    })
}
