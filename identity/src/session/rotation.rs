//! Rotates the keys that seal sessions (of logins and of TLS; the assertion key is derived from
//! them).
//!
//! Every replica does it, and the first change wins.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use portcullis_config::live::Live;
use portcullis_config::model::Origin;
use portcullis_config::session::keys::{self, due};
use portcullis_config::settings::Settings;
use portcullis_config::settings::access::AccessSettings;
use portcullis_config::store::credentials::{self, Store, StoreError};
use tokio::time::{sleep, timeout};

use super::NoRandomness;

/// Regular interval of checks whether a rotation is due.
const CHECK_INTERVAL: Duration = Duration::from_secs(60);
/// Expected time until a change is visible here.
const PROPAGATION: Duration = Duration::from_secs(1);

/// Maximum number of attempts where other replicas change the Secret first.
const MAX_ATTEMPTS: usize = 5;

/// Why a rotation on command failed.
#[derive(Debug, thiserror::Error)]
pub enum NotRotated {
    /// The keys are not loaded yet.
    #[error("the session keys are not loaded yet: try again in a few seconds")]
    Unread,
    /// The system returned no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The store rejected the change.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Creates a key now, and with `end` removes the gateway's other keys, which invalidates all that
/// they sealed. Returns the remaining keys, which operators created by hand.
pub async fn rotate_now(
    store: &dyn Store,
    live: &Live,
    end: bool,
) -> Result<Vec<Origin>, NotRotated> {
    let mut published = live.published();
    let mut attempts = 1..MAX_ATTEMPTS;
    loop {
        published.borrow_and_update();
        match rotate_once(store, live, end).await {
            Err(NotRotated::Store(StoreError::Superseded)) if attempts.next().is_some() => {
                drop(timeout(PROPAGATION, published.changed()).await)
            }
            outcome => return outcome,
        }
    }
}

async fn rotate_once(store: &dyn Store, live: &Live, end: bool) -> Result<Vec<Origin>, NotRotated> {
    if live.publications() == 0 {
        return Err(NotRotated::Unread);
    }
    let snapshot = live.snapshot.load_full();
    let credentials = &snapshot.credentials;
    credentials::change(
        store,
        keys::rotate_now(credentials, end, SystemTime::now()).change(random()?),
    )
    .await?;
    tracing::info!(end, "rotated session keys on command");
    let own = credentials.key_ring.as_ref().map(|ring| &ring.origin);
    Ok(credentials
        .session_keys
        .iter()
        .map(|key| &key.origin)
        .filter(|origin| Some(*origin) != own)
        .cloned()
        .collect())
}

fn random() -> Result<[u8; 32], NoRandomness> {
    let mut octets = [0; 32];
    rand::fill(&mut octets).map_err(|_| NoRandomness)?;
    Ok(octets)
}

/// Rotates keys as configured, forever: a task of the control plane.
pub async fn rotate(store: Arc<dyn Store>, live: Arc<Live>, settings: Arc<Settings>) {
    let mut published = live.published();
    let mut last_error = String::new();
    loop {
        published.borrow_and_update();
        let pause = match tick(&*store, &live, &settings.access, SystemTime::now()).await {
            Ok(pause) => pause,
            Err(error) => {
                // Logged once per error: it is retried every minute.
                if last_error != error {
                    tracing::warn!(
                        error,
                        "failed to rotate the session keys: the current keys stay in use. Without \
                         any, sessions are sealed with a key of this process; they are lost when \
                         it restarts, and other replicas cannot open them"
                    );
                }
                last_error = error;
                CHECK_INTERVAL
            }
        };
        sleep(pause).await;
        // Either way the next check follows.
        let _ = timeout(CHECK_INTERVAL, published.changed()).await;
    }
}

/// Rotates if that is due, and returns the minimum pause until the next check.
async fn tick(
    store: &dyn Store,
    live: &Live,
    access: &AccessSettings,
    now: SystemTime,
) -> Result<Duration, String> {
    // Before the first snapshot the keys are unknown.
    if live.publications() == 0 {
        return Ok(Duration::ZERO);
    }
    let Some(rotation) =
        due(&live.snapshot.load().credentials, access.key_rotation, access.session_lifetime(), now)
    else {
        return Ok(Duration::ZERO);
    };
    let make = rotation.make;
    match credentials::change(store, rotation.change(random().map_err(|error| error.to_string())?))
        .await
    {
        Ok(()) => tracing::info!(make, "rotated session keys"),
        // Another replica rotated first.
        Err(StoreError::Superseded) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(PROPAGATION)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::UNIX_EPOCH;

    use futures::future::BoxFuture;
    use portcullis_config::session::Change;
    use portcullis_config::snapshot::Snapshot;
    use portcullis_config::snapshot::access::{Credentials, KeyRing, SessionKey};

    use super::*;

    /// A store that rejects the first changes as superseded, or all because the Secret is missing.
    #[derive(Debug, Default)]
    struct Fake {
        missing: bool,
        others: Mutex<usize>,
        changes: Mutex<Vec<Change>>,
    }

    impl Store for Fake {
        fn change(&self, change: Change) -> BoxFuture<'_, Result<(), StoreError>> {
            Box::pin(async move {
                if self.missing {
                    return Err(StoreError::Missing(change.secret.into_owned()));
                }
                let mut others = self.others.lock().unwrap();
                if let Some(rest) = others.checked_sub(1) {
                    *others = rest;
                    return Err(StoreError::Superseded);
                }
                self.changes.lock().unwrap().push(change);
                Ok(())
            })
        }
    }

    fn publish(live: &Live, keys: &[SessionKey]) {
        let credentials = Credentials { session_keys: keys.to_vec(), ..Credentials::default() };
        live.publish(Arc::new(Snapshot { credentials, ..Snapshot::default() }), Vec::new());
    }

    #[tokio::test]
    async fn no_key_is_created_before_the_keys_are_loaded() {
        let (fake, live, access) = (Fake::default(), Live::default(), AccessSettings::default());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(tick(&fake, &live, &access, now).await, Ok(Duration::ZERO));
        assert!(fake.changes.lock().unwrap().is_empty());

        publish(
            &live,
            &[SessionKey {
                origin: Origin::default(),
                key: vec![1; 32].into(),
                created: Some(now),
            }],
        );
        assert_eq!(tick(&fake, &live, &access, now).await, Ok(Duration::ZERO));
        assert!(fake.changes.lock().unwrap().is_empty());

        publish(&live, &[]);
        assert_eq!(tick(&fake, &live, &access, now).await, Ok(PROPAGATION));
        assert_eq!(tick(&fake, &live, &access, now).await, Ok(PROPAGATION));
        let changes = fake.changes.lock().unwrap();
        let keys: Vec<&[u8]> =
            changes.iter().map(|change| change.add["1800000000"].expose()).collect();
        assert!(keys[0].len() == 32 && keys[0] != keys[1], "each is random");
    }

    #[tokio::test]
    async fn the_error_of_a_missing_secret_names_the_fix() {
        let (fake, live, access) =
            (Fake { missing: true, ..Fake::default() }, Live::default(), AccessSettings::default());
        publish(&live, &[]);
        let error = tick(&fake, &live, &access, SystemTime::now()).await.unwrap_err();
        assert!(
            error.contains("portcullis-session-keys") && error.contains("sessions.yaml"),
            "{error}"
        );
    }
    #[tokio::test(start_paused = true)]
    async fn rotation_on_command_replaces_the_keys_and_retries_conflicts() {
        let (fake, live) = (Fake { others: 3.into(), ..Fake::default() }, Live::default());
        assert!(matches!(rotate_now(&fake, &live, true).await, Err(NotRotated::Unread)));
        let key = |name: &str| SessionKey {
            origin: Origin { name: name.into(), ..Origin::default() },
            key: vec![1; 32].into(),
            created: None,
        };
        let ring = KeyRing {
            origin: key("own").origin,
            version: None,
            entries: ["500".to_owned()].into(),
            has_invalid_entries: false,
        };
        let credentials = Credentials {
            session_keys: vec![key("own"), key("hand-made")],
            key_ring: Some(ring),
            ..Credentials::default()
        };
        live.publish(Arc::new(Snapshot { credentials, ..Snapshot::default() }), Vec::new());
        assert_eq!(rotate_now(&fake, &live, true).await.unwrap(), [key("hand-made").origin]);
        let changes = std::mem::take(&mut *fake.changes.lock().unwrap());
        let [change] = &changes[..] else { panic!("one change") };
        assert!(change.add.len() == 1 && change.remove.iter().eq(["500"]), "{change:?}");
        let fake = Fake { others: 100.into(), ..Fake::default() };
        assert!(matches!(
            rotate_now(&fake, &live, false).await,
            Err(NotRotated::Store(StoreError::Superseded))
        ));
    }
}
