//! The laws of reading a backend's HTTP/2 frames.

use super::pieces;
use crate::upstream::http2_law;

/// What a backend sends on a connection with three requests on it, as [`upstream`](crate::upstream)
/// reads it. The first octet says how the rest is cut.
///
/// - It makes no difference how the octets arrive: each stream ends in the same way, and the same
///   frames go out.
/// - What is kept of them stays within the windows, and windows and queues are in order.
///
/// # Panics
/// Where one of these is broken.
pub fn upstream_frames(input: &[u8]) {
    let [seed, octets @ ..] = input else { return };
    let whole = http2_law(pieces(octets, 0));
    for seed in [1, *seed] {
        assert_eq!(whole, http2_law(pieces(octets, seed)), "cut into pieces of {seed}");
    }
}
