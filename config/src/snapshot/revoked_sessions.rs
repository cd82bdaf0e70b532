//! Revocations of sessions, each stored as the name of an entry of a Secret.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::unix_time::seconds;

/// A revocation of sessions: of those in its scope that began at or before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revocation {
    /// Which sessions are revoked.
    pub scope: RevocationScope,
    /// When they were revoked, in seconds since 1970.
    pub at: u64,
}

/// Which sessions a revocation covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RevocationScope {
    /// All sessions: there were too many revocations to list them one by one.
    All,
    /// The sessions with this hash, which does not reveal the session.
    Hash([u8; 16]),
}

/// The text is not an entry of a Secret with revoked sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it is not a scope and a time, such as `everybody-1767225600`")]
pub struct InvalidRevocation;

// === impl Revocation ===

impl Revocation {
    /// Whether no session that it covers can be left, where a session lasts `lifetime` at most.
    #[must_use]
    pub fn is_expired(&self, lifetime: Duration, now: SystemTime) -> bool {
        self.at.saturating_add(lifetime.as_secs()) < seconds(now)
    }
}

/// The scope of all sessions in the name of an entry.
const ALL: &str = "everybody";

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            RevocationScope::All => f.write_str(ALL)?,
            RevocationScope::Hash(hash) => f.write_str(&hex::encode(hash))?,
        }
        write!(f, "-{}", self.at)
    }
}

impl FromStr for Revocation {
    type Err = InvalidRevocation;

    fn from_str(text: &str) -> Result<Self, InvalidRevocation> {
        let (scope, at) = text.split_once('-').ok_or(InvalidRevocation)?;
        // `parse` alone would accept a sign.
        let at = at
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| at.parse().ok())
            .flatten()
            .ok_or(InvalidRevocation)?;
        if scope == ALL {
            return Ok(Self { scope: RevocationScope::All, at });
        }
        let mut hash = [0; 16];
        hex::decode_to_slice(scope, &mut hash).map_err(|_| InvalidRevocation)?;
        Ok(Self { scope: RevocationScope::Hash(hash), at })
    }
}

impl Serialize for Revocation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn revocation(number: u16, at: u64) -> Revocation {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        Revocation { scope: RevocationScope::Hash(hash), at }
    }

    #[test]
    fn a_malformed_entry_is_rejected() {
        let good = revocation(7, 100).to_string();
        assert_eq!(good.parse(), Ok(revocation(7, 100)));
        let short = good.replacen("00", "", 1);
        for text in [
            "",
            "-",
            "-1",
            "everybody",
            "everybody-",
            "everybody-+1",
            "everybody-1x",
            &good[1..],
            &short,
            &good.replace("00", "+0"),
            "é-1",
        ] {
            assert_eq!(text.parse::<Revocation>(), Err(InvalidRevocation), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_written_entry_is_read_back(hash: [u8; 16], at: u64) {
            for scope in [RevocationScope::All, RevocationScope::Hash(hash)] {
                let text = Revocation { scope, at }.to_string();
                prop_assert_eq!(text.parse(), Ok(Revocation { scope, at }));
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "not a valid key of a Secret: {}", text);
            }
        }
    }
}
