//! What people and Kubernetes change all day: services come and go, pods multiply, turn unready and
//! recover, environments are renamed.

use std::collections::BTreeSet;
use std::time::Instant;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::PostParams;

use crate::client::{self, Connection, Version, WHO};
use crate::environment::{Environment, PODS, SOON};
use crate::gateway::{HTTPS, ZONE};
use crate::load::{Load, Plan};
use crate::node::{Cluster, Company, eventually, in_cluster, kubectl, report};

const MANY: usize = 500;

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_service_and_its_pods_appear_and_the_url_answers() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "appear");
        environment.answers_with("web", 404).await;
        environment.deploy("web", 2);
        environment.answers("web").await;
        let host = environment.host("web");
        for version in [Version::Http1, Version::Http2] {
            let answer =
                client::get(cluster.gateway, cluster.gateway.https, version, &host, "/echo")
                    .await
                    .expect("an answer");
            assert_eq!(answer.status, 200, "{answer:?}");
        }
        kubectl(&["delete", "service/web", "--namespace", &environment.name]);
        environment.answers_with("web", 404).await;
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_service_without_ready_pods_answers_503() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "idle");
        environment.serve("web", 1).await;
        environment.scale("web", 0);
        environment.answers_with("web", 503).await;
        environment.scale("web", 1);
        environment.answers("web").await;
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn every_pod_gets_requests_after_scaling_up_and_only_the_last_after_scaling_down() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "scale");
        environment.serve("web", 1).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        environment.scale("web", 4);
        environment.rolled_out("web");
        answered_by_exactly_the_ready(cluster, &environment).await;
        environment.scale("web", 1);
        eventually("one pod is left", PODS, || async { left(&environment, 1) }).await;
        answered_by_exactly_the_ready(cluster, &environment).await;
        load.stop().await.assert_flawless();
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_not_ready_pod_gets_no_new_request_until_it_recovers() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "probe");
        environment.serve("web", 2).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        let pod = environment.pods("web").swap_remove(0);
        switch_readiness(&pod.address, "off");
        eventually("the probe fails", PODS, || async { left(&environment, 1) }).await;
        answered_by_exactly_the_ready(cluster, &environment).await;
        switch_readiness(&pod.address, "on");
        eventually("the probe succeeds", PODS, || async { left(&environment, 2) }).await;
        answered_by_exactly_the_ready(cluster, &environment).await;
        load.stop().await.assert_flawless();
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_renamed_environment_moves_to_its_new_name_and_an_unlabelled_one_is_gone() {
    in_cluster(Company::Welcome, async |cluster| {
        let environment = Environment::open(cluster, "label");
        environment.serve("web", 1).await;
        let (old, new) =
            (environment.host("web"), format!("web--{}-renamed.{ZONE}", environment.name));
        let label = |label: &str| {
            kubectl(&["label", "--overwrite", &format!("namespace/{}", environment.name), label])
        };
        label(&format!("portcullis.dev/environment={}-renamed", environment.name));
        host_answers(cluster, &new, 200).await;
        host_answers(cluster, &old, 404).await;
        label("portcullis.dev/environment-");
        host_answers(cluster, &new, 404).await;
        label(&format!("portcullis.dev/environment={}", environment.name));
        host_answers(cluster, &old, 200).await;
    });
}

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn five_hundred_services_at_once_all_answer() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "many");
        environment.serve("web", 1).await;
        let load = Load::start(cluster.gateway, Plan::light(&environment.host("web")));
        let services: Api<Service> = Api::namespaced(cluster.kube.clone(), &environment.name);
        let began = Instant::now();
        let created = futures::stream::iter(0..MANY).map(Ok).try_for_each_concurrent(16, |number| {
            let services = services.clone();
            async move { services.create(&PostParams::default(), &service(number)).await.map(drop) }
        });
        created.await.expect("all Services are accepted");
        let created = began.elapsed();
        futures::stream::iter(0..MANY)
            .for_each_concurrent(8, |number| {
                let host = environment.host(&format!("web-{number}"));
                async move { host_answers(cluster, &host, 200).await }
            })
            .await;
        report(&format!(
            "{MANY} Services were made in {created:?}, and all answered after {:?}",
            began.elapsed()
        ));
        load.stop().await.assert_flawless();
    });
}

fn service(number: usize) -> Service {
    let service = serde_json::json!({
        "metadata": {"name": format!("web-{number}")},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    serde_json::from_value(service).expect("a Service")
}

async fn host_answers(cluster: &Cluster, host: &str, status: u16) {
    eventually(&format!("{host} answers {status}"), 2 * SOON, || async {
        match client::get(cluster.gateway, cluster.gateway.https, Version::Http1, host, "/").await {
            Ok(answer) if answer.status == status => Ok(()),
            Ok(answer) => Err(format!("it answered {}", answer.status)),
            Err(error) => Err(error.to_string()),
        }
    })
    .await;
}

fn left(environment: &Environment, count: usize) -> Result<(), String> {
    let ready = environment.ready_pods("web");
    if ready.len() == count { Ok(()) } else { Err(format!("{ready:?} are ready")) }
}

/// Every replica answers by the pods that are ready now, by all of them, and by no other.
async fn answered_by_exactly_the_ready(cluster: &Cluster, environment: &Environment) {
    const SAMPLE: usize = 60;
    let ready = environment.ready_pods("web");
    let host = environment.host("web");
    for replica in cluster.gateway.replicas() {
        eventually(&format!("{} goes by {ready:?}", replica.name), SOON, || async {
            let mut connection =
                Connection::open(cluster.gateway, replica.port(HTTPS), Version::Http2, &host)
                    .await
                    .map_err(|error| error.to_string())?;
            let mut pods = BTreeSet::new();
            for _ in 0..SAMPLE {
                pods.insert(connection.get(WHO).await.map_err(|error| error.to_string())?.pod());
            }
            if pods == ready { Ok(()) } else { Err(format!("{pods:?} answered")) }
        })
        .await;
    }
}

fn switch_readiness(address: &str, switch: &str) {
    let mut curl = std::process::Command::new("curl");
    curl.args([
        "--silent",
        "--fail",
        "--max-time",
        "5",
        "--request",
        "POST",
        &format!("http://{address}:8080/ready/{switch}"),
    ]);
    crate::node::output(&mut curl);
}
