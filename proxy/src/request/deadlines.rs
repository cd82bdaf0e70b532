//! The timeouts of a request: those of its route, else the configured defaults.

use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue};
use portcullis_config::settings::TimeoutSettings;
use portcullis_config::snapshot::policy::Timeouts;

use crate::forward::Deadlines;
use crate::normalize::Kind;

static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Returns the timeouts of a request of this kind with these fields, which arrived at `started`.
///
/// A timeout of the route replaces the defaults, whether it is shorter or longer: until it has
/// passed, neither a late head nor an idle body ends the exchange.
pub(super) fn deadlines(
    defaults: &TimeoutSettings,
    route: &Timeouts,
    kind: Kind,
    fields: &HeaderMap,
    started: Instant,
) -> Deadlines {
    let call_timeout =
        if kind == Kind::Grpc { fields.get(&GRPC_TIMEOUT).and_then(grpc_timeout) } else { None };
    let allowed = match (route.request, call_timeout) {
        (Some(route), Some(call)) => Some(route.min(call)),
        (route, call) => route.or(call),
    };
    let head = match (route.backend_request, kind) {
        // A streaming call sends its head with the first message, however late.
        (None, Kind::Grpc | Kind::GrpcWeb) => None,
        (None, _) => Some(route.request.unwrap_or(defaults.response_head)),
        (given, _) => given,
    };
    Deadlines {
        whole: allowed.and_then(|allowed| started.checked_add(allowed)),
        head,
        idle: route.request.map_or(defaults.stream_idle, |route| route.max(defaults.stream_idle)),
        client_read: defaults.client_read,
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::normalize::tests::read;

    const GET: &str = "GET / HTTP/1.1\nHost: a";
    const CALL: &str = "POST / HTTP/1.1\nHost: a\nContent-Type: application/grpc\ngrpc-timeout: 5S";

    /// The seconds of `whole`, `head` and `idle`.
    fn seconds(route: &Timeouts, request: &str) -> (Option<u64>, Option<u64>, u64) {
        let started = Instant::now();
        let request = read(request).unwrap();
        let (defaults, kind) = (TimeoutSettings::default(), request.kind);
        let deadlines = deadlines(&defaults, route, kind, &request.headers, started);
        (
            deadlines.whole.map(|whole| whole.duration_since(started).as_secs()),
            deadlines.head.map(|head| head.as_secs()),
            deadlines.idle.as_secs(),
        )
    }

    fn route(request: u64, backend_request: Option<u64>) -> Timeouts {
        Timeouts {
            request: Some(Duration::from_secs(request)),
            backend_request: backend_request.map(Duration::from_secs),
        }
    }

    #[test]
    fn without_timeouts_of_the_route_the_defaults_apply() {
        assert_eq!(seconds(&Timeouts::default(), GET), (None, Some(60), 300));
        assert_eq!(seconds(&Timeouts::default(), CALL), (Some(5), None, 300));
    }

    #[test]
    fn a_timeout_of_the_route_replaces_the_defaults_in_both_directions() {
        assert_eq!(seconds(&route(5, None), GET), (Some(5), Some(5), 300));
        assert_eq!(seconds(&route(90, None), GET), (Some(90), Some(90), 300));
        assert_eq!(seconds(&route(600, None), GET), (Some(600), Some(600), 600));
        assert_eq!(seconds(&route(600, Some(70)), GET), (Some(600), Some(70), 600));
    }

    #[test]
    fn a_client_can_shorten_the_timeout_of_the_route_and_not_extend_it() {
        assert_eq!(seconds(&route(600, None), CALL), (Some(5), None, 600));
        assert_eq!(seconds(&route(2, None), CALL), (Some(2), None, 300));
    }
}
