//! Who signs out so often that there would be no room for the sign-outs of others: all replicas
//! remember each for as long as a session may last.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// The most sessions of one person that are ended one by one; beyond it all of hers are, which is
/// one thing to remember.
const MAX_SIGN_OUTS: u32 = 256;
/// The most people who are counted; beyond it counting begins anew.
const MAX_PEOPLE: usize = 16 * 1024;

/// Counts sign-outs by person.
#[derive(Default)]
pub(super) struct Often {
    people: Mutex<HashMap<Person, Count>>,
}

/// Issuer and subject.
type Person = (Box<str>, Box<str>);

struct Count {
    since: SystemTime,
    times: u32,
}

// === impl Often ===

impl Often {
    /// Counts a sign-out; tells whether all sessions of that person are to be ended. They last for
    /// `lasting` at most.
    pub(super) fn is_too_often(
        &self,
        issuer: &str,
        subject: &str,
        lasting: Duration,
        now: SystemTime,
    ) -> bool {
        let mut people = self.people.lock().unwrap_or_else(PoisonError::into_inner);
        let person = (issuer.into(), subject.into());
        if people.len() >= MAX_PEOPLE && !people.contains_key(&person) {
            people.clear();
        }
        let count = people.entry(person).or_insert(Count { since: now, times: 0 });
        if count.since + lasting < now {
            *count = Count { since: now, times: 0 };
        }
        count.times = count.times.saturating_add(1);
        count.times > MAX_SIGN_OUTS
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    const LASTING: Duration = Duration::from_secs(1000);

    #[test]
    fn one_person_is_counted_for_as_long_as_a_session_may_last() {
        let often = Often::default();
        let signs_out = |subject: &str, at: u64| {
            often.is_too_often("corp", subject, LASTING, UNIX_EPOCH + Duration::from_secs(at))
        };
        assert!((0..MAX_SIGN_OUTS).all(|_| !signs_out("ann", 100)));
        assert!(signs_out("ann", 100) && signs_out("ann", 1100));
        assert!(!signs_out("bob", 100), "others are not meant");
        assert!(!signs_out("ann", 1101), "it begins anew");
    }

    #[test]
    fn no_more_people_are_counted_than_there_is_room_for() {
        let often = Often::default();
        for number in 0..=MAX_PEOPLE {
            often.is_too_often("corp", &number.to_string(), LASTING, UNIX_EPOCH);
        }
        assert_eq!(often.people.lock().unwrap().len(), 1);
    }
}
