//! The requests that are counted.

use std::num::NonZeroUsize;

use bytes::BytesMut;

use super::Access;
use crate::exchange::RequestHead;
use crate::http1::head::{self, HeadLimits, HeadScanner};
use crate::normalize::{self, Request};

/// The target of every request.
pub(super) const TARGET: &str = "/api/items/1024?sort=name&page=2";
/// The host of a service with a canary.
pub(super) const SPLIT: &str = "split--closed.example.test";

const LIMITS: HeadLimits = HeadLimits { bytes: 64 * 1024, headers: MAX_HEADERS.get() };
const MAX_HEADERS: NonZeroUsize = NonZeroUsize::new(100).unwrap();

impl Access {
    /// The service's host.
    pub(super) fn host(self) -> &'static str {
        match self {
            Self::Open => "web--open.example.test",
            Self::Token => "web--closed.example.test",
        }
    }

    /// The value of `Authorization`, as long as with a signature by a key of 2,048 bits.
    fn authorization(self) -> Option<String> {
        let token = || format!("{}.{}.{}", "h".repeat(86), "c".repeat(380), "s".repeat(342));
        (self == Self::Token).then(|| format!("Bearer {}", token()))
    }
}

/// The fields besides the host.
pub(super) fn fields(access: Access) -> impl Iterator<Item = (&'static str, String)> {
    let of_all = [
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
        ("accept", "application/json, text/plain, */*"),
        ("accept-language", "en-US,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("cookie", "theme=dark; consent=1"),
    ];
    let authorization = access.authorization().map(|value| ("authorization", value));
    of_all.into_iter().map(|(name, value)| (name, value.to_owned())).chain(authorization)
}

/// A request in HTTP/1.1.
pub(super) fn http1(access: Access, host: &str) -> Vec<u8> {
    let mut request = format!("GET {TARGET} HTTP/1.1\r\nhost: {host}\r\n");
    for (name, value) in fields(access) {
        request.extend([name, ": ", &value, "\r\n"]);
    }
    request.push_str("\r\n");
    request.into_bytes()
}

/// Reads the head of a request in HTTP/1.1.
pub(super) fn parse(octets: BytesMut) -> RequestHead {
    let length = HeadScanner::default().scan(&octets, LIMITS.bytes).ok().flatten();
    assert_eq!(length, Some(octets.len()));
    head::request(octets, LIMITS).unwrap().head
}

/// Normalizes a request.
pub(super) fn normalize(head: RequestHead) -> Request {
    normalize::request(head, false, MAX_HEADERS).unwrap()
}

/// Reads a request in HTTP/1.1, and normalizes it.
pub(super) fn normalized(octets: &[u8]) -> Request {
    normalize(parse(octets.into()))
}
