//! Invariants for arbitrary input, which the fuzz targets in `fuzz/` check; test runs check them on
//! the fuzzing corpora.
//!
//! Each function panics if an invariant is violated.

mod credentials;
mod frames;
mod proxy_protocol;
mod request;
mod response;

pub use self::credentials::credentials;
pub use self::frames::upstream_frames;
pub use self::proxy_protocol::proxy_protocol;
pub use self::request::normalize;
pub use self::response::upstream_response;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::http1::outbound::Outbound;

/// Splits `octets` into pieces whose length is `seed`, as a network might; 0 does not split.
fn pieces(octets: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let length = if seed == 0 { octets.len().max(1) } else { usize::from(seed) };
    octets.chunks(length)
}

/// Flushes `outbound`, and returns what it writes to the transport.
fn flushed(mut outbound: Outbound) -> Vec<u8> {
    let mut octets = Vec::new();
    let flushed =
        outbound.poll_flush(&mut Pin::new(&mut octets), &mut Context::from_waker(Waker::noop()));
    assert!(matches!(flushed, Poll::Ready(Ok(()))), "{flushed:?}");
    octets
}

#[cfg(test)]
mod tests;
