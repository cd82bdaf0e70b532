//! Rotation of session keys: when a new key is due, and when an old one can be removed.
//!
//! This needs no leader. Each replica checks by itself; of those that find a key due at the same
//! time only the first change applies, since a change is bound to the version of the Secret.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{Change, LEEWAY, Seen};
use crate::model::credential::SESSION_KEYS;
use crate::snapshot::access::Credentials;
use crate::snapshot::certificate::SecretBytes;
use crate::unix_time::seconds;

/// The Secret with the keys that the gateway generates; an entry's name is the time of its creation
/// in seconds since 1970.
pub const SECRET: &str = "portcullis-session-keys";
/// How long after its creation every replica has a key, so that it may seal.
pub const PROPAGATION_DELAY: Duration = Duration::from_secs(60);

/// A rotation of session keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Whether a new key is generated.
    pub make: bool,
    /// The keys to remove, by time of creation.
    retire: BTreeSet<u64>,
    seen: Seen,
    now: u64,
}

/// Returns the rotation that is due at `now`, if any. A key seals for `period`; a session lasts
/// `lifetime` at most.
///
/// Keys that users created count like the gateway's own. As long as there is one of unknown age, no
/// key is generated.
#[must_use]
pub fn due(
    credentials: &Credentials,
    period: Duration,
    lifetime: Duration,
    now: SystemTime,
) -> Option<Rotation> {
    let created: Vec<Option<SystemTime>> =
        credentials.session_keys.iter().map(|key| key.created).collect();
    let all_dated = created.iter().all(Option::is_some);
    let newest = created.iter().flatten().max();
    let make = all_dated && newest.is_none_or(|newest| *newest + period <= now);
    let seen = seen(credentials);
    // A key is needed to open sessions that it sealed until every replica had the next key.
    let is_unused = |created: &u64| {
        let next = credentials
            .session_keys
            .iter()
            .filter_map(|key| key.created)
            .filter(|other| seconds(*other) > *created)
            .min();
        next.is_some_and(|next| next + PROPAGATION_DELAY + lifetime + LEEWAY <= now)
    };
    let retire: BTreeSet<u64> = dated(&seen).filter(is_unused).collect();
    (make || !retire.is_empty()).then(|| Rotation { make, retire, seen, now: seconds(now) })
}

/// Returns a rotation at `now`, whether or not one is due.
///
/// With `revoke` the gateway's other keys are removed, which ends all sessions that they sealed;
/// keys that users created stay.
#[must_use]
pub fn rotate_now(credentials: &Credentials, revoke: bool, now: SystemTime) -> Rotation {
    let seen = seen(credentials);
    let retire = if revoke { dated(&seen).collect() } else { BTreeSet::new() };
    // An existing entry is never changed.
    let is_free = |created: &u64| !seen.entries.contains(&created.to_string());
    let now = (seconds(now)..).find(is_free).unwrap_or_default();
    Rotation { make: true, retire, seen, now }
}

fn seen(credentials: &Credentials) -> Seen {
    let ring = credentials.key_ring.as_ref();
    ring.map(|ring| Seen { version: ring.version.clone(), entries: ring.entries.clone() })
        .unwrap_or_default()
}

/// The times at which the keys in the Secret were created.
fn dated(seen: &Seen) -> impl Iterator<Item = u64> {
    seen.entries.iter().filter_map(|entry| entry.parse().ok())
}

/// Returns the key that seals, or signs, at `now`: the newest that every replica has by then, else
/// the oldest. One of unknown age counts as the oldest.
pub fn in_use<K>(
    keys: &[K],
    created: impl Fn(&K) -> Option<SystemTime>,
    now: SystemTime,
) -> Option<&K> {
    let is_everywhere =
        |key: &&K| created(key).is_none_or(|created| created + PROPAGATION_DELAY <= now);
    let newest = keys.iter().filter(is_everywhere).max_by_key(|key| created(key));
    newest.or_else(|| keys.iter().min_by_key(|key| created(key)))
}

// === impl Rotation ===

impl Rotation {
    /// Returns the change to the Secret; `random` becomes the new key, where one is generated.
    #[must_use]
    pub fn change(self, random: [u8; 32]) -> Change {
        let add = self.make.then(|| (self.now.to_string(), SecretBytes::from(random.to_vec())));
        Change {
            add: BTreeMap::from_iter(add),
            remove: self.retire.iter().map(u64::to_string).collect(),
            only_if: Some(self.seen),
            ..Change::of(SECRET.into(), SESSION_KEYS)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::model::Origin;
    use crate::snapshot::access::{KeyRing, SessionKey};

    const PERIOD: Duration = Duration::from_secs(10_000);
    const LIFETIME: Duration = Duration::from_secs(1000);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Keys that users created, and keys of the gateway.
    fn credentials(others: &[Option<u64>], ring: &[u64]) -> Credentials {
        let key =
            |created| SessionKey { origin: Origin::default(), key: vec![1; 32].into(), created };
        let created =
            others.iter().map(|time| time.map(at)).chain(ring.iter().map(|time| Some(at(*time))));
        let entries = ring.iter().map(u64::to_string).collect();
        let key_ring = KeyRing {
            origin: Origin::default(),
            version: Some("7".into()),
            entries,
            has_invalid_entries: false,
        };
        Credentials {
            session_keys: created.map(key).collect(),
            key_ring: Some(key_ring),
            ..Credentials::default()
        }
    }

    /// The entries that are added and removed at a time.
    fn changed(credentials: &Credentials, now: u64) -> Option<(Vec<String>, Vec<String>)> {
        let change = due(credentials, PERIOD, LIFETIME, at(now))?.change([7; 32]);
        assert_eq!(change.only_if.as_ref().unwrap().version.as_deref(), Some("7"));
        Some((change.add.into_keys().collect(), change.remove.into_iter().collect()))
    }

    fn names(created: &[u64]) -> Vec<String> {
        created.iter().map(u64::to_string).collect()
    }

    #[test]
    fn the_first_key_is_generated_at_once_and_the_next_after_the_period() {
        assert_eq!(changed(&credentials(&[], &[]), 500), Some((names(&[500]), vec![])));
        assert_eq!(changed(&credentials(&[], &[500]), 10_499), None);
        assert_eq!(changed(&credentials(&[], &[500]), 10_500), Some((names(&[10_500]), vec![])));
    }

    #[test]
    fn a_key_is_kept_until_the_last_session_that_it_sealed_has_expired() {
        let rotated = credentials(&[], &[500, 10_500]);
        let expiry = 10_500 + 60 + 1000 + 300;
        assert_eq!(changed(&rotated, expiry - 1), None);
        assert_eq!(changed(&rotated, expiry), Some((vec![], names(&[500]))));
        assert_eq!(
            changed(&credentials(&[], &[500, 10_500]), 20_500),
            Some((names(&[20_500]), names(&[500]))),
            "both at once"
        );
    }

    #[test]
    fn keys_that_users_created_count_and_are_never_removed() {
        assert_eq!(changed(&credentials(&[Some(500)], &[]), 10_499), None);
        assert_eq!(
            changed(&credentials(&[Some(500)], &[]), 10_500),
            Some((names(&[10_500]), vec![]))
        );
        assert_eq!(changed(&credentials(&[Some(500)], &[10_500]), 20_000), None);
    }

    #[test]
    fn no_key_is_generated_beside_one_of_unknown_age() {
        assert_eq!(changed(&credentials(&[None], &[]), 10_500), None);
        assert_eq!(
            changed(&credentials(&[None], &[10, 500]), 20_500),
            Some((vec![], names(&[10])))
        );
    }

    #[test]
    fn a_command_generates_a_key_whether_or_not_one_is_due() {
        let commanded = |credentials: &Credentials, revoke: bool, now: u64| {
            let change = rotate_now(credentials, revoke, at(now)).change([7; 32]);
            assert_eq!(change.only_if.unwrap().version.as_deref(), Some("7"));
            (
                change.add.into_keys().collect::<Vec<_>>(),
                change.remove.into_iter().collect::<Vec<_>>(),
            )
        };
        let both = credentials(&[Some(1), None], &[500, 900]);
        assert_eq!(commanded(&both, false, 1000), (names(&[1000]), vec![]));
        assert_eq!(commanded(&both, true, 1000), (names(&[1000]), names(&[500, 900])));
        assert_eq!(
            commanded(&both, true, 900),
            (names(&[901]), names(&[500, 900])),
            "an existing entry is not overwritten"
        );
    }

    #[test]
    fn a_change_applies_only_to_the_state_that_it_was_computed_from() {
        let change =
            due(&credentials(&[], &[500]), PERIOD, LIFETIME, at(10_500)).unwrap().change([7; 32]);
        let entries = BTreeSet::from(["500".to_owned()]);
        assert_eq!(change.only_if, Some(Seen { version: Some("7".into()), entries }));
        assert_eq!(change.add["10500"].expose(), [7; 32]);
        let none = due(&Credentials::default(), PERIOD, LIFETIME, at(500)).unwrap().change([7; 32]);
        assert_eq!(
            none.only_if,
            Some(Seen::default()),
            "the Secret must still be missing or empty"
        );
    }
}
