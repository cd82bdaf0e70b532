//! How long a request may take.

use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};
use portcullis_config::snapshot::rule::Rule;

use crate::forward::Deadlines;
use crate::normalize::{Kind, Request};
use crate::worker_context::WorkerContext;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The deadlines of a request that started then: those of its rule, of a gRPC client, and of the
/// configuration.
pub(super) fn deadlines(
    worker: &WorkerContext,
    request: &Request,
    rule: &Rule,
    started: Instant,
) -> Deadlines {
    let timeouts = &worker.settings.timeouts;
    let call_timeout = if request.kind == Kind::Grpc {
        request.headers.get(&GRPC_TIMEOUT).and_then(grpc_timeout)
    } else {
        None
    };
    let allowed = match (rule.policy.timeouts.request, call_timeout) {
        (Some(rule), Some(call)) => Some(rule.min(call)),
        (rule, call) => rule.or(call),
    };
    let head = match (rule.policy.timeouts.backend_request, request.kind) {
        // A streaming call sends its head with the first message, however late.
        (None, Kind::Grpc | Kind::GrpcWeb) => None,
        (None, _) => Some(timeouts.response_head),
        (given, _) => given,
    };
    Deadlines {
        whole: allowed.and_then(|allowed| started.checked_add(allowed)),
        head,
        idle: timeouts.stream_idle,
        client_read: timeouts.client_read,
    }
}

/// Parses `grpc-timeout` (gRPC over HTTP/2, "Timeout"): up to eight digits and a unit.
fn grpc_timeout(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit())
    {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}
