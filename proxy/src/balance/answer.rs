//! What a response says of the endpoint that sent it.

use http::StatusCode;

/// The kind of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Its time is the endpoint's latency.
    Success,
    /// The request was rejected. That is quick, and no sign of a fast endpoint: one that rejects
    /// what others accept must not attract requests.
    Rejection,
    /// The endpoint failed.
    ServerError,
}

// === impl Answer ===

impl Answer {
    /// The answer with this status and, for gRPC calls that fail at once, with the `grpc-status` of
    /// its head (Trailers-Only).
    pub(crate) fn of(status: StatusCode, grpc_status: Option<u16>) -> Self {
        match (status, grpc_status) {
            // These two are about the request.
            (StatusCode::NOT_IMPLEMENTED | StatusCode::HTTP_VERSION_NOT_SUPPORTED, _) => {
                Self::Rejection
            }
            (status, _) if status.is_server_error() => Self::ServerError,
            (status, _) if status.is_client_error() => Self::Rejection,
            (_, None | Some(0)) => Self::Success,
            // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
            (_, Some(2 | 4 | 13 | 14 | 15)) => Self::ServerError,
            (_, Some(_)) => Self::Rejection,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_fails_by_its_own_errors_alone() {
        let answer = |status, grpc| Answer::of(StatusCode::from_u16(status).unwrap(), grpc);
        for status in [101, 200, 204, 304] {
            assert_eq!(answer(status, None), Answer::Success, "{status}");
        }
        for status in [400, 404, 429, 501, 505] {
            assert_eq!(answer(status, None), Answer::Rejection, "{status}");
        }
        for status in [500, 502, 503, 504, 599] {
            assert_eq!(answer(status, None), Answer::ServerError, "{status}");
        }
        for code in [2, 4, 13, 14, 15] {
            assert_eq!(answer(200, Some(code)), Answer::ServerError, "{code}");
        }
        for code in [1, 3, 5, 7, 8, 12, 16, u16::MAX] {
            assert_eq!(answer(200, Some(code)), Answer::Rejection, "{code}");
        }
        assert_eq!(answer(200, Some(0)), Answer::Success);
    }
}
