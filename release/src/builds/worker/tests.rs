use std::time::Duration;

use axum::Router;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::builds::followers::Followers;
use crate::builds::git::tests::mirror_of_images;
use crate::model::{CommitId, ServiceName};
use crate::registry::tests::{Server, image};
use crate::store::sql::SqlStore;
use crate::store::suite::by;
use crate::store::{BuildChange, BuildState};

/// A repository whose commit has the targets `api` and `web`, and a registry.
struct Shop {
    _folder: TempDir,
    registry: Server,
    store: Arc<SqlStore>,
    followers: Followers,
    commit: CommitId,
    settings: BuildSettings,
}

// === impl Shop ===

impl Shop {
    /// The registry answers a path by `answer`.
    async fn new(answer: impl Fn(&str) -> Response + Clone + Send + Sync + 'static) -> Self {
        Self::with(Server::start(move |path, _| answer(path)).await).await
    }

    async fn with(registry: Server) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let commit = mirror_of_images(&["api", "web"], &folder.path().join("shop.git"));
        let settings: BuildSettings = serde_json::from_value(json!({
            "folder": folder.path(),
            "images": format!("{}/{{service}}", registry.host),
            "repositories": [
                { "name": "shop", "url": "https://r.test/shop", "services": ["*"] },
            ],
        }))
        .unwrap();
        let store = SqlStore::open_file(&folder.path().join("releases.db")).await.unwrap();
        let followers = Followers::new(Some(&settings));
        Self { _folder: folder, registry, store: Arc::new(store), followers, commit, settings }
    }

    /// Records a build that runs.
    async fn begin(&self) -> Build {
        let shop = "shop".parse().unwrap();
        let record = async |change| {
            let changes = vec![change];
            let changed = self.store.record_schedule(&shop, json!({}), changes, by(1, ""));
            changed.await.unwrap().remove(0)
        };
        let commit = self.commit.clone();
        let build = record(BuildChange::Create { commit, is_requested: false }).await;
        let state = BuildState::Running;
        record(BuildChange::Advance { build, state, reason: None }).await
    }

    /// Records what became of a target with the inputs of the commit.
    async fn record(&self, build: &Build, service: &str, state: TargetState, image: &str) {
        let survey = self.follower().survey(&self.commit).await.unwrap();
        let is_it = |it: &&Surveyed| it.target.service.as_str() == service;
        let surveyed = survey.targets.iter().find(is_it).unwrap();
        let service: ServiceName = service.parse().unwrap();
        let target = BuildTarget {
            service: service.clone(),
            key: surveyed.key.to_string(),
            manifests: surveyed.manifests.to_string(),
            state,
            image: Some(image.to_owned()),
            release: (state == TargetState::Released).then_some(ReleaseId { service, number: 1 }),
            unchanged_since: None,
            problem: None,
            autopush: None,
            autopushed: None,
        };
        assert!(self.store.record_target(build, &target, Time(2)).await.unwrap());
    }

    fn follower(&self) -> &Follower {
        self.followers.get(&"shop".parse().unwrap()).unwrap()
    }

    async fn build(&self, build: &Build) -> Verdict {
        let store = Arc::<SqlStore>::clone(&self.store);
        let registries = Arc::new(self.registry.registries());
        let worker = Worker::new(store, registries, self.settings.clone(), None).unwrap();
        worker.build(build, self.follower()).await
    }

    async fn targets(&self, build: &Build) -> [BuildTarget; 2] {
        self.store.build_targets(&build.id).await.unwrap().try_into().unwrap()
    }
}

/// Nothing is there, and nothing is accepted.
fn rejecting(path: &str) -> Response {
    let is_upload = path.ends_with("/blobs/uploads/");
    let status = if is_upload { StatusCode::PAYLOAD_TOO_LARGE } else { StatusCode::NOT_FOUND };
    status.into_response()
}

#[tokio::test]
async fn an_image_that_was_lost_is_built_again_and_one_that_is_rejected_is_not() {
    let shop = Shop::new(rejecting).await;
    let build = shop.begin().await;
    let lost = format!("{}/api@sha256:{}", shop.registry.host, "0".repeat(64));
    shop.record(&build, "api", TargetState::Pushed, &lost).await;
    let first = shop.build(&build).await;
    assert!(matches!(&first, Verdict::Interrupted(reason) if reason.contains(&lost)), "{first:?}");
    let [api, web] = shop.targets(&build).await;
    assert_eq!((api.state, api.image), (TargetState::Building, None));
    // It does not keep the other one from being built.
    assert_eq!(web.state, TargetState::Failed, "{web:?}");
    assert!(web.problem.unwrap().ends_with("it returned status 413"));
    let second = shop.build(&build).await;
    assert!(matches!(&second, Verdict::Failed(reason) if reason.contains("413")), "{second:?}");
    let [api, _] = shop.targets(&build).await;
    assert_eq!(api.state, TargetState::Failed, "{api:?}");
    let log = shop.settings.folder.join(format!("logs/{}.log", build.id));
    let log = std::fs::read_to_string(log).unwrap();
    assert_eq!(log.matches("web: building").count(), 1, "{log}");
    assert_eq!(log.matches("api: building").count(), 1, "{log}");
}

#[tokio::test]
async fn an_image_is_unchanged_only_as_long_as_the_registry_has_it() {
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = Arc::clone(&is_lost);
    let shop = Shop::new(move |path| match path {
        path if path.contains("/manifests/") && !lost.load(Ordering::SeqCst) => image(),
        path => rejecting(path),
    })
    .await;
    let build = shop.begin().await;
    let registries = shop.registry.registries();
    for service in ["api", "web"] {
        let image = format!("{}/{service}:1", shop.registry.host);
        let image = registries.resolve(&image).await.unwrap();
        shop.record(&build, service, TargetState::Released, &image).await;
    }
    let next = shop.begin().await;
    let verdict = shop.build(&next).await;
    assert!(matches!(verdict, Verdict::Succeeded(None)), "{verdict:?}");
    let states = shop.targets(&next).await.map(|target| target.state);
    assert_eq!(states, [TargetState::Unchanged; 2]);
    is_lost.store(true, Ordering::SeqCst);
    let last = shop.begin().await;
    let verdict = shop.build(&last).await;
    assert!(matches!(&verdict, Verdict::Failed(reason) if reason.contains("413")), "{verdict:?}");
}

#[tokio::test]
async fn a_build_whose_time_the_registry_has_used_up_is_tried_again() {
    // It accepts requests, and responds to none.
    let router = Router::new().fallback(async || std::future::pending::<StatusCode>().await);
    let mut shop = Shop::with(Server::serve(router).await).await;
    shop.settings.max_time = Duration::from_secs(1);
    let build = shop.begin().await;
    let image = format!("{}/api@sha256:{}", shop.registry.host, "0".repeat(64));
    shop.record(&build, "api", TargetState::Pushed, &image).await;
    let verdict = shop.build(&build).await;
    let expected = "the build took longer than 4 s in all, and was stopped, while it waited for the \
                    registry";
    assert!(matches!(&verdict, Verdict::Interrupted(reason) if reason == expected), "{verdict:?}");
}

#[tokio::test]
async fn a_whole_build_has_a_bound() {
    let mut shop = Shop::new(rejecting).await;
    shop.settings.max_time = Duration::ZERO;
    let build = shop.begin().await;
    let verdict = shop.build(&build).await;
    let expected = "the build took longer than 0 s in all, and was stopped";
    assert!(matches!(&verdict, Verdict::Failed(reason) if reason == expected), "{verdict:?}");
}

#[tokio::test]
async fn what_an_earlier_attempt_pushed_counts_only_for_the_same_inputs() {
    let shop = Shop::new(rejecting).await;
    let build = shop.begin().await;
    let pushed = format!("{}/api@sha256:{}", shop.registry.host, "0".repeat(64));
    shop.record(&build, "api", TargetState::Pushed, &pushed).await;
    let mut api = shop.store.build_targets(&build.id).await.unwrap().remove(0);
    api.key = "0".repeat(64);
    assert!(shop.store.record_target(&build, &api, Time(3)).await.unwrap());
    let verdict = shop.build(&build).await;
    assert!(matches!(&verdict, Verdict::Failed(reason) if reason.contains("413")), "{verdict:?}");
    let log = shop.settings.folder.join(format!("logs/{}.log", build.id));
    let log = std::fs::read_to_string(log).unwrap();
    assert!(log.contains("api: building"), "{log}");
}
