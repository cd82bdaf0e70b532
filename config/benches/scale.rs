//! The cost of 10,000 Services with 100,000 endpoints: reading, translation, one change, memory.
//!
//! `cargo bench -p portcullis-config`. It only prints figures. Times are CPU time of this thread,
//! which the kernel counts in steps of a few milliseconds.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a benchmark fails by a panic"
)]
#![allow(clippy::print_stdout, reason = "it prints figures")]
#![allow(missing_docs, reason = "a program, not a library")]

use std::fmt::Write;
use std::fs;
use std::sync::Arc;
use std::time::Duration;

use portcullis_config::resources::{Change, Object, Resources};
use portcullis_config::settings::Settings;
use portcullis_config::snapshot::endpoints::EndpointCells;
use portcullis_config::source::Secrets;
use portcullis_config::source::manifest::{Manifests, read_manifests};
use portcullis_config::translate::{endpoint_set, translate_reusing};

const NAMESPACES: usize = 100;
const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
const CHANGES: usize = 1_000;

fn main() {
    let settings =
        Settings::parse("bench.yaml".as_ref(), b"zone: example.com\nsource: {kubernetes: {}}\n")
            .expect("the settings are right");
    let at_start = resident();
    let files: Vec<String> = (0..NAMESPACES).map(manifests).collect();
    let (objects, reading) = timed(|| files.iter().flat_map(|text| read(text)).collect::<Vec<_>>());
    let octets: usize = files.iter().map(String::len).sum();
    println!(
        "reading manifests     {reading:>12.1?}  {:.1} MB of YAML in {NAMESPACES} files, {} \
         objects",
        octets as f64 / 1e6,
        objects.len()
    );
    drop(files);

    let before = resident();
    let mut resources = Resources::default();
    let ((), applying) = timed(|| {
        objects.into_iter().for_each(|object| drop(resources.apply(Change::Upsert(object))))
    });
    println!("into the store        {applying:>12.1?}");

    let mut cells = EndpointCells::default();
    let (translation, first) = timed(|| translate_reusing(&settings, &resources, &mut cells));
    cells.commit();
    println!(
        "first translation     {first:>12.1?}  {} hosts, {} problems",
        hosts(&translation.snapshot),
        translation.problems.len()
    );
    let repeated = median((0..5).map(|_| {
        let (_, time) = timed(|| translate_reusing(&settings, &resources, &mut cells));
        cells.commit();
        time
    }));
    println!("repeated translation  {repeated:>12.1?}");

    let changed: Vec<Object> =
        (0..CHANGES).flat_map(|turn| read(&slice(turn * 7 % SERVICES, Some(turn)))).collect();
    let ((), all) =
        timed(|| changed.into_iter().for_each(|object| change(&mut resources, &cells, object)));
    println!(
        "one endpoint change   {:>12.1?}  mean of {CHANGES}",
        all / u32::try_from(CHANGES).unwrap_or(1)
    );
    println!(
        "resident              {:>9.1} MB  (at start {:.1} MB, before the store {:.1} MB)",
        mb(resident()),
        mb(at_start),
        mb(before)
    );
}

/// Applies a change of a pod's readiness, from the event to the swapped set.
fn change(resources: &mut Resources, cells: &EndpointCells, object: Object) {
    for service in resources.apply(Change::Upsert(object)).slices {
        for cell in cells.of_service(&service.namespace, &service.name) {
            assert!(cell.update(endpoint_set(resources, cell.key())), "the set is unchanged");
        }
    }
}

fn read(text: &str) -> Vec<Object> {
    let Manifests { objects, problems, .. } =
        read_manifests(&Arc::new("bench.yaml".into()), text.as_bytes(), &Secrets::default());
    assert!(problems.is_empty(), "{:?}", problems.first());
    objects
}

/// A Namespace with its Services and their slices.
fn manifests(namespace: usize) -> String {
    let mut text = format!(
        "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: team-{namespace}\n  labels: \
         {{portcullis.dev/environment: team-{namespace}}}\n  annotations: \
         {{portcullis.dev/expose: all}}\n---\n"
    );
    for service in (namespace..SERVICES).step_by(NAMESPACES) {
        let _ = write!(
            text,
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\n  namespace: \
             team-{namespace}\nspec:\n  ports:\n  - name: http\n    port: 80\n---\n{}---\n",
            slice(service, None)
        );
    }
    text
}

/// The slice of a Service, with one pod unready, which depends on `turn`.
fn slice(service: usize, turn: Option<usize>) -> String {
    let mut text = format!(
        "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
         service-{service}-x\n  namespace: team-{}\n  labels: {{kubernetes.io/service-name: \
         service-{service}}}\naddressType: IPv4\nports:\n- name: http\n  port: 8080\nendpoints:\n",
        service % NAMESPACES
    );
    for endpoint in 0..ENDPOINTS {
        let ready = turn.is_none_or(|turn| endpoint != turn % ENDPOINTS);
        let _ = write!(
            text,
            "- addresses: [10.{}.{}.{}]\n  conditions: {{ready: {ready}}}\n  zone: zone-{}\n",
            service / 256 % 256,
            service % 256,
            endpoint + 1,
            endpoint % 3
        );
    }
    text
}

fn hosts(snapshot: &portcullis_config::snapshot::Snapshot) -> usize {
    snapshot.listeners.first().map_or(0, |listener| listener.hosts.len())
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let before = cpu();
    let value = work();
    (value, cpu().saturating_sub(before))
}

/// CPU time of this thread so far (`man 5 proc`, schedstat).
fn cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("a Linux machine");
    Duration::from_nanos(
        text.split(' ').next().and_then(|number| number.parse().ok()).expect("a number first"),
    )
}

/// Resident memory in bytes.
fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").expect("a Linux machine");
    text.split(' ').nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a second number")
        * 4096
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

fn median(times: impl Iterator<Item = Duration>) -> Duration {
    let mut times: Vec<Duration> = times.collect();
    times.sort();
    times[times.len() / 2]
}
