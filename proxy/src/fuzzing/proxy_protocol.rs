//! Invariants of reading a PROXY protocol header.

use crate::listen::proxy_protocol::{Header, MAX_HEADER, Progress, read};

/// Checks what a load balancer sends before the client's octets.
///
/// - A header is complete at its last octet, and independent of what follows.
/// - A rejected prefix stays rejected with more octets.
/// - The parser never waits for more than the maximum length.
///
/// # Panics
/// Panics if an invariant is violated.
pub fn proxy_protocol(octets: &[u8]) {
    let whole = read(octets);
    match whole {
        Ok(Progress::Done(header)) => check_complete(octets, header),
        Ok(Progress::NeedMore) => {
            assert!(octets.len() < MAX_HEADER);
            for length in 0..octets.len() {
                assert_eq!(read(&octets[..length]), Ok(Progress::NeedMore), "of {length} octets");
            }
        }
        Err(_) => {
            let mut is_rejected = false;
            for length in 0..=octets.len() {
                let progress = read(&octets[..length]);
                assert!(
                    !matches!(progress, Ok(Progress::Done(_))),
                    "complete with {length} octets, then rejected"
                );
                assert!(
                    progress.is_err() || !is_rejected,
                    "rejected, then not with {length} octets"
                );
                is_rejected = progress.is_err();
            }
        }
    }
}

fn check_complete(octets: &[u8], header: Header) {
    assert!(header.length <= octets.len() && header.length <= MAX_HEADER);
    for length in 0..header.length {
        assert_eq!(read(&octets[..length]), Ok(Progress::NeedMore), "of {length} octets");
    }
    let alone = &octets[..header.length];
    assert_eq!(read(alone), Ok(Progress::Done(header)));
    for tail in [&[0_u8][..], b"\n", b"\r\n", b"PROXY UNKNOWN\r\n", &[0xff; 300]] {
        assert_eq!(
            read(&[alone, tail].concat()),
            Ok(Progress::Done(header)),
            "followed by {tail:?}"
        );
    }
}
