//! A hash that is the same in every process and version.

use std::hash::Hasher;

use siphasher::sip::SipHasher24;

/// Creates a hasher with a key of 128 bits.
///
/// The result is the same in every version, or people would change their variants and endpoints with
/// an upgrade.
pub(super) fn stable_hasher((first, second): (u64, u64)) -> impl Hasher {
    SipHasher24::new_with_keys(first, second)
}
