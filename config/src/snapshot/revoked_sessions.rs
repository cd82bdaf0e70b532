//! A session that was ended before its time, as the name of an entry of a Secret tells of it.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};

use crate::hex;
use crate::unix_time::seconds;

/// That sessions were ended: those that had begun by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ended {
    /// Whose sessions.
    pub whose: Whose,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// Whose sessions were ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// All: there were more ends than can be told one by one.
    Everybody,
    /// By a hash, from which nobody can tell the session.
    Hash([u8; 16]),
}

/// No entry of a Secret with ended sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("it says neither whose sessions were ended nor when")]
pub struct Garbled;

// === impl Ended ===

impl Ended {
    /// Whether no session can be left that is meant by it, where one lasts for `lasting` at most.
    #[must_use]
    pub fn is_over(&self, lasting: Duration, now: SystemTime) -> bool {
        self.at.saturating_add(lasting.as_secs()) < seconds(now)
    }
}

/// What stands for everybody's sessions in the name of an entry.
const EVERYBODY: &str = "everybody";

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.whose {
            Whose::Everybody => f.write_str(EVERYBODY)?,
            Whose::Hash(hash) => f.write_str(&hex::write(&hash))?,
        }
        write!(f, "-{}", self.at)
    }
}

impl FromStr for Ended {
    type Err = Garbled;

    fn from_str(text: &str) -> Result<Self, Garbled> {
        let (whose, at) = text.split_once('-').ok_or(Garbled)?;
        // `parse` alone would take a sign.
        let at = at
            .bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| at.parse().ok())
            .flatten()
            .ok_or(Garbled)?;
        if whose == EVERYBODY {
            return Ok(Self { whose: Whose::Everybody, at });
        }
        let hash = hex::read(whose).and_then(|hash| hash.try_into().ok()).ok_or(Garbled)?;
        Ok(Self { whose: Whose::Hash(hash), at })
    }
}

impl Serialize for Ended {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ended(number: u16, at: u64) -> Ended {
        let mut hash = [0; 16];
        hash[..2].copy_from_slice(&number.to_be_bytes());
        Ended { whose: Whose::Hash(hash), at }
    }

    #[test]
    fn what_is_no_entry_is_not_read() {
        let good = ended(7, 100).to_string();
        assert_eq!(good.parse(), Ok(ended(7, 100)));
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
            assert_eq!(text.parse::<Ended>(), Err(Garbled), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(hash: [u8; 16], at: u64) {
            for whose in [Whose::Everybody, Whose::Hash(hash)] {
                let text = Ended { whose, at }.to_string();
                prop_assert_eq!(text.parse(), Ok(Ended { whose, at }));
                prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'), "Secrets take it for a key: {}", text);
            }
        }
    }
}
