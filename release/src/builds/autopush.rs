//! Deploys the releases of pushed commits.
//!
//! A deployment that is open is never cut off: the newest release waits until it has ended, and those
//! before it are left out.

use std::collections::BTreeSet;

use super::queue::ACTOR;
use crate::model::Time;
use crate::state::Intent;
use crate::store::{Autopush, BuildStore, By, DeploymentOrder, Idempotency, StoreError};

/// Deploys what can be deployed now. A placement where that fails stops no other one.
pub(super) async fn perform(store: &dyn BuildStore) -> Result<(), StoreError> {
    let mut seen = BTreeSet::new();
    // The newest of a placement comes first.
    for autopush in store.open_autopushes().await? {
        if !seen.insert(autopush.placement.clone()) {
            continue;
        }
        if let Err(error) = deploy_unless_busy(store, &autopush).await {
            let Autopush { release, placement, .. } = &autopush;
            tracing::error!(%release, environment = %placement.environment, %error,
                "failed to record the deployment of a release");
        }
    }
    Ok(())
}

async fn deploy_unless_busy(store: &dyn BuildStore, autopush: &Autopush) -> Result<(), StoreError> {
    let services = [autopush.placement.service.clone()];
    let last = store.last_deployments(&autopush.placement.environment, &services).await?;
    if last.iter().any(|deployment| deployment.state.is_open()) {
        return Ok(());
    }
    deploy(store, autopush).await
}

async fn deploy(store: &dyn BuildStore, autopush: &Autopush) -> Result<(), StoreError> {
    let Autopush { build, placement, release } = autopush;
    // A builder that was killed before it recorded the outcome repeats it.
    let key = format!("autopush {release} {}", placement.environment);
    let order = DeploymentOrder {
        placement: placement.clone(),
        release: Some(release.number),
        intent: Intent::Deploy,
        force: false,
        by: By {
            actor: ACTOR.to_owned(),
            reason: format!("autopush of build {build}"),
            at: Time::now(),
            idempotency: Some(Idempotency { fingerprint: key.clone(), key }),
        },
    };
    let outcome = match store.create_deployment(order).await {
        Ok(deployment) => deployment.id.to_string(),
        // The database may work the next time; any other refusal would be the same.
        Err(
            error @ (StoreError::Database(_)
            | StoreError::Full
            | StoreError::InUse
            | StoreError::Migration(_)
            | StoreError::File(..)),
        ) => return Err(error),
        Err(error) => {
            tracing::warn!(%release, environment = %placement.environment, %error,
                "failed to deploy the release of a build");
            format!("refused: {error}")
        }
    };
    store.close_autopush(autopush, &outcome).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::DeploymentId;
    use crate::state::State;
    use crate::store::sql::SqlStore;
    use crate::store::suite::{by, release};
    use crate::store::{BuildChange, BuildState, BuildTarget, Store, TargetState};

    /// Records a release of a build that is to be deployed.
    async fn released(store: &SqlStore, number: u32) {
        let release = store.create_release(release("web", by(1, ""), &[])).await.unwrap();
        assert_eq!(release.id.number, number);
        let shop = "shop".parse().unwrap();
        let commit = format!("{number:040x}").parse().unwrap();
        let create = BuildChange::Create { commit, is_requested: false };
        let record = async |change| {
            let changed = store.record_schedule(&shop, Default::default(), vec![change], by(1, ""));
            changed.await.unwrap().remove(0)
        };
        let build = record(create).await;
        let state = BuildState::Running;
        let build = record(BuildChange::Advance { build, state, reason: None }).await;
        let target = BuildTarget {
            service: "web".parse().unwrap(),
            key: number.to_string(),
            manifests: String::new(),
            state: TargetState::Released,
            image: Some(release.image),
            release: Some(release.id),
            unchanged_since: None,
            problem: None,
            autopush: Some("staging".parse().unwrap()),
            autopushed: None,
        };
        assert!(store.record_target(&build, &target, Time(2)).await.unwrap());
    }

    async fn autopushed(store: &SqlStore, build: &str) -> Option<String> {
        let targets = store.build_targets(&build.parse().unwrap()).await.unwrap();
        targets[0].autopushed.clone()
    }

    async fn finish(store: &SqlStore, id: &str, state: State) {
        let id: DeploymentId = id.parse().unwrap();
        let deployment = store.deployment(&id).await.unwrap().unwrap();
        store.advance(&deployment, state, Time(3)).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_release_that_cannot_be_deployed_stops_no_other_one() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqlStore::open_file(&folder.path().join("releases.db")).await.unwrap();
        released(&store, 1).await;
        // There is no such release.
        let build = store.open_builds(&"shop".parse().unwrap()).await.unwrap().remove(0);
        let [web] = store.build_targets(&build.id).await.unwrap().try_into().unwrap();
        let target = BuildTarget {
            service: "cart".parse().unwrap(),
            release: Some("cart.7".parse().unwrap()),
            ..web
        };
        assert!(store.record_target(&build, &target, Time(2)).await.unwrap());
        perform(&store).await.unwrap();
        let [cart, web] = store.build_targets(&build.id).await.unwrap().try_into().unwrap();
        assert_eq!(cart.autopushed.as_deref(), Some("refused: there is no such release"));
        assert_eq!(web.autopushed.as_deref(), Some("web.staging.1"));
    }

    #[tokio::test]
    async fn a_deployment_that_is_open_is_not_cut_off_and_the_newest_release_follows_it() {
        let folder = tempfile::tempdir().unwrap();
        let store = SqlStore::open_file(&folder.path().join("releases.db")).await.unwrap();
        released(&store, 1).await;
        perform(&store).await.unwrap();
        assert_eq!(autopushed(&store, "shop.1").await.unwrap(), "web.staging.1");
        released(&store, 2).await;
        released(&store, 3).await;
        for _ in 0..2 {
            perform(&store).await.unwrap();
            let first = store.deployment(&"web.staging.1".parse().unwrap()).await.unwrap();
            assert_eq!(first.unwrap().state, State::Recorded);
            assert_eq!(autopushed(&store, "shop.3").await, None);
        }
        // However it ends.
        finish(&store, "web.staging.1", State::Failed { reason: "x".to_owned() }).await;
        perform(&store).await.unwrap();
        assert_eq!(autopushed(&store, "shop.2").await.unwrap(), "superseded by web.3");
        assert_eq!(autopushed(&store, "shop.3").await.unwrap(), "web.staging.2");
        perform(&store).await.unwrap();
        assert!(store.deployment(&"web.staging.3".parse().unwrap()).await.unwrap().is_none());
        // A freeze refuses it, and it is not tried again.
        finish(&store, "web.staging.2", State::Ready).await;
        store.freeze(&"staging".parse().unwrap(), true, None, by(4, "")).await.unwrap();
        released(&store, 4).await;
        perform(&store).await.unwrap();
        let refused = autopushed(&store, "shop.4").await.unwrap();
        assert!(refused.starts_with("refused: the environment is frozen"), "{refused}");
        assert!(store.open_autopushes().await.unwrap().is_empty());
        // One that was deployed, and not recorded so, is not deployed again.
        store.freeze(&"staging".parse().unwrap(), false, None, by(5, "")).await.unwrap();
        released(&store, 5).await;
        let [open] = store.open_autopushes().await.unwrap().try_into().unwrap();
        deploy(&store, &open).await.unwrap();
        deploy(&store, &open).await.unwrap();
        assert!(store.deployment(&"web.staging.4".parse().unwrap()).await.unwrap().is_none());
    }
}
