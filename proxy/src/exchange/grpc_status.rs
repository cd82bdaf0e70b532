//! `grpc-status` (gRPC over HTTP/2, "Responses").

use http::{HeaderMap, HeaderName};

static GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Returns the status of a gRPC call, from trailers or from a Trailers-Only head. An invalid value
/// becomes `u16::MAX`.
pub(crate) fn grpc_status(fields: &HeaderMap) -> Option<u16> {
    let value = fields.get(&GRPC_STATUS)?;
    Some(value.to_str().ok().and_then(|value| value.parse().ok()).unwrap_or(u16::MAX))
}
