//! Weights and endpoints change all the time under load. No request is lost, and the last change
//! counts.

use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::api::{Patch, PatchParams};

use crate::client::{self, Version, WHO};
use crate::endpoints::{make_service, point};
use crate::environment::{Environment, SOON};
use crate::load::{Load, Plan, Work};
use crate::node::{self, Cluster, Company, eventually, in_cluster, report};

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn changes_of_weights_and_endpoints_lose_no_request() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "weights");
        environment.serve("web", 2).await;
        let pods = environment.pods("web");
        make_service(&environment, "web-canary");
        point(cluster, &environment, "web-canary", &pods[0].address).await;
        weigh(cluster, &environment, 0).await;
        let host = environment.host("web");
        let loads = [Version::Http1, Version::Http2].map(|version| {
            let (work, pause) = (Work::Get(version), Duration::from_millis(2));
            let plan = Plan { host: host.clone(), work, connections: 2, streams: 2, pause };
            Load::start(cluster.gateway, plan)
        });
        let changes = node::scale(300, 10_000);
        for change in 0..changes {
            if change % 2 == 0 {
                weigh(cluster, &environment, change % 101).await;
            } else {
                let pod = &pods[change as usize / 2 % 2];
                point(cluster, &environment, "web-canary", &pod.address).await;
            }
        }
        for load in loads {
            load.pass(50).await;
            let result = load.stop().await;
            report(&format!(
                "{} requests over {changes} changes, {} failed",
                result.answered, result.failed
            ));
            result.assert_flawless();
        }
        weigh(cluster, &environment, 100).await;
        point(cluster, &environment, "web-canary", &pods[1].address).await;
        all_answered_by(cluster, &host, &pods[1].name).await;
        point(cluster, &environment, "web-canary", &pods[0].address).await;
        all_answered_by(cluster, &host, &pods[0].name).await;
    });
}

/// Gives the canary a weight in percent.
async fn weigh(cluster: &Cluster, environment: &Environment, weight: u64) {
    let services: Api<Service> = Api::namespaced(cluster.kube.clone(), &environment.name);
    let annotations = serde_json::json!({
        "portcullis.dev/canary-of": "web",
        "portcullis.dev/canary-weight": weight.to_string(),
    });
    let patch = Patch::Merge(serde_json::json!({"metadata": {"annotations": annotations}}));
    services.patch("web-canary", &PatchParams::default(), &patch).await.expect("a patch");
}

/// Waits until one pod answers ten requests in a row.
async fn all_answered_by(cluster: &Cluster, host: &str, pod: &str) {
    let gateway = cluster.gateway;
    eventually(&format!("{pod} answers all"), SOON, || async {
        for _ in 0..10 {
            let answer = client::get(gateway, gateway.https, Version::Http1, host, WHO).await;
            let answer = answer.map_err(|error| error.to_string())?.pod();
            if answer != pod {
                return Err(format!("{answer} answered"));
            }
        }
        Ok(())
    })
    .await;
}
