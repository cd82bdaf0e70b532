//! Pods of services and replicas of the gateway end, one after the other, with and without notice.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::client::{self, Version};
use crate::environment::{Environment, PODS};
use crate::gateway::NAMESPACE;
use crate::load::{Load, Plan, Work};
use crate::node::{self, Cluster, Company, eventually, in_cluster, kubectl, report};
use crate::pods::{self, Pod};
use crate::rollouts::every_kind;

/// The port of the echo server.
const ECHO: u16 = 8080;

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn pods_killed_in_turn_fail_no_get_and_process_no_post_twice() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "sigkill");
        environment.serve("web", 4).await;
        let host = environment.host("web");
        let gets = [Version::Http1, Version::Http2]
            .map(|version| start(cluster, &host, Work::Get(version)));
        let posts = start(cluster, &host, Work::Record(Version::Http1));
        // The kubelet waits longer each time before it starts a container again.
        for _ in 0..node::scale(1, 2) {
            for pod in environment.pods("web") {
                pods::kill(&pod);
                posts.pass(100).await;
                started_again(&environment, &pod).await;
            }
        }
        for load in gets {
            let result = load.stop().await;
            report(&format!(
                "{} GETs while pods were killed, {} failed",
                result.answered, result.failed
            ));
            result.assert_flawless();
        }
        let posts = posts.stop().await;
        let processed = processed(&environment).await;
        let twice: Vec<_> = processed.iter().filter(|(_, times)| **times > 1).collect();
        report(&format!(
            "{} POSTs while pods were killed, {} failed, {} processed twice",
            posts.answered,
            posts.failed,
            twice.len()
        ));
        assert!(twice.is_empty(), "{twice:?}");
        let lost: Vec<_> = posts.recorded.iter().filter(|id| !processed.contains_key(id)).collect();
        assert!(lost.is_empty(), "answered and not processed: {lost:?}");
    });
}

/// How often each POST was processed, by the records of all pods.
async fn processed(environment: &Environment) -> BTreeMap<u64, u32> {
    let mut times = BTreeMap::new();
    for pod in environment.pods("web") {
        let records = client::plain(pod.port(ECHO), "/records").await.expect("the pod's records");
        assert_eq!(records.status, 200, "{records:?}");
        for line in String::from_utf8_lossy(&records.body).lines() {
            *times.entry(line.parse().expect("a number")).or_default() += 1;
        }
    }
    times
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_service_from_one_pod_to_twenty_and_back_loses_no_request() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "twenty");
        environment.serve("web", 1).await;
        let calls = environment.add_grpc("web").await;
        let (http, grpc) = (environment.host("web"), environment.host(&calls));
        let loads = every_kind(cluster, &http, &grpc, Duration::from_millis(5));
        for replicas in [20, 1] {
            environment.scale("web", replicas);
            environment.rolled_out("web");
            ready_again(&environment, replicas).await;
        }
        for load in loads {
            load.pass(20).await;
            let work = load.work();
            let result = load.stop().await;
            report(&format!(
                "{work:?}: {} requests from 1 pod to {} and back",
                result.answered,
                result.pods.len()
            ));
            result.assert_flawless();
        }
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_service_without_pods_slows_no_other() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "beside");
        environment.serve("gone", 2).await;
        environment.serve("web", 2).await;
        let gone = start(cluster, &environment.host("gone"), Work::Get(Version::Http2));
        let plan = Plan::light(&environment.host("web"));
        let requests = node::scale(2_000, 50_000);
        let before = Load::start(cluster.gateway, plan.clone());
        before.pass(requests).await;
        let before = before.stop().await;
        environment.scale("gone", 0);
        environment.answers_with("gone", 503).await;
        let during = Load::start(cluster.gateway, plan);
        during.pass(requests).await;
        let during = during.stop().await;
        before.assert_flawless();
        during.assert_flawless();
        let gone = gone.stop().await;
        assert!(gone.failed > 0, "the service was away: {gone:?}");
        report(&format!(
            "p99 of a service {:?}, and {:?} beside one without pods",
            before.percentile(99),
            during.percentile(99)
        ));
        // A bound against waits, not a measurement: the machine is shared.
        let limit = before.percentile(99) * 3 + Duration::from_millis(20);
        assert!(during.percentile(99) < limit, "{:?} of {limit:?}", during.percentile(99));
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_gateway_that_ends_by_sigterm_loses_no_request() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "sigterm");
        environment.serve("web", 2).await;
        let calls = environment.add_grpc("web").await;
        let (http, grpc) = (environment.host("web"), environment.host(&calls));
        let [http1, http2, unary, streams, _] =
            every_kind(cluster, &http, &grpc, Duration::from_millis(5));
        let ends = node::scale(2, 20);
        for _ in 0..ends {
            let replica = cluster.gateway.replicas().swap_remove(0);
            let pod = format!("pod/{}", replica.name);
            kubectl(&["delete", &pod, "--namespace", NAMESPACE, "--wait=false"]);
            cluster.gateway.settled(2).await;
        }
        for load in [http1, http2, unary, streams] {
            load.pass(50).await;
            let work = load.work();
            let result = load.stop().await;
            report(&format!(
                "{work:?}: {} requests while one of two gateways ended {ends} times, {} failed, {} connections opened anew",
                result.answered, result.failed, result.reconnected
            ));
            result.assert_flawless();
        }
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_killed_gateway_costs_no_more_than_it_was_working_on() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "gateway-killed");
        environment.serve("web", 2).await;
        const AT_ONCE: u64 = 4 + 2 * 4;
        let host = environment.host("web");
        let loads = [(Version::Http1, 4, 1), (Version::Http2, 2, 4)].map(
            |(version, connections, streams)| {
                let work = Work::Get(version);
                let pause = Duration::from_millis(2);
                Load::start(
                    cluster.gateway,
                    Plan { host: host.clone(), work, connections, streams, pause },
                )
            },
        );
        for load in &loads {
            load.pass(100).await;
        }
        pods::kill(&cluster.gateway.replicas().swap_remove(0));
        for load in &loads {
            load.pass(1_000).await;
        }
        cluster.gateway.settled(2).await;
        let mut failed = 0;
        for load in loads {
            let result = load.stop().await;
            report(&format!(
                "{} requests while a gateway was killed, {} failed, {} connections not opened",
                result.answered, result.failed, result.unconnected
            ));
            failed += result.failed;
        }
        assert!(failed <= AT_ONCE, "{failed} failed, of {AT_ONCE} at once");
    });
}

fn start(cluster: &Cluster, host: &str, work: Work) -> Load {
    let pause = Duration::from_millis(2);
    let plan = Plan { host: host.to_owned(), work, connections: 4, streams: 1, pause };
    Load::start(cluster.gateway, plan)
}

/// Waits until a pod that was killed is ready after its container was started anew. Until the kubelet
/// has noticed, it still counts as ready.
async fn started_again(environment: &Environment, killed: &Pod) {
    eventually(&format!("{} is started anew", killed.name), PODS, || async {
        let pods = environment.pods("web");
        let pod = pods.iter().find(|pod| pod.name == killed.name);
        match pod {
            Some(pod) if pod.is_ready && pod.restarts > killed.restarts => Ok(()),
            other => Err(format!("it is {other:?}")),
        }
    })
    .await;
}

/// Waits until so many pods are ready, and no other is left.
async fn ready_again(environment: &Environment, replicas: usize) {
    eventually(&format!("{replicas} ready pods"), PODS, || async {
        let pods = environment.pods("web");
        let ready = pods.iter().filter(|pod: &&Pod| pod.is_ready).count();
        if ready == replicas && pods.len() == replicas {
            Ok(())
        } else {
            Err(format!("{ready} ready of {}", pods.len()))
        }
    })
    .await;
}
