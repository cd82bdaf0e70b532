//! The laws of reading a PROXY protocol header.

use crate::listen::proxy_protocol::{Header, MAX_HEADER, Progress, read};

/// What a balancer in front may send before the client's octets.
///
/// - A header is done at its last octet, not before it and whatever follows: nothing beyond it is
///   read.
/// - What cannot become a header cannot become one with more octets either.
/// - Never is more waited for than the longest header.
///
/// # Panics
/// Where one of these is broken.
pub fn proxy_protocol(octets: &[u8]) {
    let whole = read(octets);
    match whole {
        Ok(Progress::Done(header)) => done(octets, header),
        Ok(Progress::NeedMore) => {
            assert!(octets.len() < MAX_HEADER);
            for length in 0..octets.len() {
                assert_eq!(read(&octets[..length]), Ok(Progress::NeedMore), "of {length} octets");
            }
        }
        Err(_) => {
            let mut is_refused = false;
            for length in 0..=octets.len() {
                let progress = read(&octets[..length]);
                assert!(
                    !matches!(progress, Ok(Progress::Done(_))),
                    "done with {length} octets, then refused"
                );
                assert!(progress.is_err() || !is_refused, "refused, then not with {length} octets");
                is_refused = progress.is_err();
            }
        }
    }
}

fn done(octets: &[u8], header: Header) {
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
