//! How long it takes from an EndpointSlice's event to the first request that goes by it.

use std::time::{Duration, Instant};

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::api::{Patch, PatchParams, WatchEvent, WatchParams};
use tokio::sync::mpsc;

use crate::client::{Connection, Version, WHO};
use crate::environment::Environment;
use crate::gateway::HTTPS;
use crate::node::{self, Cluster, Company, in_cluster, report};

const CHANGES: usize = 150;
const LIMIT: Duration = Duration::from_millis(100);
/// What takes longer may take as many whole exchanges of a request as this, as late ones went in
/// the same run: on a machine that has no processor to spare, every step of either waits for one.
const EXCHANGES: u32 = 5;
/// The pause between two questions to a replica: what the measurement is coarse by.
const PAUSE: Duration = Duration::from_millis(1);

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_change_of_endpoints_is_routed_by_within_a_tenth_of_a_second() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "moving");
        environment.serve("base", 2).await;
        let [here, there] = &environment.pods("base")[..] else {
            panic!("two pods were asked for")
        };
        make_service(&environment, "moving");
        point(cluster, &environment, "moving", &here.address).await;
        environment.answers("moving").await;

        let mut events = events(cluster, &environment).await;
        let mut replicas = Vec::new();
        for replica in cluster.gateway.replicas() {
            let host = environment.host("moving");
            let connection =
                Connection::open(cluster.gateway, replica.port(HTTPS), Version::Http1, &host)
                    .await
                    .expect("a connection");
            replicas.push((connection, Vec::new()));
        }
        assert_eq!(replicas.len(), 2);
        let mut times = Vec::new();
        for change in 0..CHANGES {
            let pod = if change % 2 == 0 { there } else { here };
            let answered = futures::future::join_all(
                replicas
                    .iter_mut()
                    .map(|(replica, exchanges)| first_answer_of(replica, &pod.name, exchanges)),
            );
            let changed = async {
                point(cluster, &environment, "moving", &pod.address).await;
                loop {
                    let (at, address) = events.recv().await.expect("the watch goes on");
                    if address == pod.address {
                        return at;
                    }
                }
            };
            let (changed, answered) = tokio::join!(changed, answered);
            times.extend(
                answered.into_iter().map(|answered| answered.saturating_duration_since(changed)),
            );
        }
        let mut exchanges: Vec<_> =
            replicas.into_iter().flat_map(|(_, exchanges)| exchanges).collect();
        times.sort_unstable();
        exchanges.sort_unstable();
        let (late, exchange) = (percentile(&times, 99), percentile(&exchanges, 99));
        report(&format!(
            "from an EndpointSlice's event to the first request: median {:?}, p99 {late:?}, \
             longest {:?} of {}; exchanges meanwhile: median {:?}, p99 {exchange:?}",
            percentile(&times, 50),
            percentile(&times, 100),
            times.len(),
            percentile(&exchanges, 50),
        ));
        assert!(late < LIMIT.max(exchange * EXCHANGES), "p99 is {late:?}: {times:?}");
    });
}

/// A Service without a selector: its slices are written by hand.
pub(crate) fn make_service(environment: &Environment, service: &str) {
    let namespace = &environment.name;
    node::apply(&format!(
        r#"{{"apiVersion": "v1", "kind": "Service", "metadata": {{"name": "{service}", "namespace": "{namespace}"}},
            "spec": {{"ports": [{{"name": "http", "port": 80, "targetPort": 8080}}]}}}}"#
    ));
}

/// Has the Service's slice of one endpoint point at `address`.
pub(crate) async fn point(
    cluster: &Cluster,
    environment: &Environment,
    service: &str,
    address: &str,
) {
    let slice = serde_json::json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": format!("{service}-by-hand"), "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    });
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.kube.clone(), &environment.name);
    let params = PatchParams::apply("portcullis-tests").force();
    slices
        .patch(&format!("{service}-by-hand"), &params, &Patch::Apply(&slice))
        .await
        .expect("the slice is accepted");
}

/// When the slice's events came, and the address that each reported.
async fn events(cluster: &Cluster, environment: &Environment) -> mpsc::Receiver<(Instant, String)> {
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.kube.clone(), &environment.name);
    let params = WatchParams::default().fields("metadata.name=moving-by-hand").timeout(280);
    let mut stream = slices.watch(&params, "0").await.expect("a watch").boxed();
    let (sender, receiver) = mpsc::channel(2 * CHANGES);
    tokio::spawn(async move {
        while let Ok(Some(event)) = stream.try_next().await {
            let at = Instant::now();
            let (WatchEvent::Added(slice) | WatchEvent::Modified(slice)) = event else { continue };
            let address = slice
                .endpoints
                .into_iter()
                .flatten()
                .flat_map(|endpoint| endpoint.addresses)
                .next()
                .unwrap_or_default();
            if sender.send((at, address)).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Asks one replica until the pod of that name answers, and tells when that was; keeps how long
/// each exchange took.
async fn first_answer_of(
    replica: &mut Connection,
    pod: &str,
    exchanges: &mut Vec<Duration>,
) -> Instant {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let asked = Instant::now();
        let answer = replica.get(WHO).await.expect("an answer");
        let answered = Instant::now();
        exchanges.push(answered - asked);
        if answer.pod() == pod {
            return answered;
        }
        assert!(answered < deadline, "still answered by {}", answer.pod());
        tokio::time::sleep(PAUSE).await;
    }
}

/// That of `sorted`, which is not empty.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[(sorted.len() * percent).div_ceil(100) - 1]
}
