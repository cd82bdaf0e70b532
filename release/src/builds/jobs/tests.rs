//! A builder and a pod without a cluster between them, and pods that lie.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::response::IntoResponse;
use http::{Method, header};
use kube::Config;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::net::TcpListener;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use super::frames::{Kind, Outcome, PART};
use super::*;
use crate::builds::log::Mask;
use crate::builds::oci::{Files, InvalidLayout};
use crate::registry::Upload;

const LIMITS: Limits =
    Limits { time: Duration::from_secs(60), memory: 1 << 30, disk: 64 << 20, processes: 100 };

/// How a build ended for its builder.
struct Ended {
    outcome: Result<(Result<Files, InvalidLayout>, bool), Broken>,
    folder: TempDir,
    log: String,
}

// === impl Ended ===

impl Ended {
    fn lost(&self) -> &str {
        match &self.outcome {
            Err(Broken::Lost(reason)) => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn image(&self) -> Upload {
        match &self.outcome {
            Ok((Ok(files), true)) => files.image("https://r.test/x", "1").await.unwrap(),
            other => panic!("{other:?}: {}", self.log),
        }
    }
}

type Stream = tokio::io::DuplexStream;

/// Lets a builder send these files, and base images of a layout, to a pod.
async fn build(
    files: &[(&str, &str)],
    limits: &Limits,
    base: Option<base::Archive>,
    arguments: &[&str],
    pod: impl AsyncFnOnce(ReadHalf<Stream>, WriteHalf<Stream>),
) -> Ended {
    let folder = tempfile::tempdir().unwrap();
    let blobs = folder.path().join("blobs");
    std::fs::create_dir(&blobs).unwrap();
    let mut archive = Command::new("tar");
    archive.args(["--create", "--file=-", "--directory"]).arg(folder.path());
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
        archive.arg(name);
    }
    let archive = archive.stdin(Stdio::null()).output().unwrap().stdout;
    let arguments = ["dockerfile"].iter().chain(arguments).map(|it| (*it).to_owned());
    let arguments: Vec<String> = arguments.collect();
    let path = folder.path().join("log");
    let mut log = Log::open(&path, 1 << 20, Mask::default()).await.unwrap();
    let (here, there) = tokio::io::duplex(BUFFER);
    let (from_pod, to_pod) = tokio::io::split(here);
    let (input, output) = tokio::io::split(there);
    let sent =
        Sent { arguments: &arguments, limits, mirrors: &[], base, files: archive.as_slice() };
    let max = limits.disk;
    let receive = async |image| Files::receive(image, &blobs, max).await;
    let conversation = converse(from_pod, to_pod, sent, &mut log, receive);
    let (outcome, ()) = tokio::join!(conversation, pod(input, output));
    log.close().await;
    let log = String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
    Ended { outcome, folder, log }
}

/// A pod on this machine.
async fn sandbox(base: &Path, mut input: ReadHalf<Stream>, output: WriteHalf<Stream>) {
    pod::serve(&mut input, output, base).await.unwrap();
}

/// A pod that sends these frames, and then is silent until the builder has gone.
async fn lie(
    mut input: ReadHalf<Stream>,
    mut output: WriteHalf<Stream>,
    sent: Vec<(Kind, Vec<u8>)>,
) {
    for (kind, content) in sent {
        if frames::write(&mut output, kind, &content).await.is_err() {
            return;
        }
    }
    output.shutdown().await.unwrap();
    while let Ok(Some(_)) = frames::read(&mut input).await {}
}

#[tokio::test]
async fn an_image_is_built_in_a_pod_of_the_files_and_base_images_that_were_sent() {
    let base = tempfile::tempdir().unwrap();
    let files = [("Dockerfile", "FROM scratch\nCOPY file /file\n"), ("file", "text")];
    let arguments = ["--file=/work/Dockerfile", "/work"];
    let pod = async |input, output| sandbox(base.path(), input, output).await;
    let first = build(&files, &LIMITS, None, &arguments, pod).await;
    assert_eq!(first.image().await.blobs.len(), 2);
    assert!(first.log.contains("COPY file /file"), "{}", first.log);

    // It is the base image of the next one.
    let Upload { blobs, manifest, digest } = first.image().await;
    let layout = first.folder.path().join("layout");
    let folder = layout.join("blobs/sha256");
    std::fs::create_dir_all(&folder).unwrap();
    for blob in &blobs {
        let name = blob.digest.trim_start_matches("sha256:");
        std::fs::copy(&blob.path, folder.join(name)).unwrap();
    }
    std::fs::write(folder.join(digest.trim_start_matches("sha256:")), &manifest).unwrap();
    let name = json!({ "org.opencontainers.image.ref.name": "r.test/first:1" });
    let index = json!({ "schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": digest,
        "size": manifest.len(), "annotations": name }] });
    std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
    let version = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    std::fs::write(layout.join("oci-layout"), version).unwrap();
    let archive = base::Layout::read(&layout).unwrap().archive(LIMITS.disk).unwrap();
    let files = [("Dockerfile", "FROM r.test/first:1\nCOPY other /other\n"), ("other", "text")];
    let context = "--build-context=r.test/first:1=container-image://oci:/base:r.test/first:1";
    // Users of the sandbox have to be able to reach it.
    let base = tempfile::tempdir_in("/var/tmp").unwrap();
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(base.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let pod = async |input, output| sandbox(base.path(), input, output).await;
    let arguments = [context, arguments[0], arguments[1]];
    let second = build(&files, &LIMITS, archive, &arguments, pod).await;
    assert_eq!(second.image().await.blobs.len(), 3, "{}", second.log);
}

#[tokio::test]
async fn a_build_that_fails_or_takes_too_long_is_reported_as_in_a_sandbox() {
    let base = tempfile::tempdir().unwrap();
    let arguments = ["--file=/work/Dockerfile", "/work"];
    let pod = async |input, output| sandbox(base.path(), input, output).await;
    let files = [("Dockerfile", "FROM scratch\nCOPY absent /file\n")];
    let failed = build(&files, &LIMITS, None, &arguments, pod).await;
    assert!(
        matches!(failed.outcome, Ok((Err(InvalidLayout::Nothing), false))),
        "{:?}",
        failed.outcome
    );
    assert!(failed.log.contains("absent"), "{}", failed.log);
    let limits = Limits { time: Duration::from_secs(1), ..LIMITS };
    // Its log is read from a pipe that no one writes to.
    let files = [("Dockerfile", "FROM scratch\nCOPY Dockerfile /x\n"), ("file", "text")];
    let pod = async |input: ReadHalf<Stream>, output: WriteHalf<Stream>| {
        let outcome = serde_json::to_vec(&Outcome::Late).unwrap();
        lie(input, output, vec![(Kind::Outcome, outcome)]).await;
    };
    let late = build(&files, &limits, None, &arguments, pod).await;
    assert!(matches!(late.outcome, Err(Broken::Sandbox(SandboxError::Late(_)))));
}

/// What a pod without base images sends, what it gets, and how it ends.
fn start_pod() -> (ReadHalf<Stream>, WriteHalf<Stream>, JoinHandle<std::io::Result<()>>) {
    let (here, there) = tokio::io::duplex(BUFFER);
    let (mut input, output) = tokio::io::split(there);
    let serve = async move { pod::serve(&mut input, output, Path::new("/base")).await };
    let (from_pod, to_pod) = tokio::io::split(here);
    (from_pod, to_pod, tokio::spawn(serve))
}

#[tokio::test]
async fn a_pod_whose_builder_is_lost_builds_no_longer() {
    let (mut from_pod, mut to_pod, served) = start_pod();
    let order = frames::Order::new(vec!["/work".to_owned()], &LIMITS, Vec::new(), false, 1000);
    frames::write_document(&mut to_pod, Kind::Order, &order).await.unwrap();
    // The sandbox waits for the rest of the archive.
    frames::write(&mut to_pod, Kind::Files, &[b'x'; 100]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    to_pod.shutdown().await.unwrap();
    let lost = timeout(Duration::from_secs(10), served).await.unwrap().unwrap();
    assert!(lost.is_err());
    while let Ok(Some((kind, _))) = frames::read(&mut from_pod).await {
        assert_ne!(kind, Kind::Outcome);
    }
}

#[tokio::test]
async fn a_build_in_a_pod_reaches_the_mirrors_of_its_order_by_the_network_of_the_pod() {
    let mirror = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = mirror.local_addr().unwrap().to_string();
    let router = Router::new().fallback(async || "mirrored");
    tokio::spawn(async move { axum::serve(mirror, router).await });
    let script = format!(
        "for it in {host} evil.test; do exec 3<> /dev/tcp/127.0.0.1/3128; \
         printf \"GET http://$it/ HTTP/1.1\\r\\nConnection: close\\r\\n\\r\\n\" >&3; cat <&3; echo; done; \
         printf unfinished; exit 1"
    );
    let (mut from_pod, mut to_pod, served) = start_pod();
    let arguments = ["command", "", "out", "bash", "-c", &script].map(str::to_owned).to_vec();
    let mirrors = vec![host.parse().unwrap()];
    let order = frames::Order::new(arguments, &LIMITS, mirrors, false, 100_000);
    frames::write_document(&mut to_pod, Kind::Order, &order).await.unwrap();
    let empty = [0; 1024];
    frames::write(&mut to_pod, Kind::Files, &empty).await.unwrap();
    frames::write(&mut to_pod, Kind::Files, &[]).await.unwrap();
    let mut log = Vec::new();
    loop {
        match frames::read(&mut from_pod).await.unwrap().unwrap() {
            (Kind::Log, part) => log.extend_from_slice(&part),
            (Kind::Outcome, _) => break,
            _ => {}
        }
    }
    served.await.unwrap().unwrap();
    let log = String::from_utf8(log).unwrap();
    assert!(log.contains("mirrored") && log.contains("HTTP/1.1 403"), "{log}");
    assert!(log.contains("--- mirrors: evil.test:80 is not one of"), "{log}");
}

#[tokio::test]
async fn of_a_log_that_is_too_long_the_beginning_and_the_end_are_sent() {
    let (mut from_pod, mut to_pod, served) = start_pod();
    // A Dockerfile whose error message has all of it.
    let folder = tempfile::tempdir().unwrap();
    let lines = (0..2000).map(|line| format!("LABEL a{line}=b\n")).collect::<String>();
    let text = format!("FROM scratch\n{lines}COPY absent /x\n");
    std::fs::write(folder.path().join("Dockerfile"), text).unwrap();
    let mut archive = Command::new("tar");
    archive.args(["-cf-", "-C"]).arg(folder.path()).arg("Dockerfile");
    let archive = archive.output().unwrap().stdout;
    let order = frames::Order::new(
        ["dockerfile", "--file=/work/Dockerfile", "/work"].map(str::to_owned).to_vec(),
        &LIMITS,
        Vec::new(),
        false,
        1000,
    );
    frames::write_document(&mut to_pod, Kind::Order, &order).await.unwrap();
    for part in archive.chunks(PART).chain([&[][..]]) {
        frames::write(&mut to_pod, Kind::Files, part).await.unwrap();
    }
    let mut log = Vec::new();
    while let Ok(Some((kind, content))) = frames::read(&mut from_pod).await {
        if kind == Kind::Log {
            log.extend_from_slice(&content);
        }
        if kind == Kind::Outcome {
            break;
        }
    }
    served.await.unwrap().unwrap();
    let log = String::from_utf8_lossy(&log);
    // Parts of 8 KiB are sent whole.
    assert!(log.len() < 1000 + 8192 + 4096, "{}", log.len());
    assert!(log.contains("LABEL a1=b") && log.contains("absent"), "{log}");
    assert!(!log.contains("LABEL a1500=b"), "{log}");
}

#[tokio::test]
async fn an_order_of_another_version_is_a_failure_to_set_up() {
    let (mut to_pod, mut input) = tokio::io::duplex(BUFFER);
    let mut order =
        serde_json::to_value(frames::Order::new(Vec::new(), &LIMITS, Vec::new(), false, 1000))
            .unwrap();
    order["version"] = json!(frames::VERSION + 1);
    frames::write_document(&mut to_pod, Kind::Order, &order).await.unwrap();
    let mut output = Vec::new();
    pod::serve(&mut input, &mut output, Path::new("/base")).await.unwrap();
    let (kind, outcome) = frames::read(&mut output.as_slice()).await.unwrap().unwrap();
    let outcome: Outcome = serde_json::from_slice(&outcome).unwrap();
    assert_eq!(kind, Kind::Outcome);
    assert!(matches!(&outcome, Outcome::Setup(reason) if reason.contains("another version")));
}

#[tokio::test]
async fn what_a_pod_sends_is_bounded_and_read_once() {
    let success = serde_json::to_vec(&Outcome::Ended(true)).unwrap();
    let end = || (Kind::Outcome, success.clone());
    let image = |part: Vec<u8>| (Kind::Image, part);
    let told = async |sent: Vec<(Kind, Vec<u8>)>| {
        let pod = async |input, output| lie(input, output, sent).await;
        build(&[], &LIMITS, None, &[], pod).await
    };
    // Success without an image, or with something else in its place.
    let none = told(vec![end()]).await;
    assert!(matches!(none.outcome, Ok((Err(InvalidLayout::Nothing), true))));
    let other = told(vec![image(vec![b'x'; 2000]), image(Vec::new()), end()]).await;
    assert!(matches!(other.outcome, Ok((Err(InvalidLayout::Invalid(_)), _))));
    // An image without end: what is no archive is not read on.
    let endless = vec![image(vec![b'x'; PART]); 10_000];
    let endless = told(endless).await;
    assert!(matches!(endless.outcome, Ok((Err(InvalidLayout::Invalid(_)), false))));
    // An outcome is the last frame; a second one is not read.
    let failed = (Kind::Outcome, serde_json::to_vec(&Outcome::Ended(false)).unwrap());
    let twice = told(vec![image(Vec::new()), failed, end()]).await;
    assert!(matches!(twice.outcome, Ok((Err(InvalidLayout::Nothing), false))));
    // A log is bounded as any other one.
    let line = [vec![b'x'; 99], b"\n".to_vec()].concat().repeat(300);
    let mut flood = vec![(Kind::Log, line); 200];
    flood.push(end());
    let flooded = told(flood).await;
    assert!(flooded.log.len() <= (1 << 20) + 200, "{}", flooded.log.len());
    for (sent, reason) in [
        (vec![image(Vec::new()), image(b"x".to_vec())], "a second image"),
        (vec![(Kind::Files, Vec::new())], "an unexpected frame"),
        (vec![(Kind::Order, b"{}".to_vec())], "an unexpected frame"),
        (vec![(Kind::Outcome, b"{\"ended\":1}".to_vec())], "its outcome"),
        (vec![(Kind::Log, b"x".to_vec())], "it was closed"),
        (vec![], "it was closed"),
    ] {
        let ended = told(sent).await;
        assert!(ended.lost().contains(reason), "{reason}: {}", ended.lost());
    }
}

/// An API server with these pods of any Job, that records what is deleted.
async fn api_server(pods: Vec<Value>, jobs: Vec<Value>) -> (Client, Arc<Mutex<Vec<String>>>) {
    let deleted: Arc<Mutex<Vec<String>>> = Arc::default();
    let record = Arc::clone(&deleted);
    let answer = move |request: Request| {
        let (pods, jobs, record) = (pods.clone(), jobs.clone(), Arc::clone(&record));
        async move {
            let path = request.uri().path().to_owned();
            let list = |kind: &str, items| json!({ "kind": kind, "apiVersion": "v1", "metadata": {}, "items": items });
            let body = match *request.method() {
                Method::DELETE => {
                    record.lock().await.push(path.rsplit('/').next().unwrap().to_owned());
                    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success" })
                }
                Method::POST => {
                    let body = axum::body::to_bytes(request.into_body(), 1 << 20).await.unwrap();
                    let mut job: Value = serde_json::from_slice(&body).unwrap();
                    job["metadata"]["uid"] = json!("uid-1");
                    job
                }
                _ if path.ends_with("/jobs") => list("PartialObjectMetadataList", jobs),
                _ if path.ends_with("/pods") => list("PodList", pods),
                _ => list("EventList", Vec::new()),
            };
            ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, router).await });
    (Client::try_from(Config::new(url.parse().unwrap())).unwrap(), deleted)
}

fn pod(name: &str, owner: &str, status: &Value) -> Value {
    json!({ "metadata": { "name": name, "ownerReferences": [{ "apiVersion": "batch/v1",
        "kind": "Job", "name": "build", "uid": owner, "controller": true }] },
        "spec": { "containers": [] }, "status": status })
}

/// What a build with these pods fails with.
async fn failure(pods: Vec<Value>) -> (String, Arc<Mutex<Vec<String>>>) {
    failure_after(START, pods).await
}

/// The same, if a pod may take this long until it runs.
async fn failure_after(patience: Duration, pods: Vec<Value>) -> (String, Arc<Mutex<Vec<String>>>) {
    let job = json!({ "apiVersion": "batch/v1", "kind": "Job",
        "metadata": { "name": "build-left-over", "uid": "uid-0" } });
    let (client, deleted) = api_server(pods, vec![job]).await;
    let settings = json!({ "namespace": "builds", "image": "portcullis-builder:1" });
    let settings = serde_json::from_value(settings).unwrap();
    let jobs = Jobs { patience, ..Jobs::new(client, settings) };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let mut log = Log::open(&path, 1 << 20, Mask::default()).await.unwrap();
    let annotations = BTreeMap::new();
    let work = Work {
        annotations,
        arguments: &[],
        limits: &LIMITS,
        mirrors: &[],
        base: None,
        files: &b""[..],
    };
    let failed = jobs.run(work, &mut log, async |_| ()).await.unwrap_err();
    (failed.to_string(), deleted)
}

#[tokio::test]
async fn a_pod_that_is_of_no_or_of_two_jobs_is_not_reached_and_what_is_left_is_removed() {
    let running = json!({ "phase": "Running" });
    // One that the controller did not make is ignored; two that say that it did are no pod.
    let pods = vec![
        pod("other", "uid-2", &running),
        pod("one", "uid-1", &running),
        pod("two", "uid-1", &running),
    ];
    let (failed, deleted) = failure(pods).await;
    assert!(failed.contains("has more than one pod"), "{failed}");
    let mut found = Vec::new();
    for _ in 0..100 {
        found.clone_from(&*deleted.lock().await);
        if found.len() == 2 {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let [first, second] = found.as_slice() else { panic!("{found:?}") };
    assert_eq!(first, "build-left-over");
    assert!(second.starts_with("build-") && second.len() == 22, "{second}");
}

#[tokio::test]
async fn a_pod_that_ends_before_its_build_is_reported_with_its_cause() {
    let ended = json!({ "phase": "Failed", "containerStatuses": [{ "name": "build",
        "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": { "terminated": { "exitCode": 1 } } }] });
    let (failed, _) = failure(vec![pod("one", "uid-1", &ended)]).await;
    assert!(failed.contains("does not start: pod one, container build: it ended with exit code 1"));
}

#[tokio::test]
async fn a_pod_that_does_not_run_in_time_is_reported_with_what_it_waited_for() {
    let condition = json!({ "type": "PodScheduled", "status": "False", "message": "0/1 nodes" });
    let unscheduled = json!({ "phase": "Pending", "conditions": [condition] });
    let waiting = json!({ "reason": "ImagePullBackOff", "message": "no such image" });
    let unpulled = json!({ "phase": "Pending", "containerStatuses": [{ "name": "build",
        "ready": false, "restartCount": 0, "image": "", "imageID": "",
        "state": { "waiting": waiting } }] });
    for (status, reason) in [
        (unscheduled, "pod one is not scheduled: 0/1 nodes"),
        (unpulled, "pod one, container build: ImagePullBackOff: no such image"),
    ] {
        let (failed, _) = failure_after(POLL, vec![pod("one", "uid-1", &status)]).await;
        assert!(failed.contains(&format!("does not start: {reason}")), "{failed}");
    }
}

#[test]
fn a_pod_that_the_kernel_killed_had_too_much_memory() {
    let ended = |reason: &str| {
        let status = json!({ "phase": "Failed", "containerStatuses": [{ "name": "build",
            "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": { "terminated": { "exitCode": 137, "reason": reason } } }] });
        serde_json::from_value::<Pod>(pod("one", "uid-1", &status)).unwrap()
    };
    assert!(was_out_of_memory(&ended("OOMKilled")));
    assert!(!was_out_of_memory(&ended("Error")));
}
