//! Which responses are errors of the variant that sent them.

use serde::Serialize;

/// The gRPC status of a code that gRPC does not have, `UNKNOWN`.
const UNKNOWN: u16 = 2;
/// The largest gRPC status code, `UNAUTHENTICATED`.
const LAST: u16 = 16;

/// The status codes of HTTP and of gRPC that count as errors in the traffic feed, in ascending order.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct CountedErrors {
    codes: Vec<u16>,
    grpc_codes: Vec<u16>,
}

// === impl CountedErrors ===

impl CountedErrors {
    /// The codes in any order.
    #[must_use]
    pub fn new(mut codes: Vec<u16>, mut grpc_codes: Vec<u16>) -> Self {
        for codes in [&mut codes, &mut grpc_codes] {
            codes.sort_unstable();
            codes.dedup();
        }
        Self { codes, grpc_codes }
    }

    /// Whether a response with this status, and with this gRPC status if it is one of gRPC, is an
    /// error.
    #[must_use]
    pub fn has(&self, status: u16, grpc_status: Option<u16>) -> bool {
        let grpc_status = grpc_status.map(|code| if code > LAST { UNKNOWN } else { code });
        self.codes.binary_search(&status).is_ok()
            || grpc_status.is_some_and(|code| self.grpc_codes.binary_search(&code).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_counts_by_either_status() {
        let counted = CountedErrors::new(vec![503, 429, 429], vec![2, 14]);
        for (status, grpc_status, expected) in [
            (429, None, true),
            (500, None, false),
            (503, Some(0), true),
            (200, Some(14), true),
            (200, Some(13), false),
            (200, Some(99), true),
            (200, None, false),
        ] {
            assert_eq!(counted.has(status, grpc_status), expected, "{status} {grpc_status:?}");
        }
    }
}
