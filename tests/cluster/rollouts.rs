//! Rolling updates under load: of the pods behind the gateway, and of the gateway itself. No
//! request is lost.

use std::time::Duration;

use crate::client::Version;
use crate::environment::Environment;
use crate::gateway::NAMESPACE;
use crate::load::{Load, Plan, Work};
use crate::node::{self, Cluster, Company, in_cluster, kubectl, report};

/// Requests over all kinds together, and updates: in the tests, and in `make bench-rollout`.
const SHORT: (u64, u64) = (50_000, 3);
const FULL: (u64, u64) = (1_000_000, 20);

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn rolling_updates_of_pods_lose_no_request_of_any_kind() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "rollout");
        environment.serve("web", 3).await;
        let calls = environment.add_grpc("web").await;
        let (http, grpc) = (environment.host("web"), environment.host(&calls));
        let loads = every_kind(cluster, &http, &grpc, Duration::ZERO);
        let (requests, fewest) = node::scale(SHORT, FULL);
        let mut updates = 0;
        while updates < fewest || loads.iter().map(Load::answered).sum::<u64>() < requests {
            environment.restart("web");
            environment.rolled_out("web");
            updates += 1;
            let running = loads.iter().all(Load::goes_on);
            assert!(running, "too slow a machine: {:?}", loads.each_ref().map(Load::report));
        }
        let mut sum = 0;
        for load in loads {
            let work = load.work();
            let result = load.stop().await;
            report(&format!(
                "{work:?}: {} requests over {updates} rolling updates and {} pods, {} failed",
                result.answered,
                result.pods.len(),
                result.failed
            ));
            result.assert_flawless();
            // The others are too few to reach each pod.
            if matches!(work, Work::Get(_)) {
                let pods = result.pods.len() as u64;
                assert!(pods > 3 * updates, "every update's pods got requests: {result:?}");
            }
            sum += result.answered;
        }
        report(&format!("{sum} requests of all kinds over {updates} rolling updates, 0 failed"));
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

/// `GET`s over both versions, gRPC calls and streams, and WebSockets.
pub(crate) fn every_kind(cluster: &Cluster, http: &str, grpc: &str, pause: Duration) -> [Load; 5] {
    [
        (http, Work::Get(Version::Http1), 8, 1),
        (http, Work::Get(Version::Http2), 2, 8),
        (grpc, Work::Unary, 2, 4),
        (grpc, Work::Streams, 2, 4),
        (http, Work::WebSockets, 2, 1),
    ]
    .map(|(host, work, connections, streams)| {
        let plan = Plan { host: host.to_owned(), work, connections, streams, pause };
        Load::start(cluster.gateway, plan)
    })
}

/// `GET`s over both versions.
pub(crate) fn both_versions(cluster: &Cluster, host: &str, pause: Duration) -> [Load; 2] {
    [(Version::Http1, 8, 1), (Version::Http2, 2, 8)].map(|(version, connections, streams)| {
        let work = Work::Get(version);
        let plan = Plan { host: host.to_owned(), work, connections, streams, pause };
        Load::start(cluster.gateway, plan)
    })
}
