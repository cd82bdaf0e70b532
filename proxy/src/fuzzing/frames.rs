//! Invariants of reading a backend's HTTP/2 frames.

use super::pieces;
use crate::upstream::check_http2_invariants;

/// Checks what a backend sends on a connection with three requests. The first octet determines how
/// the rest is split.
///
/// - The result and the sent frames do not depend on how the octets are split.
/// - Buffered data stays within the windows, and windows and queues are consistent.
///
/// # Panics
/// Panics if an invariant is violated.
pub fn upstream_frames(input: &[u8]) {
    let [seed, octets @ ..] = input else { return };
    let whole = check_http2_invariants(pieces(octets, 0));
    for seed in [1, *seed] {
        assert_eq!(
            whole,
            check_http2_invariants(pieces(octets, seed)),
            "split into pieces of {seed}"
        );
    }
}
