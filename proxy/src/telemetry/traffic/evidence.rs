//! What a request says about the variant that it was assigned to: a pure function.
//!
//! Only first attempts count: a retry hides the failure from the client, not from the release
//! process.

use std::time::Duration;

use portcullis_config::snapshot::split::CountedErrors;

use super::latency::Step;
use crate::telemetry::series::GRPC_CODES;

/// How a request ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ended {
    /// Whether the request asked for its variant.
    pub(crate) is_forced: bool,
    /// Whether no endpoint of its variant answered, so that the stable variant was to.
    pub(crate) is_missed: bool,
    /// The first attempt that failed conclusively, if another one followed.
    pub(crate) first: Option<Attempt>,
    /// The head of the response, if there was one.
    pub(crate) response: Option<Response>,
    pub(crate) ending: Ending,
    /// From the arrival of the request to its end.
    pub(crate) duration: Duration,
}

/// How the last attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The response is complete, or is what the backend sent to a client that has left.
    Complete,
    /// There is no response of the backend, or it was broken off.
    Failed,
    /// The client left, or did not read the response.
    ClientLeft,
    /// The gateway answered by itself, or its caller's access ended.
    OwnReply,
}

/// An attempt that was followed by another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// The response was not forwarded.
    Rejected(Response),
    /// There was no response.
    Failed,
}

/// The head of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// That of the head, or of the trailers.
    pub(crate) grpc_status: Option<u16>,
    /// From the arrival of the request to the head of the response.
    pub(crate) latency: Duration,
}

/// What a request says about its variant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// The first attempt was responded to.
    Response { status: u16, grpc_code: Option<usize>, is_error: bool, latency: Step },
    /// The first attempt got no complete response.
    Failed,
    /// No endpoint of the variant answered.
    Missed,
    /// The client left before the response began.
    ClientLeft(Step),
    /// Nothing: the request asked for the variant.
    Forced,
    /// Nothing: the gateway answered.
    OwnReply,
}

// === impl Ended ===

impl Ended {
    /// Returns what the request says about its variant.
    /// `errors` are the responses that are errors, if not those of the default.
    pub(crate) fn evidence(self, errors: Option<&CountedErrors>) -> Evidence {
        if self.is_forced {
            return Evidence::Forced;
        }
        if self.is_missed {
            return Evidence::Missed;
        }
        match self.first {
            Some(Attempt::Rejected(response)) => return response.evidence(errors),
            Some(Attempt::Failed) => return Evidence::Failed,
            None => {}
        }
        match (self.ending, self.response) {
            (Ending::Complete | Ending::ClientLeft, Some(response)) => response.evidence(errors),
            (Ending::ClientLeft, None) => Evidence::ClientLeft(Step::of(self.duration)),
            (Ending::Failed, _) | (Ending::Complete, None) => Evidence::Failed,
            (Ending::OwnReply, _) => Evidence::OwnReply,
        }
    }
}

// === impl Response ===

impl Response {
    fn evidence(self, errors: Option<&CountedErrors>) -> Evidence {
        let grpc_code = self.grpc_status.map(|code| usize::from(code).min(GRPC_CODES - 1));
        Evidence::Response {
            status: self.status,
            grpc_code,
            is_error: match errors {
                None => self.status >= 500 || grpc_code.is_some_and(is_grpc_error),
                Some(errors) => errors.has(self.status, self.grpc_status),
            },
            latency: Step::of(self.latency),
        }
    }
}

// === impl Evidence ===

impl Evidence {
    /// Whether the request counts as one that failed; `None` if it does not count.
    pub(super) fn is_error(self) -> Option<bool> {
        match self {
            Self::Response { is_error, .. } => Some(is_error),
            Self::Failed | Self::Missed => Some(true),
            Self::ClientLeft(_) | Self::Forced | Self::OwnReply => None,
        }
    }

    /// How long the client waited for the head of the response, at least.
    pub(super) fn waited(self) -> Option<Step> {
        match self {
            Self::Response { latency: waited, .. } | Self::ClientLeft(waited) => Some(waited),
            Self::Failed | Self::Missed | Self::Forced | Self::OwnReply => None,
        }
    }
}

/// Whether a call failed by the fault of its server, as OpenTelemetry's conventions for gRPC have it:
/// UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE, DATA_LOSS, and codes that gRPC
/// does not have.
fn is_grpc_error(code: usize) -> bool {
    matches!(code, 2 | 4 | 12..=15 | 17..)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RESPONSE: Response =
        Response { status: 200, grpc_status: None, latency: Duration::from_millis(5) };

    const ENDED: Ended = Ended {
        is_forced: false,
        is_missed: false,
        first: None,
        response: Some(RESPONSE),
        ending: Ending::Complete,
        duration: Duration::from_millis(9),
    };

    fn is_error(ended: Ended) -> Option<bool> {
        ended.evidence(None).is_error()
    }

    #[test]
    fn server_errors_and_their_grpc_codes_are_errors() {
        for (status, grpc_status, expected) in [
            (101, None, false),
            (200, None, false),
            (404, None, false),
            (429, None, false),
            (500, None, true),
            (503, Some(0), true),
            (200, Some(0), false),
            (200, Some(5), false),
            (200, Some(2), true),
            (200, Some(14), true),
            (200, Some(16), false),
            (200, Some(99), true),
            (200, Some(u16::MAX), true),
        ] {
            let response = Response { status, grpc_status, ..RESPONSE };
            let ended = Ended { response: Some(response), ..ENDED };
            assert_eq!(is_error(ended), Some(expected), "{status} {grpc_status:?}");
        }
    }

    #[test]
    fn the_first_attempt_counts_and_not_its_retry() {
        let rejected = Response { status: 503, latency: Duration::from_millis(1), ..RESPONSE };
        let ended = Ended { first: Some(Attempt::Rejected(rejected)), ..ENDED };
        assert_eq!(ended.evidence(None), rejected.evidence(None));
        assert_eq!(
            Ended { first: Some(Attempt::Failed), ..ENDED }.evidence(None),
            Evidence::Failed
        );
        let left = Ended { ending: Ending::ClientLeft, ..ended };
        assert_eq!(left.evidence(None), rejected.evidence(None), "whatever came after it");
    }

    #[test]
    fn a_response_that_is_broken_off_is_an_error_unless_the_client_left() {
        assert_eq!(is_error(Ended { ending: Ending::Failed, ..ENDED }), Some(true));
        assert_eq!(is_error(Ended { ending: Ending::Failed, response: None, ..ENDED }), Some(true));
        assert_eq!(is_error(Ended { ending: Ending::ClientLeft, ..ENDED }), Some(false));
        let left = Ended { ending: Ending::ClientLeft, response: None, ..ENDED };
        assert_eq!(left.evidence(None), Evidence::ClientLeft(Step::of(ENDED.duration)));
        assert_eq!(is_error(left), None);
    }

    #[test]
    fn forced_requests_and_own_replies_are_no_evidence_but_a_missed_variant_is() {
        let missed = Ended { is_missed: true, ..ENDED };
        assert_eq!(missed.evidence(None), Evidence::Missed);
        assert_eq!(is_error(missed), Some(true));
        assert_eq!(is_error(Ended { is_forced: true, ..missed }), None);
        assert_eq!(is_error(Ended { ending: Ending::OwnReply, ..ENDED }), None);
    }

    #[test]
    fn a_service_says_which_responses_are_errors() {
        let errors = CountedErrors::new(vec![429], vec![8]);
        let is_error = |status, grpc_status| {
            let response = Some(Response { status, grpc_status, ..RESPONSE });
            Ended { response, ..ENDED }.evidence(Some(&errors)).is_error()
        };
        assert_eq!([429, 500].map(|status| is_error(status, None)), [Some(true), Some(false)]);
        assert_eq!([8, 14].map(|code| is_error(200, Some(code))), [Some(true), Some(false)]);
        let failed = Ended { ending: Ending::Failed, ..ENDED };
        assert_eq!(failed.evidence(Some(&errors)).is_error(), Some(true), "whatever counts");
    }
}
