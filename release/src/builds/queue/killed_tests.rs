//! A builder that is killed before and after each change of its record, and each call of the registry.
//! Whatever it had done, the next one makes one release of each image, and deploys each once.

use std::collections::BTreeMap;
use std::sync::Mutex as SyncMutex;

use axum::Router;
use axum::body::to_bytes;
use axum::extract::{Request, State as Shared};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use futures::future::BoxFuture;
use http::{Method, StatusCode, header};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::builds::buildah::{BuildError, Images, Query, Source};
use crate::builds::git::tests::mirror_of_images;
use crate::builds::log::Log;
use crate::builds::targets::Label;
use crate::registry::tests::Server;
use crate::registry::{Blob, OCI_CONFIG, OCI_IMAGE, Upload, sha256};
use crate::runner::tests::fuse::{Faulty, Fuse};
use crate::runner::tests::open;
use crate::state::State;
use crate::store::TargetState;

/// The images of the commit.
const SERVICES: [&str; 2] = ["api", "web"];
/// Longer than a build takes, with its second attempt.
const LONGEST: Duration = Duration::from_secs(120);
/// Builders that run at the same time: most of their time, they wait for the second attempt.
const AT_ONCE: usize = 16;

/// A registry: what was uploaded, by path.
#[derive(Clone)]
struct Registry {
    /// Burns before and after each call.
    fuse: Arc<SyncMutex<Option<Arc<Fuse>>>>,
    uploaded: Arc<SyncMutex<BTreeMap<String, Vec<u8>>>>,
}

// === impl Registry ===

impl Registry {
    async fn answer(Shared(registry): Shared<Self>, request: Request) -> Response {
        let fuse = registry.fuse.lock().unwrap().clone();
        if let Some(fuse) = &fuse {
            fuse.burn().await;
        }
        let response = registry.perform(request).await;
        if let Some(fuse) = &fuse {
            fuse.burn().await;
        }
        response
    }

    async fn perform(&self, request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap().to_vec();
        let path = parts.uri.path().to_owned();
        let query = parts.uri.query().unwrap_or_default();
        let digest = query.strip_prefix("digest=");
        let mut uploaded = self.uploaded.lock().unwrap();
        let created = |location: String| (StatusCode::CREATED, [(header::LOCATION, location)]);
        match parts.method {
            Method::POST => {
                let location = format!("{path}{}", uploaded.len());
                (StatusCode::ACCEPTED, [(header::LOCATION, location)]).into_response()
            }
            Method::PATCH => {
                uploaded.entry(path.clone()).or_default().extend(body);
                (StatusCode::ACCEPTED, [(header::LOCATION, path)]).into_response()
            }
            Method::PUT => match digest {
                Some(digest) => {
                    let blob = uploaded.remove(&path).unwrap_or_default();
                    let (repository, _) = path.split_once("/blobs/").unwrap();
                    let blob_path = format!("{repository}/blobs/{digest}");
                    uploaded.insert(blob_path.clone(), blob);
                    created(blob_path).into_response()
                }
                None => {
                    let (repository, _) = path.split_once("/manifests/").unwrap();
                    let by_digest = format!("{repository}/manifests/{}", sha256(&body));
                    uploaded.insert(by_digest, body.clone());
                    uploaded.insert(path.clone(), body);
                    created(path).into_response()
                }
            },
            _ => match uploaded.get(&path) {
                Some(found) => {
                    let kind = [(header::CONTENT_TYPE, OCI_IMAGE)];
                    (kind, found.clone()).into_response()
                }
                None => StatusCode::NOT_FOUND.into_response(),
            },
        }
    }

    /// The images of a service: their manifests, by digest.
    fn images(&self, service: &str) -> Vec<String> {
        let of = format!("/v2/{service}/manifests/sha256:");
        let uploaded = self.uploaded.lock().unwrap();
        uploaded.keys().filter(|path| path.starts_with(&of)).cloned().collect()
    }
}

/// Images of one file, which take no time.
struct Files;

impl Images for Files {
    fn build<'a>(
        &'a self,
        source: &'a Source<'a>,
        folder: &'a Path,
        _: &'a mut Log,
    ) -> BoxFuture<'a, Result<Upload, BuildError>> {
        let blob = |name: &str, text: String| {
            let (path, digest) = (folder.join(name), sha256(text.as_bytes()));
            std::fs::write(&path, &text).unwrap();
            Blob { digest, size: text.len() as u64, path }
        };
        let layer = blob("layer", format!("{} of {}", source.target.service, source.commit));
        let configuration = blob("configuration", json!({ "os": "linux" }).to_string());
        let described = |blob: &Blob, kind: &str| json!({ "mediaType": kind, "digest": blob.digest, "size": blob.size });
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_IMAGE,
            "config": described(&configuration, OCI_CONFIG),
            "layers": [described(&layer, "application/vnd.oci.image.layer.v1.tar")],
        });
        let manifest = manifest.to_string();
        let digest = sha256(manifest.as_bytes());
        let blobs = vec![configuration, layer];
        Box::pin(async move { Ok(Upload { blobs, manifest: manifest.into(), digest }) })
    }

    fn query<'a>(
        &'a self,
        _: &'a Query<'a>,
        _: &'a mut Log,
    ) -> BoxFuture<'a, Result<Vec<Label>, BuildError>> {
        Box::pin(async { panic!("no repository of these tests is a workspace of Bazel") })
    }
}

/// A commit with two images that was pushed, and the machine of its builder.
struct Machine {
    folder: TempDir,
    registry: Registry,
    server: Server,
    commit: CommitId,
}

// === impl Machine ===

impl Machine {
    async fn new() -> Self {
        let (fuse, uploaded) = (Arc::default(), Arc::default());
        let registry = Registry { fuse, uploaded };
        let router = Router::new().fallback(Registry::answer).with_state(registry.clone());
        let server = Server::serve(router).await;
        let folder = tempfile::tempdir().unwrap();
        let commit = mirror_of_images(&SERVICES, &folder.path().join("builds/shop.git"));
        Self { folder, registry, server, commit }
    }

    fn settings(&self) -> BuildSettings {
        serde_json::from_value(json!({
            "folder": self.folder.path().join("builds"),
            "images": format!("{}/{{service}}", self.server.host),
            "repositories": [{ "name": "shop", "url": "https://r.test/shop", "services": ["*"],
                "autopush": "staging" }],
        }))
        .unwrap()
    }

    /// Lets a builder with this store work until `store` has nothing to do for it any more.
    async fn build(&self, faulty: Arc<dyn BuildStore>, store: &dyn BuildStore) {
        let settings = self.settings();
        let followers = Arc::new(Followers::new(Some(&settings)));
        let registries = Arc::new(self.server.registries());
        let images = Box::new(Files);
        let worker = Worker::with(Arc::clone(&faulty), registries, settings.clone(), images);
        let worker = Some(worker.unwrap());
        let queue = Queue::with(faulty, followers, Some(&settings), worker).await.unwrap();
        // As after each fetch.
        let pushed = Event::Pushed(self.commit.clone());
        queue.apply(&"shop".parse().unwrap(), pushed, None, by()).await.unwrap();
        tokio::select! {
            () = queue.run() => {}
            () = is_done(store) => {}
        }
    }

    /// Lets a builder work that is killed at this point; `true` if it survived.
    async fn killed_at(&self, point: usize) -> bool {
        let fuse = Fuse::on_writes_after(point);
        *self.registry.fuse.lock().unwrap() = Some(Arc::clone(&fuse));
        let store = open(&self.folder.path().join("builds")).await;
        let inner: Arc<dyn BuildStore> = Arc::clone(&store) as _;
        let faulty = Arc::new(Faulty::new(inner, &fuse));
        let survived = tokio::select! {
            () = self.build(faulty, &*store) => true,
            () = fuse.blown() => false,
        };
        *self.registry.fuse.lock().unwrap() = None;
        survived
    }

    /// Checks that each image was released and deployed once.
    async fn check(&self, store: &dyn BuildStore, at: &str) {
        let builds = store.builds(&"shop".parse().unwrap(), None, 50).await.unwrap();
        let [build] = &builds[..] else { panic!("{at}: {builds:?}") };
        assert_eq!((&build.state, &build.commit), (&BuildState::Succeeded, &self.commit), "{at}");
        let targets = store.build_targets(&build.id).await.unwrap();
        assert_eq!(targets.len(), SERVICES.len(), "{at}");
        for (service, target) in SERVICES.into_iter().zip(&targets) {
            assert_eq!(target.state, TargetState::Released, "{at}: {target:?}");
            let name = service.parse().unwrap();
            let releases = store.releases(Some(&[name]), None, 50).await.unwrap();
            let [release] = &releases[..] else { panic!("{at}: {releases:?}") };
            assert_eq!(target.release.as_ref(), Some(&release.id), "{at}");
            assert_eq!(target.image.as_ref(), Some(&release.image), "{at}");
            let digest = release.image.rsplit('@').next().unwrap();
            let images = self.registry.images(service);
            assert!(images.iter().any(|image| image.ends_with(digest)), "{at}: {images:?}");
            assert_eq!(target.autopushed, Some(format!("{service}.staging.1")), "{at}");
            let placement = format!("{service}.staging.1").parse().unwrap();
            assert!(store.deployment(&placement).await.unwrap().is_some(), "{at}");
            let second = format!("{service}.staging.2").parse().unwrap();
            assert_eq!(store.deployment(&second).await.unwrap(), None, "{at}");
        }
        let work = self.folder.path().join("builds/work");
        assert_eq!(std::fs::read_dir(work).unwrap().count(), 0, "{at}: files are left");
    }
}

/// Waits until the first build has ended, and its releases are deployed: deployments are ready at once.
async fn is_done(store: &dyn BuildStore) {
    let shop = "shop".parse().unwrap();
    let wait = async {
        loop {
            for service in SERVICES {
                let id = format!("{service}.staging.1").parse().unwrap();
                let deployment = store.deployment(&id).await.unwrap();
                if let Some(open) = deployment.filter(|deployment| deployment.state.is_open()) {
                    store.advance(&open, State::Ready, Time::now()).await.unwrap();
                }
            }
            let builds = store.builds(&shop, None, 1).await.unwrap();
            let is_open = builds.first().is_none_or(|build| build.state.is_open());
            if !is_open && store.open_autopushes().await.unwrap().is_empty() {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONGEST, wait).await.expect("the build ends");
}

#[tokio::test]
#[allow(clippy::print_stdout, reason = "the number of points is a result of the test")]
async fn a_builder_killed_at_any_point_of_a_build_makes_one_release_of_each_image() {
    // One that survives tells how many points there are.
    let counted = {
        let machine = Machine::new().await;
        let points = 10_000;
        let fuse = Fuse::on_writes_after(points);
        *machine.registry.fuse.lock().unwrap() = Some(Arc::clone(&fuse));
        let store = open(&machine.folder.path().join("builds")).await;
        let inner: Arc<dyn BuildStore> = Arc::clone(&store) as _;
        machine.build(Arc::new(Faulty::new(inner, &fuse)), &*store).await;
        machine.check(&*store, "not killed").await;
        points - fuse.left()
    };
    println!("killed at {counted} points of a build");
    assert!(counted >= 60, "only {counted} points");
    let killed = (0..counted).map(async |point| {
        let machine = Machine::new().await;
        let survived = machine.killed_at(point).await;
        let store = open(&machine.folder.path().join("builds")).await;
        machine.build(Arc::clone(&store) as _, &*store).await;
        machine.check(&*store, &format!("killed at {point}")).await;
        usize::from(survived)
    });
    let survived = futures::stream::iter(killed).buffer_unordered(AT_ONCE);
    let survived: usize = survived.fold(0, async |sum, one| sum + one).await;
    // After the last one, everything is done.
    assert!(survived <= 1, "{survived} builders were not killed");
}
