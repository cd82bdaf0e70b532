//! What every store must do. Each backend runs all of it.

mod builds;

use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::manifest::{Source, Template};
use crate::model::Placements;
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
        irreversible: None,
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
    DeploymentOrder { placement: placement(at), release, intent, force: false, by }
}

async fn deploy(store: &dyn Store, at: &str, number: u32) -> Result<Deployment, StoreError> {
    store.create_deployment(order(at, Some(number), Intent::Deploy, by(10, ""))).await
}

async fn finish(store: &dyn Store, deployment: &Deployment) {
    store.advance(deployment, State::Ready, Time(20)).await.unwrap().expect("it is current");
}

/// Runs the suite on an empty store for each part.
pub(crate) async fn run<F: Future<Output = Arc<dyn BuildStore>>>(open: impl Fn() -> F) {
    releases_are_numbered_by_service(&*open().await).await;
    pages_are_complete_and_do_not_overlap(&*open().await).await;
    an_idempotency_key_makes_one_thing(&*open().await).await;
    a_later_deployment_supersedes_the_open_one(&*open().await).await;
    open_deployments_of_an_environment_hide_no_others(&*open().await).await;
    an_outdated_writer_changes_nothing(&*open().await).await;
    freezes_and_pins_refuse_and_are_audited(&*open().await).await;
    the_inventory_grows_by_plans_and_shrinks_by_pruning(&*open().await).await;
    a_rollback_across_what_cannot_be_undone_has_to_be_forced(&*open().await).await;
    settings_are_layered_and_recorded_with_each_deployment(&*open().await).await;
    settings_have_a_bounded_size_and_are_audited_alone(&*open().await).await;
    a_rollout_is_recorded_with_its_deployment(&*open().await).await;
    an_order_is_recorded_once_and_outdates_the_builder(&*open().await).await;
    deployments_of_a_service_wait_for_its_rollout(&*open().await).await;
    a_tag_is_behind_until_it_was_moved_to_what_runs(&*open().await).await;
    self::builds::run(&open).await;
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

/// A change to this state, without a look.
fn change(state: rollout::Rollout) -> RolloutChange {
    let evidence = json!({ "seen": 7 });
    RolloutChange { state, evidence, problem: None, looks: Vec::new(), gate: None }
}

/// The open rollout of release 2, beside release 1.
async fn begun(store: &dyn Store) -> Rollout {
    for at in [1, 2] {
        store.create_release(release("web", by(at, ""), &[])).await.unwrap();
    }
    let first = deploy(store, "web.dev", 1).await.unwrap();
    finish(store, &first).await;
    let second = deploy(store, "web.dev", 2).await.unwrap();
    let state = rollout::Rollout::new(rollout::Settings::default(), Time(30));
    let begun = store.begin_rollout(&second, state.clone(), Time(30)).await.unwrap();
    assert_eq!(store.begin_rollout(&second, state, Time(31)).await.unwrap(), None, "once");
    begun.expect("it is current")
}

async fn a_rollout_is_recorded_with_its_deployment(store: &dyn Store) {
    let rollout = begun(store).await;
    assert_eq!((rollout.release.number, rollout.version), (2, 0));
    assert_eq!(rollout.stable, Some("web.1".parse().unwrap()));
    let state = async || store.deployment(&rollout.id).await.unwrap().unwrap().state;
    assert_eq!(state().await, State::RollingOut);
    let open = store.open_rollouts().await.unwrap();
    assert_eq!(open, std::slice::from_ref(&rollout.id));
    let next = rollout::Rollout { sentence: "waiting".to_owned(), ..rollout.state.clone() };
    let gate = GateResult { at: Time(40), failure: None, log: "ok".to_owned() };
    let next = RolloutChange { gate: Some(gate.clone()), ..change(next) };
    let next = store.advance_rollout(&rollout, next, Time(40)).await.unwrap().unwrap();
    assert_eq!(next.gate, Some(gate), "and it stays");
    assert_eq!(store.rollout(&rollout.id).await.unwrap(), Some(next.clone()));
    assert_eq!(next.evidence, json!({ "seen": 7 }));
    assert_eq!(
        store.rollout_steps(&rollout.id, 0).await.unwrap().len(),
        1,
        "a sentence is no step"
    );
    let outdated = store.advance_rollout(&rollout, change(next.state.clone()), Time(41)).await;
    assert_eq!(outdated.unwrap(), None);
    let cause = rollout::Cause::Alarm("worse".to_owned());
    let stage = rollout::Stage::RolledBack { cause };
    let end =
        rollout::Rollout { stage, sentence: "rolled back: worse".to_owned(), ..next.state.clone() };
    store.pin_out(&next, by(50, "")).await.unwrap();
    let end = store.advance_rollout(&next, change(end), Time(50)).await.unwrap().unwrap();
    assert_eq!(state().await, State::Failed { reason: "rolled back: worse".to_owned() });
    assert_eq!(store.open_rollouts().await.unwrap(), []);
    let steps = store.rollout_steps(&rollout.id, 1).await.unwrap();
    assert_eq!((steps.len(), steps[0].number, steps[0].stage.name()), (1, 2, "rolledBack"));
    let last = store.last_rollout_steps(&rollout.id, None, 1).await.unwrap();
    assert_eq!(last, steps, "the newest one first");
    let first = store.last_rollout_steps(&rollout.id, Some(2), 9).await.unwrap();
    assert_eq!((first.len(), first[0].number), (1, 1));
    lists_are_of_what_is_wanted(store, end).await;
    let pinned = store.placements(None).await.unwrap().remove(0).pinned;
    assert_eq!(pinned, Some("web.2".parse().unwrap()));
}

/// The only rollout of the store is `known`.
async fn lists_are_of_what_is_wanted(store: &dyn Store, known: Rollout) {
    let cursor = |created_at| RolloutCursor { created_at, id: known.id.clone() };
    let after = |wanted: WantedRollouts, after: Option<RolloutCursor>| async move {
        store.rollouts(&wanted, after.as_ref(), 9).await.unwrap()
    };
    let all = || Placements { services: None, environments: None };
    let in_environment = |name: &str| Some(vec![name.parse().unwrap()]);
    let of_service = |name: &str| Some(vec![name.parse().unwrap()]);
    let wanted = |readable: Vec<Placements>| WantedRollouts { readable, ..Default::default() };
    let mine = || std::slice::from_ref(&known);
    assert_eq!(after(wanted(vec![all()]), None).await, mine());
    assert_eq!(after(wanted(vec![]), None).await, [], "nothing is readable");
    let dev = Placements { environments: in_environment("dev"), services: of_service("web") };
    let staging = Placements { environments: in_environment("staging"), ..dev.clone() };
    let shop = Placements { services: of_service("shop"), ..dev.clone() };
    assert_eq!(after(wanted(vec![staging.clone(), shop.clone()]), None).await, []);
    assert_eq!(after(wanted(vec![staging, shop, dev]), None).await, mine());
    for (service, environment, expected) in
        [("web", "dev", mine()), ("web", "staging", &[]), ("shop", "dev", &[])]
    {
        let wanted = WantedRollouts {
            services: of_service(service),
            environment: Some(environment.parse().unwrap()),
            readable: vec![all()],
        };
        assert_eq!(after(wanted, None).await, expected, "{service} in {environment}");
    }
    let later = Time(known.created_at.0 + 1);
    assert_eq!(after(wanted(vec![all()]), Some(cursor(later))).await, mine());
    assert_eq!(after(wanted(vec![all()]), Some(cursor(known.created_at))).await, []);
}

async fn an_order_is_recorded_once_and_outdates_the_builder(store: &dyn Store) {
    let rollout = begun(store).await;
    let pause = async |by| store.order_rollout(&rollout.id, Order::Pause, by).await;
    let paused = pause(by(60, "once")).await.unwrap();
    assert_eq!(paused.state.paused.as_deref(), Some("test"));
    assert_eq!(pause(by(61, "once")).await.unwrap().version, paused.version, "the same request");
    let late = store.advance_rollout(&rollout, change(rollout.state.clone()), Time(62)).await;
    assert_eq!(late.unwrap(), None, "the builder has not seen the order");
    let steps = store.rollout_steps(&rollout.id, 0).await.unwrap();
    let orders: Vec<_> = steps.iter().map(|step| (step.order, step.actor.as_deref())).collect();
    assert_eq!(orders, [(None, None), (Some(Order::Pause), Some("ci"))]);
    assert_eq!(store.audit(None, 1).await.unwrap()[0].action, "rollout.pause");
    let skip = store.order_rollout(&rollout.id, Order::Skip, by(63, "")).await;
    assert!(matches!(skip, Err(StoreError::Order(OrderRefusal::NoStep))), "{skip:?}");
    let nowhere = "web.dev.9".parse().unwrap();
    let missing = store.order_rollout(&nowhere, Order::Pause, by(64, "")).await;
    assert!(matches!(missing, Err(StoreError::NotFound(_))));
}

async fn deployments_of_a_service_wait_for_its_rollout(store: &dyn Store) {
    let rollout = begun(store).await;
    let elsewhere = deploy(store, "web.staging", 1).await.unwrap();
    store.create_release(release("web", by(3, ""), &[])).await.unwrap();
    let next = deploy(store, "web.dev", 3).await.unwrap();
    let open = store.open_deployments().await.unwrap();
    assert_eq!(open, std::slice::from_ref(&elsewhere.id));
    let found = store.deployment(&rollout.id).await.unwrap().unwrap();
    assert_eq!(found.state, State::RollingOut, "it is not superseded at once");
    let promoted = rollout::Rollout { stage: rollout::Stage::Promoted, ..rollout.state.clone() };
    store.advance_rollout(&rollout, change(promoted), Time(70)).await.unwrap().unwrap();
    let open = store.open_deployments().await.unwrap();
    assert_eq!(open, [rollout.id.clone(), next.id.clone(), elsewhere.id], "the oldest first");
    let found = store.deployment(&rollout.id).await.unwrap().unwrap();
    assert!(matches!(found.state, State::Waiting { .. }), "{found:?}");
    finish(store, &found).await;
    let next = store.deployment(&next.id).await.unwrap().unwrap();
    assert_eq!(next.replaces, Some(rollout.id), "what runs when its turn comes");
}

async fn a_later_deployment_supersedes_the_open_one(store: &dyn Store) {
    store.create_release(release("web", by(1, ""), &[])).await.unwrap();
    let first = deploy(store, "web.dev", 1).await.unwrap();
    let elsewhere = deploy(store, "web.staging", 1).await.unwrap();
    let second = deploy(store, "web.dev", 1).await.unwrap();
    assert_eq!(second.id.to_string(), "web.dev.2");
    assert_eq!((&first.replaces, &second.replaces), (&None, &None), "none has become ready");
    let state =
        |id: DeploymentId| async move { store.deployment(&id).await.unwrap().unwrap().state };
    assert_eq!(state(first.id.clone()).await, State::Superseded);
    let open = store.open_deployments().await.unwrap();
    assert_eq!(open, [second.id.clone(), elsewhere.id]);
    let listed = store.deployments(&placement("web.dev"), Some(2), 9).await.unwrap();
    assert_eq!(listed.iter().map(|d| &d.id).collect::<Vec<_>>(), [&first.id]);
    let steps: Vec<_> =
        store.steps(&first.id, 0).await.unwrap().into_iter().map(|step| step.state).collect();
    assert_eq!(steps, [State::Recorded, State::Superseded]);
    let (web, dev) = ("web".parse().unwrap(), "dev".parse().unwrap());
    let last = store.last_deployments(&dev, &[web, "shop".parse().unwrap()]).await.unwrap();
    assert_eq!(last.iter().map(|d| &d.id).collect::<Vec<_>>(), [&second.id]);
    finish(store, &second).await;
    for (before, expected) in [(2, None), (3, Some(&second.id))] {
        let ready = store.ready_deployments(&placement("web.dev"), before, 9).await.unwrap();
        assert_eq!(ready.iter().map(|d| &d.id).collect::<Vec<_>>(), Vec::from_iter(expected));
    }
    let later = store.steps(&first.id, 1).await.unwrap();
    assert_eq!(later.into_iter().map(|step| step.state).collect::<Vec<_>>(), [State::Superseded]);
}

async fn open_deployments_of_an_environment_hide_no_others(store: &dyn Store) {
    for number in 0..=MAX_PAGE {
        let service = format!("s{number}");
        store.create_release(release(&service, by(1, ""), &[])).await.unwrap();
        deploy(store, &format!("{service}.dev"), 1).await.unwrap();
    }
    let order = order("s0.staging", Some(1), Intent::Deploy, by(20, ""));
    let newest = store.create_deployment(order).await.unwrap();
    let open = store.open_deployments().await.unwrap();
    assert_eq!(open.len(), MAX_PAGE as usize + 1);
    assert_eq!(open.last(), Some(&newest.id));
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
    store.pruned(&dev, "ns", &objects[..1], Time(20)).await.unwrap();
    assert_eq!(store.inventory(&dev).await.unwrap(), objects[1..]);
    assert_eq!(store.watched_placements().await.unwrap(), std::slice::from_ref(&dev));
    let mut expected = WatchedObject {
        placement: dev.clone(),
        namespace: "ns".into(),
        object: objects[0].clone(),
        is_back: false,
        is_over: false,
    };
    assert_eq!(store.watched(&dev, Time(19)).await.unwrap(), [expected.clone()]);
    assert!(store.plan(&deployment, "ns", &objects[..1]).await.unwrap());
    (expected.is_back, expected.is_over) = (true, true);
    assert_eq!(store.watched(&dev, Time(20)).await.unwrap(), [expected.clone()]);
    store.unwatch(&expected, Time(19)).await.unwrap();
    assert_eq!(store.watched(&dev, Time(20)).await.unwrap(), [expected.clone()], "too early");
    store.unwatch(&expected, Time(20)).await.unwrap();
    assert_eq!(store.watched(&dev, Time(20)).await.unwrap(), []);
    let namespace = store.deployment(&deployment.id).await.unwrap().unwrap().namespace;
    assert_eq!(namespace.as_deref(), Some("ns"));
}

async fn a_rollback_across_what_cannot_be_undone_has_to_be_forced(store: &dyn Store) {
    for number in 1..=3 {
        let mut new = release("web", by(number, ""), &[]);
        new.irreversible = (number != 1).then(|| format!("migration {number}"));
        let created = store.create_release(new.clone()).await.unwrap();
        assert_eq!(created.irreversible, new.irreversible);
    }
    for number in [1, 2] {
        finish(store, &deploy(store, "web.dev", number).await.unwrap()).await;
    }
    let third = deploy(store, "web.dev", 2).await.unwrap();
    assert_eq!(third.replaces.as_ref().map(ToString::to_string).as_deref(), Some("web.dev.2"));
    finish(store, &third).await;
    // Release 3 was not deployed here: only release 2 would be undone.
    let back = || order("web.dev", None, Intent::Rollback, by(30, ""));
    let refused = store.create_deployment(back()).await.unwrap_err();
    let expected = Refusal::Irreversible(2, "migration 2".to_owned());
    assert!(matches!(&refused, StoreError::Refused(refusal) if *refusal == expected), "{refused}");
    let forced = DeploymentOrder { force: true, ..back() };
    assert_eq!(store.create_deployment(forced).await.unwrap().release.number, 1);
}

async fn settings_are_layered_and_recorded_with_each_deployment(store: &dyn Store) {
    let declaring = |declared: serde_json::Value| {
        let settings = json!({
            "apiVersion": "releases.portcullis.dev/v1", "kind": "Settings",
            "metadata": {"name": "web"}, "settings": declared,
        });
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"},
            "data": {"image": "{{image}}"},
        });
        Template::parse(&json!([object, settings])).unwrap()
    };
    let replicas = json!({"replicas": {"type": "integer", "default": 1}});
    for declared in [replicas, json!({"host": {"type": "string"}})] {
        let template = declaring(declared);
        let new = NewRelease { template, ..release("web", by(1, ""), &[]) };
        store.create_release(new).await.unwrap();
    }
    // The newest release has no `replicas` any more, and `host` has no value.
    let change = |service: Option<&str>, name: &str, value: Option<serde_json::Value>| {
        let values = [(name.to_owned(), value)].into();
        let service = service.map(|service| service.parse().unwrap());
        SettingsChange { environment: "dev".parse().unwrap(), service, values }
    };
    for (service, name, value) in [
        (Some("web"), "replicas", json!(2)),
        (None, "replicas", json!(2)),
        (Some("shop"), "host", json!("a")),
        (None, "host", json!(1)),
    ] {
        let refused = store.change_settings(change(service, name, Some(value)), by(2, "")).await;
        let Err(StoreError::Settings(problems)) = refused else { panic!("{refused:?}") };
        assert_eq!(problems[0].pointer, Some(format!("/values/{name}")));
    }
    let Err(StoreError::Settings(problems)) = deploy(store, "web.dev", 2).await else {
        panic!("`host` has no value");
    };
    assert_eq!(problems[0].pointer.as_deref(), Some("/settings/host"));
    let set = async |service, value: Option<&str>| {
        let value = value.map(Into::into);
        store.change_settings(change(service, "host", value), by(3, "")).await.unwrap();
    };
    set(None, Some("all.test")).await;
    let values = async |number| {
        let deployment = deploy(store, "web.dev", number).await.unwrap();
        finish(store, &deployment).await;
        let found = store.deployment(&deployment.id).await.unwrap().unwrap().settings;
        assert_eq!(found, deployment.settings);
        found.into_iter().map(|setting| (setting.value, setting.source)).collect::<Vec<_>>()
    };
    assert_eq!(values(1).await, [(json!(1), Source::Default)]);
    assert_eq!(values(2).await, [(json!("all.test"), Source::Environment)]);
    set(Some("web"), Some("web.test")).await;
    assert_eq!(values(2).await, [(json!("web.test"), Source::Service)]);
    store.create_release(release("web", by(4, ""), &[])).await.unwrap();
    finish(store, &deploy(store, "web.dev", 3).await.unwrap()).await;
    set(Some("web"), None).await;
    let back =
        store.create_deployment(order("web.dev", Some(2), Intent::Rollback, by(5, ""))).await;
    assert_eq!(back.unwrap().settings[0].value, json!("web.test"), "with what ran there");
    let entries = store.audit(None, 50).await.unwrap();
    let audited = |before: &str, after: &str| {
        let is_such = |entry: &&AuditEntry| {
            (entry.before.as_deref(), entry.after.as_deref()) == (Some(before), Some(after))
        };
        entries.iter().filter(is_such).count()
    };
    assert_eq!(audited("{}", r#"{"host":"all.test"}"#), 1);
    assert_eq!(audited(r#"{"host":"web.test"}"#, "{}"), 1);
}

async fn settings_have_a_bounded_size_and_are_audited_alone(store: &dyn Store) {
    let name = |number: usize| format!("a{number:03}");
    let declared: serde_json::Map<String, serde_json::Value> =
        (0..80).map(|number| (name(number), json!({"type": "string", "default": ""}))).collect();
    let template = Template::parse(&json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"},
            "data": {"image": "{{image}}"}},
        {"apiVersion": "releases.portcullis.dev/v1", "kind": "Settings",
            "metadata": {"name": "web"}, "settings": declared},
    ]));
    let new = NewRelease { template: template.unwrap(), ..release("web", by(1, ""), &[]) };
    store.create_release(new).await.unwrap();
    let change = async |numbers: std::ops::Range<usize>, value: Option<&str>, at| {
        let value = value.map(serde_json::Value::from);
        let values = numbers.map(|number| (name(number), value.clone())).collect();
        let environment = "dev".parse().unwrap();
        let change = SettingsChange { environment, service: "web".parse().ok(), values };
        store.change_settings(change, by(at, "")).await
    };
    let long = "x".repeat(1024);
    change(0..60, Some(&long), 2).await.unwrap();
    let Err(StoreError::Settings(problems)) = change(60..70, Some(&long), 3).await else {
        panic!("there are more than 64 KiB");
    };
    assert_eq!(problems[0].pointer.as_deref(), Some("/values"));
    let dev = "dev".parse().unwrap();
    let web = "web".parse().unwrap();
    assert_eq!(store.values(&dev, Some(&web)).await.unwrap().len(), 60, "nothing was changed");
    change(0..20, None, 4).await.unwrap();
    change(60..70, Some("y"), 5).await.unwrap();
    let newest = store.audit(None, 1).await.unwrap().remove(0);
    assert!(!newest.after.unwrap().contains("xx"), "it has no value that stays");
    let Err(StoreError::Settings(problems)) = change(80..180, Some("y"), 6).await else {
        panic!("they are not declared");
    };
    assert_eq!(problems.len(), 50);
}

async fn a_tag_is_behind_until_it_was_moved_to_what_runs(store: &dyn Store) {
    let dev: EnvironmentName = "dev".parse().unwrap();
    let mut images = Vec::new();
    for number in 1..=2 {
        let created = store.create_release(release("web", by(number, ""), &[])).await.unwrap();
        images.push(created.image);
    }
    let behind = async || {
        let elsewhere = store.untagged(&dev, "registry.test/shop-{service}").await.unwrap();
        assert_eq!(elsewhere, [], "an image of another repository is not the service's own");
        let behind = store.untagged(&dev, "registry.test/{service}").await.unwrap();
        behind.into_iter().map(|(_, image)| image).collect::<Vec<_>>()
    };
    let first = deploy(store, "web.dev", 1).await.unwrap();
    assert_eq!(behind().await, [""; 0], "it does not run yet");
    finish(store, &first).await;
    assert_eq!(behind().await, images[..1]);
    store.tagged(&placement("web.dev"), &images[0], "dev", by(20, "")).await.unwrap();
    assert_eq!(behind().await, [""; 0]);
    finish(store, &deploy(store, "web.dev", 2).await.unwrap()).await;
    finish(store, &deploy(store, "web.staging", 2).await.unwrap()).await;
    assert_eq!(behind().await, images[1..]);
    let entry = store.audit(None, 50).await.unwrap().into_iter().find(|e| e.action == "image.tag");
    let entry = entry.expect("it is recorded");
    assert_eq!((entry.subject.as_str(), entry.after.as_ref()), ("dev", images.first()));
}
