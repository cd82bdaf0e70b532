//! What breaks: pods die, links fall silent, the API server is away, and the cluster forgets what
//! it knew.

use std::time::{Duration, Instant};

use crate::client::{self, Version};
use crate::endpoints;
use crate::environment::{Environment, PODS};
use crate::gateway::{HTTPS, NAMESPACE};
use crate::load::{Load, Plan};
use crate::node::{self, Company, control, eventually, in_cluster, kubectl, report};

/// How long the API server is away.
const OUTAGE: Duration = Duration::from_secs(60);
/// How long a pod of the gateway stays ready that is to stop, less a second that clocks may differ by.
const STAYS_READY: Duration = Duration::from_secs(9);

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_killed_pod_is_replaced_and_the_others_carry_on() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "killed");
        environment.serve("web", 3).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        load.pass(200).await;
        let pod = environment.pods("web").swap_remove(0);
        kubectl(&[
            "delete",
            "pod",
            &pod.name,
            "--namespace",
            &environment.name,
            "--grace-period=0",
            "--force",
        ]);
        // Whether the Deployment is complete is no question: for a moment it says so of the pod
        // that is gone.
        eventually("the new pod gets requests too", PODS, || async {
            let pods = load.report().pods;
            if pods.len() >= 4 { Ok(()) } else { Err(format!("{pods:?}")) }
        })
        .await;
        load.pass(400).await;
        let result = load.stop().await;
        report(&format!(
            "a pod killed without grace: {} requests answered, {} failed",
            result.answered, result.failed
        ));
        // What the pod was working on dies with it; the load has four requests under way.
        assert!(result.failed <= 4, "{:?}", result.failures);
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_pod_whose_link_is_cut_costs_only_what_was_under_way() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "silent");
        environment.serve("web", 3).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        load.pass(200).await;
        let pod = environment.pods("web").swap_remove(0);
        control(&["cut", &pod.address]);
        let cut = Instant::now();
        eventually("the probe fails", PODS, || async {
            let ready = environment.ready_pods("web");
            if ready.contains(&pod.name) { Err(format!("{ready:?} are ready")) } else { Ok(()) }
        })
        .await;
        let noticed = cut.elapsed();
        // From here on no request may go there: those begun now all succeed.
        let later = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        later.pass(1000).await;
        let later = later.stop().await;
        later.assert_flawless();
        assert!(!later.pods.contains_key(&pod.name), "{:?}", later.pods);
        control(&["mend", &pod.address]);
        eventually("the pod is ready again", PODS, || async {
            let ready = environment.ready_pods("web");
            if ready.contains(&pod.name) { Ok(()) } else { Err(format!("{ready:?} are ready")) }
        })
        .await;
        let result = load.stop().await;
        report(&format!(
            "a link cut, noticed by the kubelet after {noticed:?}: {} requests answered, {} failed",
            result.answered, result.failed
        ));
        assert!(
            result.failed <= 8,
            "only what was under way or begun before the probe failed: {:?}",
            result.failures
        );
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn traffic_goes_on_while_the_api_server_is_away_and_changes_arrive_once_it_is_back() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "outage");
        environment.serve("web", 2).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        control(&["stop-apiserver"]);
        tokio::time::sleep(OUTAGE).await;
        control(&["start-apiserver"]);
        let back = Instant::now();
        // Written by hand, so that it needs none of Kubernetes' controllers, which take their time
        // to come back.
        endpoints::make_service(&environment, "late");
        endpoints::point(cluster, &environment, "late", &environment.pods("web")[0].address).await;
        environment.answers("late").await;
        let result = load.stop().await;
        report(&format!(
            "API server away for {OUTAGE:?}: {} requests answered, {} failed; a new service \
             answered {:?} after its return",
            result.answered,
            result.failed,
            back.elapsed()
        ));
        result.assert_flawless();
        assert_eq!(
            cluster.gateway.replicas().len(),
            2,
            "no replica was restarted or turned unready for good"
        );
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_cluster_set_back_to_an_older_state_is_followed() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let snapshot = node::state().join("etcd.snapshot");
        let snapshot = snapshot.to_str().expect("a plain path");
        let environment = Environment::open(cluster, "restored");
        environment.serve("kept", 2).await;
        environment.serve("removed", 1).await;
        control(&["snapshot-etcd", snapshot]);
        environment.serve("later", 1).await;
        kubectl(&["delete", "service/removed", "--namespace", &environment.name]);
        environment.answers_with("removed", 404).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("kept")));
        control(&["restore-etcd", snapshot]);
        let restored = Instant::now();
        environment.answers("removed").await;
        environment.answers_with("later", 404).await;
        let followed = restored.elapsed();
        environment.deploy("afterwards", 1);
        environment.rolled_out("afterwards");
        environment.answers("afterwards").await;
        let result = load.stop().await;
        report(&format!(
            "etcd set back: followed after {followed:?}; {} requests answered, {} failed",
            result.answered, result.failed
        ));
        result.assert_flawless();
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_pod_of_the_gateway_that_is_to_stop_stays_ready_until_balancers_have_noticed() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "stopping");
        environment.serve("web", 1).await;
        let (gateway, host) = (cluster.gateway, environment.host("web"));
        let load = Load::start(gateway, Plan::light(&host));
        load.pass(100).await;
        let pod = gateway.replicas().swap_remove(0);
        kubectl(&["delete", "pod", &pod.name, "--namespace", NAMESPACE, "--wait=false"]);
        let deleted = Instant::now();
        eventually("the endpoint is terminating, and serves", PODS, || async {
            let conditions = conditions(&pod.name);
            if conditions == "false true true" { Ok(()) } else { Err(conditions) }
        })
        .await;
        let answer = client::get(gateway, pod.port(HTTPS), Version::Http1, &host, "/").await;
        assert_eq!(answer.expect("an answer").status, 200, "to who is still led here");
        eventually("it serves no longer", PODS, || async {
            let conditions = conditions(&pod.name);
            if conditions.contains(" true ") { Err(conditions) } else { Ok(()) }
        })
        .await;
        let took = deleted.elapsed();
        gateway.settled(2).await;
        let result = load.stop().await;
        report(&format!(
            "a pod of the gateway served for {took:.1?} while it was terminating; {} requests \
             answered, {} failed",
            result.answered, result.failed
        ));
        assert!(took >= STAYS_READY, "{took:?}");
        result.assert_flawless();
    });
}

/// Whether the endpoint of a gateway's pod is ready, serving and terminating; empty if there is none.
fn conditions(pod: &str) -> String {
    let template = "jsonpath={range .items[*].endpoints[*]}{.targetRef.name} {.conditions.ready} \
                    {.conditions.serving} {.conditions.terminating}{\"\\n\"}{end}";
    let selector = "--selector=kubernetes.io/service-name=portcullis";
    let namespace = ["--namespace", NAMESPACE];
    let slices = kubectl(
        &[&["get", "endpointslices", selector, "--output", template], &namespace[..]].concat(),
    );
    let endpoint = slices.lines().find_map(|line| line.strip_prefix(&format!("{pod} ")));
    endpoint.unwrap_or_default().to_owned()
}
