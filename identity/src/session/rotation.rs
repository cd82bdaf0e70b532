//! Makes the keys that seal sessions (of logins and of TLS, with the key of the assertion derived
//! from them), and takes away those that have done their duty: on every replica, of which the
//! fastest one's change holds.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use portcullis_config::live::Live;
use portcullis_config::model::Origin;
use portcullis_config::session::keys::{due, on_command};
use portcullis_config::settings::Settings;
use portcullis_config::settings::access::AccessSettings;
use portcullis_config::store::session::{self, Store, StoreError};
use tokio::time::{sleep, timeout};

use super::NoRandomness;

/// How often it is looked whether a key is due, without any news.
const LOOK: Duration = Duration::from_secs(60);
/// How long it takes until a change is known here.
const NEWS: Duration = Duration::from_secs(1);

/// How often a change is tried where others were faster.
const AGAIN: usize = 5;

/// Why no key was made on command.
#[derive(Debug, thiserror::Error)]
pub enum NotRotated {
    /// The keys have not been read yet.
    #[error("it is not known yet which keys there are")]
    Unread,
    /// The system gives no random numbers.
    #[error(transparent)]
    NoRandomness(#[from] NoRandomness),
    /// The store did not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes another key now, and with `end` takes away the gateway's others, so that all that they
/// have sealed ends. Tells which keys stay because people made them.
pub async fn rotate_now(
    store: &dyn Store,
    live: &Live,
    end: bool,
) -> Result<Vec<Origin>, NotRotated> {
    let mut published = live.published();
    let mut further = 1..AGAIN;
    loop {
        published.borrow_and_update();
        match rotate_once(store, live, end).await {
            Err(NotRotated::Store(StoreError::Superseded)) if further.next().is_some() => {
                drop(timeout(NEWS, published.changed()).await)
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
    session::change(store, on_command(credentials, end, SystemTime::now()).change(random()?))
        .await?;
    tracing::info!(end, "session keys were rotated on command");
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

/// Sees to keys as the settings say, forever: a task of the control plane.
pub async fn rotate(store: Arc<dyn Store>, live: Arc<Live>, settings: Arc<Settings>) {
    let mut published = live.published();
    let mut told = String::new();
    loop {
        published.borrow_and_update();
        let pause = match look(&*store, &live, &settings.access, SystemTime::now()).await {
            Ok(pause) => pause,
            Err(error) => {
                // Once, and again where it is another one: it is tried every minute.
                if told != error {
                    tracing::warn!(
                        error,
                        "no session key could be made: those that there are stay in use. Without \
                         any, sessions are sealed with a key of this process; they end with it, \
                         and other replicas do not know them"
                    );
                }
                told = error;
                LOOK
            }
        };
        sleep(pause).await;
        // Either way it is looked again.
        let _ = timeout(LOOK, published.changed()).await;
    }
}

/// Does what is due, and tells how long not to look again.
async fn look(
    store: &dyn Store,
    live: &Live,
    access: &AccessSettings,
    now: SystemTime,
) -> Result<Duration, String> {
    // Before the first snapshot it is not known which keys there are.
    if live.publications() == 0 {
        return Ok(Duration::ZERO);
    }
    let Some(rotation) =
        due(&live.snapshot.load().credentials, access.key_rotation, access.sessions_last(), now)
    else {
        return Ok(Duration::ZERO);
    };
    let make = rotation.make;
    match session::change(store, rotation.change(random().map_err(|error| error.to_string())?))
        .await
    {
        Ok(()) => tracing::info!(make, "session keys were rotated"),
        // Another replica saw to it.
        Err(StoreError::Superseded) => {}
        Err(error) => return Err(error.to_string()),
    }
    Ok(NEWS)
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

    /// Takes every change, but as many as others are faster, or none because there is no Secret.
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
                    return Err(StoreError::Missing(change.secret));
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
    async fn no_key_is_made_before_it_is_known_which_there_are() {
        let (fake, live, access) = (Fake::default(), Live::default(), AccessSettings::default());
        let now = UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        assert_eq!(look(&fake, &live, &access, now).await, Ok(Duration::ZERO));
        assert!(fake.changes.lock().unwrap().is_empty());

        publish(
            &live,
            &[SessionKey {
                origin: Origin::default(),
                key: vec![1; 32].into(),
                created: Some(now),
            }],
        );
        assert_eq!(look(&fake, &live, &access, now).await, Ok(Duration::ZERO));
        assert!(fake.changes.lock().unwrap().is_empty());

        publish(&live, &[]);
        assert_eq!(look(&fake, &live, &access, now).await, Ok(NEWS));
        assert_eq!(look(&fake, &live, &access, now).await, Ok(NEWS));
        let changes = fake.changes.lock().unwrap();
        let keys: Vec<&[u8]> =
            changes.iter().map(|change| change.add["1800000000"].expose()).collect();
        assert!(keys[0].len() == 32 && keys[0] != keys[1], "each is random");
    }

    #[tokio::test]
    async fn where_no_key_can_be_made_it_is_told_how_to_mend_it() {
        let (fake, live, access) =
            (Fake { missing: true, ..Fake::default() }, Live::default(), AccessSettings::default());
        publish(&live, &[]);
        let error = look(&fake, &live, &access, SystemTime::now()).await.unwrap_err();
        assert!(
            error.contains("portcullis-session-keys") && error.contains("sessions.yaml"),
            "{error}"
        );
    }
    #[tokio::test(start_paused = true)]
    async fn on_command_a_key_is_made_and_the_others_are_taken_away_though_others_are_faster() {
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
            is_garbled: false,
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
