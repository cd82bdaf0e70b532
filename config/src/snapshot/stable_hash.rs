//! A hash that is the same in every process and version.

use std::hash::Hasher;
#[expect(deprecated, reason = "std offers SipHash-2-4 with a key under no other name")]
use std::hash::SipHasher;

/// Creates a hasher with a key of 128 bits.
///
/// Only the functions of SipHash-2-4 count here, not the type: the result is the same in every
/// version, or people would change their variants and endpoints with an upgrade.
#[expect(deprecated, reason = "std offers SipHash-2-4 with a key under no other name")]
pub(super) fn stable_hasher((first, second): (u64, u64)) -> impl Hasher {
    SipHasher::new_with_keys(first, second)
}
