//! Sessions that were ended before their time: who is meant, and which Secret tells of it.
//!
//! Several ends share a Secret, since a Secret for each would be thousands of objects that every
//! replica lists, and somebody had to be granted to make and delete them. They are spread over a
//! few Secrets, since each end sends one of them in whole to every replica.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, SystemTime};

use super::{Change, LEEWAY};
use crate::model::credential::ENDED_SESSIONS;
use crate::snapshot::access::EndedSessions;
use crate::snapshot::certificate::SecretBytes;
use crate::snapshot::revoked_sessions::{Ended, Whose};
use crate::unix_time::seconds;

/// The Secrets that tell of ended sessions.
pub const SECRETS: [&str; 4] = [
    "portcullis-ended-sessions-1",
    "portcullis-ended-sessions-2",
    "portcullis-ended-sessions-3",
    "portcullis-ended-sessions-4",
];
/// The most ends that one of them tells of: about 400 KB, of the 1 MiB that a Secret may have.
pub const MAX_IN_SECRET: usize = 4096;

/// The change that tells of `ended`, where `known` is what is told already, and a session lasts for
/// `lasting` at most. What nobody needs to be told any more is taken away from the same Secret.
///
/// Where there is no room for so many, all sessions that began before are ended: closed when in
/// doubt.
#[must_use]
pub fn tell(
    known: &[EndedSessions],
    ended: &BTreeSet<Ended>,
    lasting: Duration,
    now: SystemTime,
) -> Change {
    let held = |secret: &str| known.iter().find(|known| *known.origin.name == *secret);
    let all = known.iter().flat_map(|known| known.ended.iter()).chain(ended);
    let mut last: HashMap<Whose, u64> = HashMap::new();
    for ended in all {
        let at = last.entry(ended.whose).or_default();
        *at = ended.at.max(*at);
    }
    let is_needed = |ended: &Ended| is_needed(ended, &last, lasting, now);
    let needed = |secret: &str| {
        held(secret).map_or(0, |known| known.ended.iter().filter(|ended| is_needed(ended)).count())
    };
    let add: BTreeSet<Ended> = ended.iter().copied().filter(is_needed).collect();
    // A Secret that is not there may not be ours to make, and one is enough for most.
    let order = |secret: &str| {
        (needed(secret) + add.len() > MAX_IN_SECRET, held(secret).is_none(), needed(secret))
    };
    let secret = SECRETS.into_iter().min_by_key(|secret| order(secret)).unwrap_or_default();
    let there = || held(secret).into_iter().flat_map(|known| known.ended.iter());
    let (add, remove): (BTreeSet<Ended>, BTreeSet<Ended>) =
        if needed(secret) + add.len() > MAX_IN_SECRET {
            (
                BTreeSet::from([Ended { whose: Whose::Everybody, at: seconds(now) }]),
                there().copied().collect(),
            )
        } else {
            (add, there().copied().filter(|ended| !is_needed(ended)).collect())
        };
    Change {
        secret,
        kind: ENDED_SESSIONS,
        remove: remove.difference(&add).map(Ended::to_string).collect(),
        add: add.iter().map(|ended| (ended.to_string(), SecretBytes::from(Vec::new()))).collect(),
        only_if: None,
    }
}

/// Whether a session may be left that is meant by it, and by no other end; `last` has the last
/// one of each whose sessions were ended.
fn is_needed(
    ended: &Ended,
    last: &HashMap<Whose, u64>,
    lasting: Duration,
    now: SystemTime,
) -> bool {
    let is_over = ended.is_over(lasting + LEEWAY, now);
    let is_repeated = last.get(&ended.whose) > Some(&ended.at);
    let is_among_all =
        ended.whose != Whose::Everybody && last.get(&Whose::Everybody) >= Some(&ended.at);
    !is_over && !is_repeated && !is_among_all
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Origin;

    const LASTING: Duration = Duration::from_secs(1000);

    fn ended(number: u16, at: u64) -> Ended {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        Ended { whose: Whose::Hash(hash), at }
    }

    fn everybody(at: u64) -> Ended {
        Ended { whose: Whose::Everybody, at }
    }

    fn known(secret: usize, ended: impl IntoIterator<Item = Ended>) -> EndedSessions {
        let origin = Origin {
            kind: "Secret",
            namespace: "portcullis".into(),
            name: SECRETS[secret].into(),
            place: None,
        };
        EndedSessions { origin, ended: ended.into_iter().collect(), is_garbled: false }
    }

    fn told(
        known: &[EndedSessions],
        more: &[Ended],
        now: u64,
    ) -> (&'static str, Vec<String>, Vec<String>) {
        let change = tell(
            known,
            &more.iter().copied().collect(),
            LASTING,
            SystemTime::UNIX_EPOCH + Duration::from_secs(now),
        );
        (change.secret, change.add.into_keys().collect(), change.remove.into_iter().collect())
    }

    fn names(ended: &[Ended]) -> Vec<String> {
        ended.iter().map(Ended::to_string).collect()
    }

    #[test]
    fn an_end_goes_to_the_secret_that_tells_of_the_fewest() {
        let (one, more) = (ended(1, 100), [ended(9, 200)]);
        assert_eq!(told(&[], &more, 200), (SECRETS[0], names(&more), vec![]));
        let others = [known(0, [one]), known(1, []), known(2, [])];
        assert_eq!(told(&others, &more, 200).0, SECRETS[1]);
        assert_eq!(
            told(&others[..1], &more, 200).0,
            SECRETS[0],
            "rather than to one that is not there"
        );
    }

    #[test]
    fn what_nobody_needs_any_more_is_taken_away_by_whoever_writes() {
        let (over, needed, more) = (ended(1, 100), ended(2, 101), ended(3, 1400));
        let told = told(&[known(0, [over, needed])], &[more], 1401);
        assert_eq!(told, (SECRETS[0], names(&[more]), names(&[over])));
    }

    #[test]
    fn an_end_of_everybodys_sessions_stands_for_all_before_it() {
        let others = [known(0, [ended(1, 100), ended(2, 500), everybody(300), everybody(400)])];
        let told = told(&others, &[ended(3, 400), ended(4, 600)], 600);
        assert_eq!(
            told,
            (SECRETS[0], names(&[ended(4, 600)]), names(&[ended(1, 100), everybody(300)]))
        );
    }

    #[test]
    fn of_the_same_sessions_the_last_end_stands_for_all_before_it() {
        let others =
            [known(0, [ended(1, 100), ended(2, 100)]), known(1, [ended(1, 150), ended(2, 50)])];
        assert_eq!(
            told(&others, &[ended(1, 200)], 200),
            (SECRETS[1], names(&[ended(1, 200)]), names(&[ended(1, 150), ended(2, 50)]))
        );
        assert_eq!(
            told(&others[..1], &[ended(1, 50)], 200).1,
            names(&[]),
            "what is told already is not told again"
        );
    }

    #[test]
    fn where_there_is_no_room_everybodys_sessions_are_ended() {
        let full =
            |secret| known(secret, (0..MAX_IN_SECRET as u16).map(|number| ended(number, 100)));
        let last = [full(0), full(1), full(2), known(3, [])];
        assert_eq!(told(&last, &[ended(9999, 200)], 200).0, SECRETS[3]);
        let full = [full(0), full(1), full(2), full(3)];
        let (_, add, remove) = told(&full, &[ended(9999, 200)], 200);
        assert_eq!((add, remove.len()), (names(&[everybody(200)]), MAX_IN_SECRET));
    }

    proptest! {
        #[test]
        fn whoever_is_told_of_it_is_told_for_as_long_as_a_session_may_last(
            before in proptest::collection::btree_set((0..20_u16, 0..2000_u64), 0..40),
            more in proptest::collection::btree_set((0..20_u16, 1990..2000_u64), 1..5),
        ) {
            let before: BTreeSet<Ended> = before.into_iter().map(|(number, at)| ended(number, at)).collect();
            let more: BTreeSet<Ended> = more.into_iter().map(|(number, at)| ended(number, at)).collect();
            let change = tell(&[known(0, before.iter().copied())], &more, LASTING, SystemTime::UNIX_EPOCH + Duration::from_secs(2000));
            let after: BTreeSet<String> = before.iter().map(Ended::to_string).filter(|name| !change.remove.contains(name)).chain(change.add.into_keys()).collect();
            let after: Vec<Ended> = after.iter().map(|name| name.parse().unwrap()).collect();
            for needed in before.union(&more).filter(|ended| ended.at + 1000 >= 2000) {
                prop_assert!(after.iter().any(|told| told.whose == needed.whose && told.at >= needed.at), "{} is told", needed);
            }
        }
    }
}
