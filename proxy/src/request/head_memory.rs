//! Memory of large request heads: most of it is released once a backend has responded.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::exchange::PathAndQuery;
use crate::memory::{self, Charge};

/// Copies the target of a large head: a slice of the head would keep the whole head in memory.
pub(super) fn detach(target: &mut PathAndQuery, charge: &Charge) {
    if charge.octets() > memory::SMALL {
        *target = target.detached();
    }
}

/// Releases the fields of a large head, except those that the access log records.
pub(super) fn release(headers: &mut HeaderMap, charge: &mut Charge) {
    static RECORDED: [&HeaderName; 2] = [&header::USER_AGENT, &header::REFERER];
    if charge.octets() <= memory::SMALL {
        return;
    }
    let mut recorded = HeaderMap::new();
    for name in RECORDED {
        for value in headers.get_all(name) {
            if let Ok(own) = HeaderValue::from_maybe_shared(copied(value.as_bytes())) {
                recorded.append(name, own);
            }
        }
    }
    *headers = recorded;
    charge.shrink(memory::SMALL + memory::weight(headers));
}

fn copied(octets: &[u8]) -> Bytes {
    Bytes::copy_from_slice(octets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::tests::head;

    #[test]
    fn a_large_head_keeps_only_recorded_fields() {
        let text = format!(
            "GET / HTTP/1.1\nHost: a\nUser-Agent: curl\nX-Forwarded-For: 192.0.2.1\n\
             X-Forwarded-For: 192.0.2.2\nX: {}",
            "x".repeat(9_000)
        );
        let mut head = head(&text);
        let mut charge = memory::tests::charge(&head);
        let before = charge.octets();
        release(&mut head.headers, &mut charge);
        assert_eq!(head.headers.len(), 1);
        assert_eq!(head.headers[header::USER_AGENT], "curl");
        assert!(before > 9_000 && charge.octets() < 6_000, "{before}, {}", charge.octets());
    }

    #[test]
    fn a_small_head_is_unchanged() {
        let mut head = head("GET / HTTP/1.1\nHost: a\nX: y");
        let mut charge = memory::tests::charge(&head);
        let before = charge.octets();
        release(&mut head.headers, &mut charge);
        assert_eq!((head.headers.len(), charge.octets()), (2, before));
    }
}
