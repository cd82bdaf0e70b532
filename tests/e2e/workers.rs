//! How the workers of a gateway share its connections.

use std::fs;

use serde_json::json;

use crate::harness::{Gateway, Raw, WEB, World, echo, eventually};

const WORKERS: usize = 2;
const CONNECTIONS: usize = 4;
/// Left to chance, all rounds are even once in 360 runs.
const ROUNDS: usize = 6;
const REQUESTS: usize = 100;
/// What the busiest worker may have of the CPU time: half, and what workers do besides.
const MOST: f64 = 0.68;

/// The CPU time of each worker so far, in nanoseconds.
fn spent(gateway: &Gateway) -> Vec<u64> {
    let tasks = fs::read_dir(format!("/proc/{}/task", gateway.id())).expect("threads");
    let of = |task: fs::DirEntry| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let time = fs::read_to_string(task.path().join("schedstat")).ok()?;
        let is_worker = name.starts_with("worker-");
        is_worker.then(|| time.split(' ').next()?.parse().ok()).flatten()
    };
    tasks.filter_map(|task| of(task.expect("a thread"))).collect()
}

#[tokio::test]
async fn few_connections_are_shared_equally() {
    let pod = echo("pod-1").await;
    let gateway =
        Gateway::of(World::web(&pod)).settings(json!({ "workers": WORKERS })).start().await;
    for round in 0..ROUNDS {
        let before = spent(&gateway);
        assert_eq!(before.len(), WORKERS);
        let mut clients = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut client = Raw::connect(gateway.http()).await;
            request(&mut client).await;
            clients.push(client);
        }
        for _ in 0..REQUESTS {
            for client in &mut clients {
                request(client).await;
            }
        }
        let used: Vec<u64> =
            spent(&gateway).iter().zip(&before).map(|(now, before)| now - before).collect();
        let most = used.iter().copied().max().expect("workers");
        #[expect(clippy::cast_precision_loss, reason = "a share")]
        let share = most as f64 / used.iter().sum::<u64>() as f64;
        assert!(share <= MOST, "round {round}: {used:?} ns");
        drop(clients);
        eventually("all connections are closed", async || {
            gateway.metric("portcullis_connections_open{listener=\"http\"").await == 0.
        })
        .await;
    }
}

async fn request(client: &mut Raw) {
    client.send(format!("GET / HTTP/1.1\r\nHost: {WEB}\r\n\r\n")).await;
    client.response().await.expect("a response");
}
