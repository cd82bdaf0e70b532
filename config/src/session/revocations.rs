//! Revocations of sessions: which Secret stores a new one, and which old ones are removed.
//!
//! Revocations share Secrets: one Secret each would be thousands of objects that every replica
//! lists, and the gateway would need the right to create and delete them. They are spread across a
//! few Secrets because each revocation sends one whole Secret to every replica.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use super::{Change, LEEWAY};
use crate::model::credential::REVOKED_SESSIONS;
use crate::snapshot::access::RevokedSessions;
use crate::snapshot::certificate::SecretBytes;
use crate::snapshot::revoked_sessions::{Revocation, RevocationScope};
use crate::unix_time::seconds;

/// The Secrets that store revocations.
pub const SECRETS: [&str; 4] = [
    "portcullis-ended-sessions-1",
    "portcullis-ended-sessions-2",
    "portcullis-ended-sessions-3",
    "portcullis-ended-sessions-4",
];
/// The most revocations in one Secret: about 400 KB, of the 1 MiB that a Secret may have.
pub const MAX_IN_SECRET: usize = 4096;

/// Returns the change that stores `new` revocations. `stored` are those in the Secrets; a session
/// lasts `lifetime` at most. Entries of the changed Secret that are no longer needed are removed.
///
/// Where there is no room, all sessions that began before `now` are revoked instead: fail closed.
#[must_use]
pub fn revoke(
    stored: &[RevokedSessions],
    new: &BTreeSet<Revocation>,
    lifetime: Duration,
    now: SystemTime,
) -> Change {
    let find = |secret: &str| stored.iter().find(|list| *list.origin.name == *secret);
    let entries = |secret: &str| find(secret).into_iter().flat_map(|list| list.revocations.iter());
    let all = stored.iter().flat_map(|list| list.revocations.iter()).chain(new);
    let mut latest: HashMap<RevocationScope, u64> = HashMap::new();
    for revocation in all {
        let at = latest.entry(revocation.scope).or_default();
        *at = revocation.at.max(*at);
    }
    let is_needed = |revocation: &Revocation| is_needed(revocation, &latest, lifetime, now);
    let needed = |secret: &str| entries(secret).filter(|revocation| is_needed(revocation)).count();
    let add: BTreeSet<Revocation> = new.iter().copied().filter(is_needed).collect();
    // A missing Secret may not be allowed to be created, and one is enough for most gateways.
    let order = |secret: &str| {
        (needed(secret) + add.len() > MAX_IN_SECRET, find(secret).is_none(), needed(secret))
    };
    let secret = SECRETS.into_iter().min_by_key(|secret| order(secret)).unwrap_or_default();
    let (add, remove): (BTreeSet<Revocation>, BTreeSet<Revocation>) =
        if needed(secret) + add.len() > MAX_IN_SECRET {
            (
                BTreeSet::from([Revocation { scope: RevocationScope::All, at: seconds(now) }]),
                entries(secret).copied().collect(),
            )
        } else {
            (add, entries(secret).copied().filter(|entry| !is_needed(entry)).collect())
        };
    Change {
        remove: remove.difference(&add).map(Revocation::to_string).collect(),
        add: add.iter().map(|entry| (entry.to_string(), SecretBytes::from(Vec::new()))).collect(),
        ..Change::of(secret.into(), REVOKED_SESSIONS)
    }
}

/// Whether a live session may be covered by `revocation` and by no other one; `latest` has the time
/// of the last revocation of each scope.
fn is_needed(
    revocation: &Revocation,
    latest: &HashMap<RevocationScope, u64>,
    lifetime: Duration,
    now: SystemTime,
) -> bool {
    let is_expired = revocation.is_expired(lifetime + LEEWAY, now);
    let is_superseded = latest.get(&revocation.scope) > Some(&revocation.at);
    let is_covered_by_all = revocation.scope != RevocationScope::All
        && latest.get(&RevocationScope::All) >= Some(&revocation.at);
    !is_expired && !is_superseded && !is_covered_by_all
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use proptest::prelude::*;

    use super::*;
    use crate::model::Origin;

    const LIFETIME: Duration = Duration::from_secs(1000);

    fn revocation(number: u16, at: u64) -> Revocation {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        Revocation { scope: RevocationScope::Hash(hash), at }
    }

    fn all(at: u64) -> Revocation {
        Revocation { scope: RevocationScope::All, at }
    }

    fn stored(secret: usize, revocations: impl IntoIterator<Item = Revocation>) -> RevokedSessions {
        let origin = Origin {
            kind: "Secret",
            namespace: "portcullis".into(),
            name: SECRETS[secret].into(),
            place: None,
        };
        RevokedSessions {
            origin,
            revocations: revocations.into_iter().collect(),
            has_invalid_entries: false,
        }
    }

    /// The Secret that is changed, with the entries that are added and removed.
    fn change(
        stored: &[RevokedSessions],
        new: &[Revocation],
        now: u64,
    ) -> (Cow<'static, str>, Vec<String>, Vec<String>) {
        let change = revoke(
            stored,
            &new.iter().copied().collect(),
            LIFETIME,
            SystemTime::UNIX_EPOCH + Duration::from_secs(now),
        );
        (change.secret, change.add.into_keys().collect(), change.remove.into_iter().collect())
    }

    fn names(revocations: &[Revocation]) -> Vec<String> {
        revocations.iter().map(Revocation::to_string).collect()
    }

    #[test]
    fn a_revocation_goes_to_the_secret_with_the_fewest() {
        let (one, new) = (revocation(1, 100), [revocation(9, 200)]);
        assert_eq!(change(&[], &new, 200), (SECRETS[0].into(), names(&new), vec![]));
        let others = [stored(0, [one]), stored(1, []), stored(2, [])];
        assert_eq!(change(&others, &new, 200).0, SECRETS[1]);
        assert_eq!(
            change(&others[..1], &new, 200).0,
            Cow::Borrowed(SECRETS[0]),
            "an existing Secret comes before a missing one"
        );
    }

    #[test]
    fn expired_revocations_are_removed_from_the_changed_secret() {
        let (expired, needed, new) = (revocation(1, 100), revocation(2, 101), revocation(3, 1400));
        let changed = change(&[stored(0, [expired, needed])], &[new], 1401);
        assert_eq!(changed, (SECRETS[0].into(), names(&[new]), names(&[expired])));
    }

    #[test]
    fn a_revocation_of_all_sessions_supersedes_the_earlier_ones() {
        let others = [stored(0, [revocation(1, 100), revocation(2, 500), all(300), all(400)])];
        let changed = change(&others, &[revocation(3, 400), revocation(4, 600)], 600);
        assert_eq!(
            changed,
            (
                SECRETS[0].into(),
                names(&[revocation(4, 600)]),
                names(&[revocation(1, 100), all(300)])
            )
        );
    }

    #[test]
    fn the_last_revocation_of_a_scope_supersedes_the_earlier_ones() {
        let others = [
            stored(0, [revocation(1, 100), revocation(2, 100)]),
            stored(1, [revocation(1, 150), revocation(2, 50)]),
        ];
        assert_eq!(
            change(&others, &[revocation(1, 200)], 200),
            (
                SECRETS[1].into(),
                names(&[revocation(1, 200)]),
                names(&[revocation(1, 150), revocation(2, 50)])
            )
        );
        assert_eq!(
            change(&others[..1], &[revocation(1, 50)], 200).1,
            names(&[]),
            "a superseded revocation is not stored"
        );
    }

    #[test]
    fn all_sessions_are_revoked_when_no_secret_has_room() {
        let full = |secret| {
            stored(secret, (0..MAX_IN_SECRET as u16).map(|number| revocation(number, 100)))
        };
        let last = [full(0), full(1), full(2), stored(3, [])];
        assert_eq!(change(&last, &[revocation(9999, 200)], 200).0, SECRETS[3]);
        let full = [full(0), full(1), full(2), full(3)];
        let (_, add, remove) = change(&full, &[revocation(9999, 200)], 200);
        assert_eq!((add, remove.len()), (names(&[all(200)]), MAX_IN_SECRET));
    }

    proptest! {
        #[test]
        fn every_session_stays_revoked_for_its_whole_lifetime(
            before in proptest::collection::btree_set((0..20_u16, 0..2000_u64), 0..40),
            new in proptest::collection::btree_set((0..20_u16, 1990..2000_u64), 1..5),
        ) {
            let set = |pairs: BTreeSet<(u16, u64)>| -> BTreeSet<Revocation> {
                pairs.into_iter().map(|(number, at)| revocation(number, at)).collect()
            };
            let (before, new) = (set(before), set(new));
            let now = SystemTime::UNIX_EPOCH + Duration::from_secs(2000);
            let change = revoke(&[stored(0, before.iter().copied())], &new, LIFETIME, now);
            let kept = before.iter().map(Revocation::to_string);
            let after: BTreeSet<String> = kept
                .filter(|name| !change.remove.contains(name))
                .chain(change.add.into_keys())
                .collect();
            let after: Vec<Revocation> = after.iter().map(|name| name.parse().unwrap()).collect();
            for needed in before.union(&new).filter(|revocation| revocation.at + 1000 >= 2000) {
                let covers = |other: &Revocation| {
                    other.scope == needed.scope && other.at >= needed.at
                };
                prop_assert!(after.iter().any(covers), "{} is not stored", needed);
            }
        }
    }
}
