//! Which deployments are admitted to an environment: freezes, pins, rollbacks.

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
    /// There is no release to roll back to.
    #[error("no earlier release has been ready in this environment")]
    NothingEarlier,
}

/// Decides whether a release is admitted, and what becomes of the pin.
///
/// # Errors
/// Why it is refused. A freeze or a pin never refuses a rollback.
pub fn admit(intent: Intent, release: u32, standing: &Standing) -> Result<Pin, Refusal> {
    match intent {
        Intent::Rollback if !standing.ran.contains(&release) => Err(Refusal::NeverRan(release)),
        Intent::Rollback
            if standing.running == Some(release) && standing.attempted == Some(release) =>
        {
            Err(Refusal::Running(release))
        }
        Intent::Rollback => {
            let newest = standing.pinned.max(standing.running).max(standing.attempted);
            Ok(Pin::Set(newest.map_or(release, |newest| newest.max(release))))
        }
        Intent::Deploy | Intent::Promote if standing.frozen => Err(Refusal::Frozen),
        Intent::Deploy | Intent::Promote => match standing.pinned {
            Some(pinned) if release <= pinned => Err(Refusal::Pinned(pinned)),
            _ => Ok(Pin::Removed),
        },
    }
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
        (any::<bool>(), number(), number(), ran).prop_map(|(frozen, pinned, attempted, ran)| {
            Standing {
                frozen,
                pinned,
                running: ran.iter().next_back().copied(),
                attempted,
                ran: ran.into_iter().collect(),
            }
        })
    }

    proptest! {
        #[test]
        fn what_was_rolled_back_is_not_deployed_until_something_newer_is(
            standing in standings(),
            release in 1_u32..9,
            later in 1_u32..12,
        ) {
            let Ok(Pin::Set(pinned)) = admit(Intent::Rollback, release, &standing) else {
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
            let admitted = admit(Intent::Deploy, later, &after);
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
                admit(Intent::Rollback, release, &frozen),
                admit(Intent::Rollback, release, &thawed)
            );
            for intent in [Intent::Deploy, Intent::Promote] {
                prop_assert_eq!(admit(intent, release, &frozen), Err(Refusal::Frozen));
            }
        }

        #[test]
        fn the_default_target_of_a_rollback_is_always_admitted(standing in standings()) {
            if let Ok(target) = rollback_target(&standing) {
                prop_assert!(admit(Intent::Rollback, target, &standing).is_ok());
            }
        }
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
