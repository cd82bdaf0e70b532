//! Which deployments are admitted to an environment: freezes, pins, rollbacks.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Why a release is put into an environment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Intent {
    /// A caller deploys it.
    Deploy,
    /// It runs in another environment, and is promoted from there.
    Promote,
    /// It ran here before, and replaces what came after it.
    Rollback,
}

/// A service in an environment, as far as admission depends on it. Releases are named by their
/// numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// Whether the environment is frozen.
    pub frozen: bool,
    /// The pin: this release and older ones are not deployed again.
    pub pinned: Option<u32>,
    /// The release of the last deployment that became ready.
    pub running: Option<u32>,
    /// The release of the last deployment, whatever its state.
    pub attempted: Option<u32>,
    /// All releases that became ready here, in ascending order.
    pub ran: Vec<u32>,
    /// The releases that were deployed here, even in vain, and cannot be undone, with the reason.
    pub irreversible: BTreeMap<u32, String>,
}

/// What an admitted deployment does to the pin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    /// Removed: something newer arrived.
    Removed,
    /// Set, so that what was rolled back is not deployed again by itself.
    Set(u32),
}

/// Why a deployment is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The environment is frozen.
    #[error("the environment is frozen: it accepts rollbacks only, until `portcullis env thaw`")]
    Frozen,
    /// The release is pinned out.
    #[error(
        "releases up to number {0} were rolled back here: deploy a newer one, or unpin the service"
    )]
    Pinned(u32),
    /// The release to roll back to did not run here.
    #[error("release number {0} has never been ready in this environment")]
    NeverRan(u32),
    /// The release to roll back to is what runs.
    #[error("release number {0} is what runs in this environment")]
    Running(u32),
    /// A later release that was deployed here cannot be undone.
    #[error(
        "release number {0} was deployed here and cannot be undone: {1}; if an earlier release can \
         run nevertheless, roll back to it with force"
    )]
    Irreversible(u32, String),
    /// There is no release to roll back to.
    #[error("no earlier release has been ready in this environment")]
    NothingEarlier,
}

/// Decides whether a release is admitted, and what becomes of the pin. `force` admits one that is
/// older than a release which cannot be undone.
///
/// # Errors
/// Why it is refused. A freeze or a pin never refuses a rollback.
pub fn admit(
    intent: Intent,
    release: u32,
    force: bool,
    standing: &Standing,
) -> Result<Pin, Refusal> {
    let crossed = crossed(release, standing).filter(|_| !force);
    match intent {
        Intent::Rollback if !standing.ran.contains(&release) => Err(Refusal::NeverRan(release)),
        Intent::Rollback
            if standing.running == Some(release) && standing.attempted == Some(release) =>
        {
            Err(Refusal::Running(release))
        }
        Intent::Rollback if let Some((number, reason)) = crossed => {
            Err(Refusal::Irreversible(number, reason.to_owned()))
        }
        Intent::Rollback => {
            let newest = standing.pinned.max(standing.running).max(standing.attempted);
            Ok(Pin::Set(newest.map_or(release, |newest| newest.max(release))))
        }
        Intent::Deploy | Intent::Promote if standing.frozen => Err(Refusal::Frozen),
        Intent::Deploy | Intent::Promote => match (standing.pinned, crossed) {
            (Some(pinned), _) if release <= pinned => Err(Refusal::Pinned(pinned)),
            (_, Some((number, reason))) => Err(Refusal::Irreversible(number, reason.to_owned())),
            _ => Ok(Pin::Removed),
        },
    }
}

/// The newest release that cannot be undone, if `release` is older. What it did remains, whatever
/// was deployed after it.
fn crossed(release: u32, standing: &Standing) -> Option<(u32, &str)> {
    let (number, reason) = standing.irreversible.last_key_value()?;
    (*number > release).then_some((*number, reason))
}

/// The release that a rollback without a named one returns to: what runs, where the last attempt did
/// not become ready, else the newest one that ran here before it.
///
/// # Errors
/// No earlier release has been ready here.
pub fn rollback_target(standing: &Standing) -> Result<u32, Refusal> {
    let running = standing.running.ok_or(Refusal::NothingEarlier)?;
    if standing.attempted != Some(running) {
        return Ok(running);
    }
    let earlier = standing.ran.iter().copied().filter(|release| *release < running).max();
    earlier.ok_or(Refusal::NothingEarlier)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn standings() -> impl Strategy<Value = Standing> {
        let number = || proptest::option::of(1_u32..9);
        let ran = proptest::collection::btree_set(1_u32..9, 0..5);
        let irreversible = proptest::collection::btree_map(1_u32..9, Just(String::new()), 0..3);
        (any::<bool>(), number(), number(), ran, irreversible).prop_map(
            |(frozen, pinned, attempted, ran, irreversible)| Standing {
                frozen,
                pinned,
                running: ran.iter().next_back().copied(),
                attempted,
                ran: ran.into_iter().collect(),
                irreversible,
            },
        )
    }

    proptest! {
        #[test]
        fn what_was_rolled_back_is_not_deployed_until_something_newer_is(
            standing in standings(),
            release in 1_u32..9,
            later in 1_u32..12,
        ) {
            let Ok(Pin::Set(pinned)) = admit(Intent::Rollback, release, false, &standing) else {
                return Ok(());
            };
            let after = Standing {
                pinned: Some(pinned),
                attempted: Some(release),
                frozen: false,
                ..standing.clone()
            };
            prop_assert!(standing.attempted.is_none_or(|attempted| attempted <= pinned));
            prop_assert!(standing.running.is_none_or(|running| running <= pinned));
            let admitted = admit(Intent::Deploy, later, false, &after);
            if later > pinned {
                prop_assert_eq!(admitted, Ok(Pin::Removed));
            } else {
                prop_assert_eq!(admitted, Err(Refusal::Pinned(pinned)));
            }
        }

        #[test]
        fn a_freeze_refuses_everything_but_rollbacks(standing in standings(), release in 1_u32..9) {
            let thawed = Standing { frozen: false, ..standing.clone() };
            let frozen = Standing { frozen: true, ..standing };
            prop_assert_eq!(
                admit(Intent::Rollback, release, false, &frozen),
                admit(Intent::Rollback, release, false, &thawed)
            );
            for intent in [Intent::Deploy, Intent::Promote] {
                prop_assert_eq!(admit(intent, release, true, &frozen), Err(Refusal::Frozen));
            }
        }

        #[test]
        fn the_default_target_of_a_rollback_is_admitted_if_forced(standing in standings()) {
            if let Ok(target) = rollback_target(&standing) {
                prop_assert!(admit(Intent::Rollback, target, true, &standing).is_ok());
            }
        }

        #[test]
        fn what_is_older_than_a_release_that_cannot_be_undone_has_to_be_forced(
            standing in standings(),
            release in 1_u32..9,
        ) {
            let is_older = standing.irreversible.keys().any(|number| *number > release);
            for intent in [Intent::Deploy, Intent::Promote, Intent::Rollback] {
                let forced = admit(intent, release, true, &standing);
                let admitted = admit(intent, release, false, &standing);
                if forced.is_ok() && is_older {
                    prop_assert!(matches!(admitted, Err(Refusal::Irreversible(..))));
                } else {
                    prop_assert_eq!(admitted, forced);
                }
            }
        }
    }

    #[test]
    fn a_forced_rollback_does_not_open_the_way_further_back() {
        let standing = Standing {
            running: Some(6),
            attempted: Some(6),
            ran: vec![5, 6, 7],
            irreversible: BTreeMap::from([(7, "a migration".to_owned())]),
            ..Standing::default()
        };
        for intent in [Intent::Rollback, Intent::Deploy, Intent::Promote] {
            let refused = admit(intent, 5, false, &standing);
            assert_eq!(refused, Err(Refusal::Irreversible(7, "a migration".to_owned())));
        }
        assert_eq!(admit(Intent::Deploy, 8, false, &standing), Ok(Pin::Removed));
    }

    #[test]
    fn a_rollback_without_a_target_goes_back_one_step_each_time() {
        let standing = |running, attempted| Standing {
            running: Some(running),
            attempted: Some(attempted),
            ran: vec![2, 4, 5],
            ..Standing::default()
        };
        assert_eq!(rollback_target(&standing(5, 5)), Ok(4));
        assert_eq!(rollback_target(&standing(4, 4)), Ok(2));
        assert_eq!(rollback_target(&standing(2, 2)), Err(Refusal::NothingEarlier));
        assert_eq!(rollback_target(&standing(5, 6)), Ok(5), "the last attempt failed");
        assert_eq!(rollback_target(&Standing::default()), Err(Refusal::NothingEarlier));
    }
}
