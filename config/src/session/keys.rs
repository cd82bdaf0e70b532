//! When the gateway makes a key that seals sessions, and when one has done its duty.
//!
//! No replica need lead for this: each looks by itself, and of those that find a key due at the
//! same time the first one's change holds, since a change holds only for the Secret as it was seen.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use super::{Change, LEEWAY, Seen};
use crate::model::credential::SESSION_KEYS;
use crate::snapshot::access::Credentials;
use crate::snapshot::certificate::SecretBytes;
use crate::unix_time::seconds;

/// The Secret with the keys that the gateway makes; each entry is named by when it was made, in
/// seconds since 1970.
pub const SECRET: &str = "portcullis-session-keys";
/// How long after it was made a key is known to every replica, and seals.
pub const KNOWN_AFTER: Duration = Duration::from_secs(60);

/// What is to be done about keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// Whether another key is to be made now.
    pub make: bool,
    /// When the keys were made that have done their duty.
    retire: BTreeSet<u64>,
    seen: Seen,
    now: u64,
}

/// What is to be done about keys at `now`, where one seals for `period`, and sessions last for
/// `lasting` at most; `None` where nothing is.
///
/// Keys that people made are as good as the gateway's own, but for those of unknown age: as long as
/// there is one, none is made.
#[must_use]
pub fn due(
    credentials: &Credentials,
    period: Duration,
    lasting: Duration,
    now: SystemTime,
) -> Option<Rotation> {
    let made: Vec<Option<SystemTime>> =
        credentials.session_keys.iter().map(|key| key.created).collect();
    let all_dated = made.iter().all(Option::is_some);
    let newest = made.iter().flatten().max();
    let make = all_dated && newest.is_none_or(|newest| *newest + period <= now);
    let seen = seen(credentials);
    // It opens what it sealed last, which was when the next one was known to all.
    let is_over = |made: &u64| {
        let next = credentials
            .session_keys
            .iter()
            .filter_map(|key| key.created)
            .filter(|other| seconds(*other) > *made)
            .min();
        next.is_some_and(|next| next + KNOWN_AFTER + lasting + LEEWAY <= now)
    };
    let retire: BTreeSet<u64> = dated(&seen).filter(is_over).collect();
    (make || !retire.is_empty()).then(|| Rotation { make, retire, seen, now: seconds(now) })
}

/// Another key at `now`, whatever is due. With `end` the gateway's other keys go, and with them all
/// that they have sealed; those that people made stay.
#[must_use]
pub fn on_command(credentials: &Credentials, end: bool, now: SystemTime) -> Rotation {
    let seen = seen(credentials);
    let retire = if end { dated(&seen).collect() } else { BTreeSet::new() };
    // An entry that is there is never changed.
    let is_free = |made: &u64| !seen.entries.contains(&made.to_string());
    let now = (seconds(now)..).find(is_free).unwrap_or_default();
    Rotation { make: true, retire, seen, now }
}

fn seen(credentials: &Credentials) -> Seen {
    let ring = credentials.key_ring.as_ref();
    ring.map(|ring| Seen { version: ring.version.clone(), entries: ring.entries.clone() })
        .unwrap_or_default()
}

/// When the keys were made.
fn dated(seen: &Seen) -> impl Iterator<Item = u64> {
    seen.entries.iter().filter_map(|entry| entry.parse().ok())
}

/// Which of `keys` seals, or signs, at `now`: the newest that every replica knows by then, else the
/// oldest. One of unknown age counts as the oldest.
pub fn in_use<K>(
    keys: &[K],
    created: impl Fn(&K) -> Option<SystemTime>,
    now: SystemTime,
) -> Option<&K> {
    let is_known = |key: &&K| created(key).is_none_or(|created| created + KNOWN_AFTER <= now);
    let newest = keys.iter().filter(is_known).max_by_key(|key| created(key));
    newest.or_else(|| keys.iter().min_by_key(|key| created(key)))
}

// === impl Rotation ===

impl Rotation {
    /// The change to the Secret; `random` becomes the key, where one is to be made.
    #[must_use]
    pub fn change(self, random: [u8; 32]) -> Change {
        let add = self.make.then(|| (self.now.to_string(), SecretBytes::from(random.to_vec())));
        Change {
            secret: SECRET,
            kind: SESSION_KEYS,
            add: BTreeMap::from_iter(add),
            remove: self.retire.iter().map(u64::to_string).collect(),
            only_if: Some(self.seen),
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
    const LASTING: Duration = Duration::from_secs(1000);

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    /// Keys of people, and of the gateway.
    fn credentials(others: &[Option<u64>], ring: &[u64]) -> Credentials {
        let key =
            |created| SessionKey { origin: Origin::default(), key: vec![1; 32].into(), created };
        let created =
            others.iter().map(|made| made.map(at)).chain(ring.iter().map(|made| Some(at(*made))));
        let entries = ring.iter().map(u64::to_string).collect();
        let key_ring = KeyRing {
            origin: Origin::default(),
            version: Some("7".into()),
            entries,
            is_garbled: false,
        };
        Credentials {
            session_keys: created.map(key).collect(),
            key_ring: Some(key_ring),
            ..Credentials::default()
        }
    }

    /// What is added and taken away at a time.
    fn changed(credentials: &Credentials, now: u64) -> Option<(Vec<String>, Vec<String>)> {
        let change = due(credentials, PERIOD, LASTING, at(now))?.change([7; 32]);
        assert_eq!(change.only_if.as_ref().unwrap().version.as_deref(), Some("7"));
        Some((change.add.into_keys().collect(), change.remove.into_iter().collect()))
    }

    fn names(made: &[u64]) -> Vec<String> {
        made.iter().map(u64::to_string).collect()
    }

    #[test]
    fn the_first_key_is_made_at_once_and_the_next_when_its_time_is_over() {
        assert_eq!(changed(&credentials(&[], &[]), 500), Some((names(&[500]), vec![])));
        assert_eq!(changed(&credentials(&[], &[500]), 10_499), None);
        assert_eq!(changed(&credentials(&[], &[500]), 10_500), Some((names(&[10_500]), vec![])));
    }

    #[test]
    fn a_key_stays_until_the_last_session_that_it_sealed_is_over() {
        let rotated = credentials(&[], &[500, 10_500]);
        let over = 10_500 + 60 + 1000 + 300;
        assert_eq!(changed(&rotated, over - 1), None);
        assert_eq!(changed(&rotated, over), Some((vec![], names(&[500]))));
        assert_eq!(
            changed(&credentials(&[], &[500, 10_500]), 20_500),
            Some((names(&[20_500]), names(&[500]))),
            "both at once"
        );
    }

    #[test]
    fn keys_that_people_made_count_and_are_never_taken_away() {
        assert_eq!(changed(&credentials(&[Some(500)], &[]), 10_499), None);
        assert_eq!(
            changed(&credentials(&[Some(500)], &[]), 10_500),
            Some((names(&[10_500]), vec![]))
        );
        assert_eq!(changed(&credentials(&[Some(500)], &[10_500]), 20_000), None);
    }

    #[test]
    fn beside_a_key_of_unknown_age_none_is_made() {
        assert_eq!(changed(&credentials(&[None], &[]), 10_500), None);
        assert_eq!(
            changed(&credentials(&[None], &[10, 500]), 20_500),
            Some((vec![], names(&[10])))
        );
    }

    #[test]
    fn on_command_there_is_another_key_whatever_is_due() {
        let commanded = |credentials: &Credentials, end: bool, now: u64| {
            let change = on_command(credentials, end, at(now)).change([7; 32]);
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
            "a key that is there is not made another"
        );
    }

    #[test]
    fn a_change_holds_only_for_what_was_seen() {
        let change =
            due(&credentials(&[], &[500]), PERIOD, LASTING, at(10_500)).unwrap().change([7; 32]);
        let entries = BTreeSet::from(["500".to_owned()]);
        assert_eq!(change.only_if, Some(Seen { version: Some("7".into()), entries }));
        assert_eq!(change.add["10500"].expose(), [7; 32]);
        let none = due(&Credentials::default(), PERIOD, LASTING, at(500)).unwrap().change([7; 32]);
        assert_eq!(
            none.only_if,
            Some(Seen::default()),
            "the Secret must still not be there, or be empty"
        );
    }
}
