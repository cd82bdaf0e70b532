//! The vocabulary that users write.

/// Every key that is understood, without prefix.
const KNOWN: [&str; 2] = ["environment", "expose"];

/// Whether `key`, without prefix, is one that has a meaning.
pub(crate) fn is_known(key: &str) -> bool {
    KNOWN.contains(&key)
}
