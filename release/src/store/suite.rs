//! What every store must do. Each backend runs all of it.

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::manifest::Template;
use crate::state::Intent;

/// A caller at a time, with an idempotency key if it is not empty.
pub(crate) fn by(at: u64, key: &str) -> By {
    let idempotency = (!key.is_empty())
        .then(|| Idempotency { key: key.to_owned(), fingerprint: "request".to_owned() });
    By { actor: "ci".to_owned(), reason: "test".to_owned(), at: Time(at), idempotency }
}

/// A template with a Deployment and one object of each further name.
pub(crate) fn template(further: &[&str]) -> Template {
    let mut objects = vec![json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"image": "{{image}}"},
    })];
    objects.extend(
        further.iter().map(
            |name| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}}),
        ),
    );
    Template::parse(&objects.into()).unwrap()
}

/// A release of a service.
pub(crate) fn release(service: &str, by: By, further: &[&str]) -> NewRelease {
    NewRelease {
        service: service.parse().unwrap(),
        commit: Some("c0ffee".to_owned()),
        requested: "registry.test/web:1".to_owned(),
        image: format!("registry.test/web@sha256:{}", by.at.0),
        template: template(further),
        by,
    }
}

/// A service in an environment, written `web.staging`.
pub(crate) fn placement(text: &str) -> Placement {
    let (service, environment) = text.split_once('.').unwrap();
    Placement { service: service.parse().unwrap(), environment: environment.parse().unwrap() }
}

/// An order.
pub(crate) fn order(at: &str, release: Option<u32>, intent: Intent, by: By) -> DeploymentOrder {
    DeploymentOrder { placement: placement(at), release, intent, by }
}

async fn deploy(store: &dyn Store, at: &str, number: u32) -> Result<Deployment, StoreError> {
    store.create_deployment(order(at, Some(number), Intent::Deploy, by(10, ""))).await
}

async fn finish(store: &dyn Store, deployment: &Deployment) {
    store.advance(deployment, State::Ready, Time(20)).await.unwrap().expect("it is current");
}

/// Runs the suite on an empty store for each part.
pub(crate) async fn run<F: Future<Output = Arc<dyn Store>>>(open: impl Fn() -> F) {
    releases_are_numbered_by_service(&*open().await).await;
    pages_are_complete_and_do_not_overlap(&*open().await).await;
    an_idempotency_key_makes_one_thing(&*open().await).await;
    a_later_deployment_supersedes_the_open_one(&*open().await).await;
    an_outdated_writer_changes_nothing(&*open().await).await;
    freezes_and_pins_refuse_and_are_audited(&*open().await).await;
    the_inventory_grows_by_plans_and_shrinks_by_pruning(&*open().await).await;
}

async fn releases_are_numbered_by_service(store: &dyn Store) {
    for (service, expected) in [("web", "web.1"), ("shop", "shop.1"), ("web", "web.2")] {
        let created = store.create_release(release(service, by(1, ""), &[])).await.unwrap();
        assert_eq!(created.id.to_string(), expected);
        let found = store.release(&created.id).await.unwrap().unwrap();
        assert_eq!((&found.summary, &found.template), (&created, &template(&[])));
    }
    deploy(store, "web.dev", 1).await.unwrap();
    let of = |services: &'static [&'static str]| async move {
        let services: Vec<ServiceName> =
            services.iter().map(|name| name.parse().unwrap()).collect();
        store.placements(Some(&services)).await.unwrap().len()
    };
    assert_eq!((of(&["web", "shop"]).await, of(&["shop"]).await, of(&[]).await), (1, 0, 0));
    assert_eq!(store.release(&"web.3".parse().unwrap()).await.unwrap(), None);
    assert!(matches!(deploy(store, "web.dev", 3).await, Err(StoreError::NotFound("release"))));
}

async fn pages_are_complete_and_do_not_overlap(store: &dyn Store) {
    for number in 0..7 {
        // Several at the same instant.
        store.create_release(release("web", by(number / 3, ""), &[])).await.unwrap();
        store.create_release(release("shop", by(number / 3, ""), &[])).await.unwrap();
    }
    for (services, count) in
        [(None, 14), (Some(vec!["web".parse().unwrap()]), 7), (Some(vec![]), 0)]
    {
        let mut seen = Vec::new();
        let mut after = None;
        loop {
            let page = store.releases(services.as_deref(), after.as_ref(), 3).await.unwrap();
            let Some(last) = page.last() else { break };
            after = Some(ReleaseCursor { created_at: last.created_at, id: last.id.clone() });
            seen.extend(page.into_iter().map(|release| (release.created_at, release.id)));
        }
        assert!(seen.is_sorted_by(|a, b| a > b), "{seen:?}");
        assert_eq!(seen.len(), count);
    }
}

async fn an_idempotency_key_makes_one_thing(store: &dyn Store) {
    let first = store.create_release(release("web", by(1, "build-7"), &[])).await.unwrap();
    assert_eq!(store.create_release(release("web", by(2, "build-7"), &[])).await.unwrap(), first);
    assert_eq!(store.made_release(&by(2, "build-7")).await.unwrap(), Some(first.clone()));
    assert_eq!(store.made_release(&by(2, "build-8")).await.unwrap(), None);
    let mut other = release("web", by(3, "build-7"), &[]);
    other.by.idempotency.as_mut().unwrap().fingerprint = "another".to_owned();
    assert!(matches!(store.create_release(other).await, Err(StoreError::KeyReused)));
    let mut stranger = release("web", by(3, "build-7"), &[]);
    stranger.by.actor = "another".to_owned();
    assert_eq!(store.create_release(stranger).await.unwrap().id.number, 2, "keys are a caller's");
    let again = || order("web.dev", Some(1), Intent::Deploy, by(4, "deploy-7"));
    let deployed = store.create_deployment(again()).await.unwrap();
    assert_eq!(store.create_deployment(again()).await.unwrap(), deployed);
    assert_eq!(store.audit(None, 50).await.unwrap().len(), 3);
    let late = release("web", by(1 + 25 * 3_600_000, "build-7"), &[]);
    assert_eq!(store.create_release(late).await.unwrap().id.number, 1, "not forgotten until used");
}

async fn a_later_deployment_supersedes_the_open_one(store: &dyn Store) {
    store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    let first = deploy(store, "web.dev", 1).await.unwrap();
    let elsewhere = deploy(store, "web.staging", 1).await.unwrap();
    let second = deploy(store, "web.dev", 1).await.unwrap();
    assert_eq!(second.id.to_string(), "web.dev.2");
    let state =
        |id: DeploymentId| async move { store.deployment(&id).await.unwrap().unwrap().state };
    assert_eq!(state(first.id.clone()).await, State::Superseded);
    let open: Vec<_> = store.open_deployments().await.unwrap().into_iter().map(|d| d.id).collect();
    assert_eq!(open, [second.id.clone(), elsewhere.id]);
    let listed = store.deployments(&placement("web.dev"), Some(2), 9).await.unwrap();
    assert_eq!(listed.iter().map(|d| &d.id).collect::<Vec<_>>(), [&first.id]);
    let steps: Vec<_> =
        store.steps(&first.id, 0).await.unwrap().into_iter().map(|step| step.state).collect();
    assert_eq!(steps, [State::Recorded, State::Superseded]);
    let later = store.steps(&first.id, 1).await.unwrap();
    assert_eq!(later.into_iter().map(|step| step.state).collect::<Vec<_>>(), [State::Superseded]);
}

async fn an_outdated_writer_changes_nothing(store: &dyn Store) {
    store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    let old = deploy(store, "web.dev", 1).await.unwrap();
    let new = store.advance(&old, State::Applying, Time(11)).await.unwrap().unwrap();
    assert_eq!(store.advance(&old, State::Ready, Time(12)).await.unwrap(), None);
    assert!(!store.plan(&old, "dev", &[]).await.unwrap());
    assert_eq!(store.deployment(&old.id).await.unwrap(), Some(new));
    assert_eq!(store.placements(None).await.unwrap()[0].running, None);
}

async fn freezes_and_pins_refuse_and_are_audited(store: &dyn Store) {
    for at in 1..=3 {
        store.create_release(release("web", by(at, ""), &[])).await.unwrap();
    }
    for number in [1, 2] {
        finish(store, &deploy(store, "web.dev", number).await.unwrap()).await;
    }
    let dev: EnvironmentName = "dev".parse().unwrap();
    let open = Freeze::version(None);
    store.freeze(&dev, true, Some(open.clone()), by(30, "")).await.unwrap();
    let late = store.freeze(&dev, false, Some(open), by(30, "")).await;
    assert!(matches!(late, Err(StoreError::Outdated)));
    assert!(matches!(deploy(store, "web.dev", 3).await, Err(StoreError::Refused(Refusal::Frozen))));
    assert_eq!(store.frozen().await.unwrap()[0].environment, dev);
    let frozen = Freeze::version(store.frozen().await.unwrap().first());
    let back = order("web.dev", None, Intent::Rollback, by(31, ""));
    let back = store.create_deployment(back).await.unwrap();
    assert_eq!(back.release.number, 1);
    finish(store, &back).await;
    store.freeze(&dev, false, Some(frozen), by(32, "")).await.unwrap();
    let refused = deploy(store, "web.dev", 2).await;
    assert!(matches!(refused, Err(StoreError::Refused(Refusal::Pinned(2)))));
    store.pin(&placement("web.dev"), false, by(33, "")).await.unwrap();
    deploy(store, "web.dev", 2).await.unwrap();
    store.pin(&placement("web.dev"), true, by(34, "")).await.unwrap();
    let status = store.placements(None).await.unwrap().remove(0);
    let text = |id: Option<ReleaseId>| id.map(|id| id.to_string()).unwrap_or_default();
    assert_eq!((text(status.running), text(status.pinned)), ("web.1".into(), "web.3".into()));
    assert!(matches!(
        store.pin(&placement("web.nowhere"), true, by(35, "")).await,
        Err(StoreError::NotFound(_))
    ));
    let mut actions: Vec<_> =
        store.audit(None, 50).await.unwrap().into_iter().map(|entry| entry.action).collect();
    actions.truncate(7);
    assert_eq!(
        actions[..4],
        ["service.pin", "service.unpin", "environment.thaw", "deployment.rollback"]
    );
}

async fn the_inventory_grows_by_plans_and_shrinks_by_pruning(store: &dyn Store) {
    store.create_release(release("web", by(1, ""), &["a", "b"])).await.unwrap();
    let deployment = deploy(store, "web.dev", 1).await.unwrap();
    let objects: Vec<_> = template(&["a", "b"]).objects().collect();
    assert!(store.plan(&deployment, "ns", &objects[..2]).await.unwrap());
    assert!(store.plan(&deployment, "ns", &objects[1..]).await.unwrap());
    let dev = placement("web.dev");
    assert_eq!(store.inventory(&dev).await.unwrap(), objects);
    store.pruned(&dev, &objects[..1]).await.unwrap();
    assert_eq!(store.inventory(&dev).await.unwrap(), objects[1..]);
    let namespace = store.deployment(&deployment.id).await.unwrap().unwrap().namespace;
    assert_eq!(namespace.as_deref(), Some("ns"));
}
