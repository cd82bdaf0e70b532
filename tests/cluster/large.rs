//! A cluster with 1,000 Services: how long a gateway takes from its start until it is ready, and
//! how much memory it has when nothing happens.
//!
//! The goals, 1 s and 30 MB, are those of the optimized program on a machine of its own. That of the
//! tests is hardly optimized, and shares two processors with all of Kubernetes: its bounds are wider,
//! and what is measured is reported.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::environment::{Environment, PODS, SOON};
use crate::gateway::NAMESPACE;
use crate::node::{Cluster, Company, eventually, in_cluster, kubectl, report};
use crate::pods::Pod;

const SERVICES: usize = 1_000;
/// How many objects are created at the same time.
const CREATED_AT_ONCE: usize = 16;
/// From the start of the process to ready.
const READY: Duration = Duration::from_secs(5);
/// Resident when idle: what the pod requests.
const MEMORY: u64 = 64 << 20; // bytes

#[test]
#[ignore = "needs the node that tests/cluster/test starts"]
fn a_gateway_starts_fast_in_a_large_cluster_and_stays_small() {
    in_cluster(Company::Unwelcome, async |cluster| {
        let environment = Environment::open(cluster, "large");
        environment.serve("web", 1).await;
        let address = environment.pods("web").swap_remove(0).address;
        create(cluster, &environment, &address).await;
        kubectl(&["rollout", "restart", "deployment/portcullis", "--namespace", NAMESPACE]);
        let timeout = ["deployment/portcullis", "--namespace", NAMESPACE, "--timeout=180s"];
        kubectl(&[&["rollout", "status"], &timeout[..]].concat());
        cluster.gateway.settled(2).await;
        environment.answers(&name(SERVICES - 1)).await;

        for replica in cluster.gateway.replicas() {
            let process = process(&replica);
            let took = ready(&replica).duration_since(started(process)).expect("an order");
            assert!(took < READY, "{took:?}");
            // The allocator returns what it does not use after seconds.
            eventually("an idle gateway is small", SOON, || async {
                let now = memory(process, "VmRSS");
                if now < MEMORY { Ok(()) } else { Err(format!("{now} bytes")) }
            })
            .await;
            let [all, own, program] =
                ["VmRSS", "RssAnon", "RssFile"].map(|field| memory(process, field) / 1000);
            report(&format!(
                "{SERVICES} Services: ready {took:.2?} after the start, {all} kB resident: {own} kB \
                 of its own, {program} kB of the program"
            ));
        }
        // The next test has a cluster of the usual size.
        let patience = format!("--timeout={}s", PODS.as_secs());
        kubectl(&["delete", "namespace", &environment.name, &patience]);
    });
}

fn name(number: usize) -> String {
    format!("service-{number}")
}

/// Creates Services without a selector, each with an EndpointSlice of two endpoints.
async fn create(cluster: &Cluster, environment: &Environment, address: &str) {
    let services: Api<Service> = Api::namespaced(cluster.kube.clone(), &environment.name);
    let slices: Api<EndpointSlice> = Api::namespaced(cluster.kube.clone(), &environment.name);
    let (services, slices) = (&services, &slices);
    let create = |number: usize| async move {
        let name = name(number);
        let service = json!({
            "metadata": { "name": name },
            "spec": { "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] },
        });
        let slice = json!({
            "metadata": { "name": name, "labels": { "kubernetes.io/service-name": name } },
            "addressType": "IPv4",
            "ports": [{ "name": "http", "port": 8080 }],
            "endpoints": [
                { "addresses": [address], "conditions": { "ready": true } },
                { "addresses": ["192.0.2.1"], "conditions": { "ready": false } },
            ],
        });
        let service = serde_json::from_value(service).expect("a Service");
        let slice = serde_json::from_value(slice).expect("an EndpointSlice");
        services.create(&PostParams::default(), &service).await.expect("it is created");
        slices.create(&PostParams::default(), &slice).await.expect("it is created");
    };
    let all = futures::stream::iter((0..SERVICES).map(create));
    all.buffer_unordered(CREATED_AT_ONCE).collect::<()>().await;
}

/// The process of a replica. Every container has its pod's name as HOSTNAME.
fn process(replica: &Pod) -> u32 {
    let variable = format!("HOSTNAME={}", replica.name);
    let has = |process: &u32| {
        let read = |file: &str| fs::read(format!("/proc/{process}/{file}")).unwrap_or_default();
        read("comm") == b"portcullis\n"
            && read("environ").split(|byte| *byte == 0).any(|one| one == variable.as_bytes())
    };
    let processes = fs::read_dir("/proc").expect("processes").filter_map(|entry| {
        entry.expect("a process").file_name().to_str().and_then(|name| name.parse().ok())
    });
    processes.into_iter().find(has).unwrap_or_else(|| panic!("no process of {}", replica.name))
}

/// When a process started, by the kernel.
fn started(process: u32) -> SystemTime {
    /// Of a second, in what the kernel shows of a process (`USER_HZ`).
    const TICKS: u64 = 100;
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).expect("the process runs");
    // The second field is a name that may have blanks; the start is the 22nd.
    let (_, fields) = stat.rsplit_once(") ").expect("fields");
    let ticks = fields.split(' ').nth(19).and_then(|field| field.parse::<u64>().ok());
    let after_boot = Duration::from_millis(ticks.expect("its start") * 1000 / TICKS);
    let uptime = fs::read_to_string("/proc/uptime").expect("the uptime");
    let uptime = uptime.split(' ').next().and_then(|seconds| seconds.parse().ok());
    let uptime = Duration::from_secs_f64(uptime.expect("seconds"));
    SystemTime::now() - (uptime - after_boot)
}

/// When a replica said that it is ready, by the kubelet's time of its log.
fn ready(replica: &Pod) -> SystemTime {
    let log =
        kubectl(&["logs", &replica.name, "--namespace", NAMESPACE, "--timestamps", "--tail=-1"]);
    let line = log.lines().find(|line| line.contains(r#""message":"ready""#));
    let line = line.unwrap_or_else(|| panic!("{} is not ready: {log}", replica.name));
    let time = line.split(' ').next().expect("a time");
    let time: Timestamp = time.parse().expect("a time of RFC 3339");
    let nanoseconds = u64::try_from(time.as_nanosecond()).expect("after 1970");
    UNIX_EPOCH + Duration::from_nanos(nanoseconds)
}

/// A size that the kernel shows of a process, in bytes.
fn memory(process: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(&format!("{field}:")));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("a size") * 1024
}
