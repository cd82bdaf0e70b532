//! Limits the revocations of one user, which every replica stores for the lifetime of a session.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// Maximum number of sessions of one user that are revoked singly; beyond it all are, which is one
/// revocation.
const MAX_SIGN_OUTS: u32 = 256;
/// Maximum number of users counted; beyond it all counters are reset.
const MAX_USERS: usize = 16 * 1024;

/// Counts sign-outs per user.
#[derive(Default)]
pub(super) struct SignOutLimiter {
    users: Mutex<HashMap<UserKey, Count>>,
}

/// Issuer and subject.
type UserKey = (Box<str>, Box<str>);

struct Count {
    since: SystemTime,
    times: u32,
}

// === impl SignOutLimiter ===

impl SignOutLimiter {
    /// Counts a sign-out; returns whether all sessions of the user are to be revoked. `lifetime` is
    /// the maximum lifetime of a session.
    pub(super) fn is_exceeded(
        &self,
        issuer: &str,
        subject: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> bool {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        let user = (issuer.into(), subject.into());
        if users.len() >= MAX_USERS && !users.contains_key(&user) {
            users.clear();
        }
        let count = users.entry(user).or_insert(Count { since: now, times: 0 });
        if count.since + lifetime < now {
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

    const LIFETIME: Duration = Duration::from_secs(1000);

    #[test]
    fn sign_outs_are_counted_for_the_lifetime_of_a_session() {
        let limiter = SignOutLimiter::default();
        let signs_out = |subject: &str, at: u64| {
            limiter.is_exceeded("corp", subject, LIFETIME, UNIX_EPOCH + Duration::from_secs(at))
        };
        assert!((0..MAX_SIGN_OUTS).all(|_| !signs_out("ann", 100)));
        assert!(signs_out("ann", 100) && signs_out("ann", 1100));
        assert!(!signs_out("bob", 100), "other users are not affected");
        assert!(!signs_out("ann", 1101), "counting starts again");
    }

    #[test]
    fn the_number_of_counted_users_is_bounded() {
        let limiter = SignOutLimiter::default();
        for number in 0..=MAX_USERS {
            limiter.is_exceeded("corp", &number.to_string(), LIFETIME, UNIX_EPOCH);
        }
        assert_eq!(limiter.users.lock().unwrap().len(), 1);
    }
}
