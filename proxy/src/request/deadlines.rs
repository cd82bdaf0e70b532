//! The timeouts of a request: those of its route, else the configured defaults.

use std::time::Instant;

use http::HeaderMap;
use portcullis_config::settings::TimeoutSettings;
use portcullis_config::snapshot::policy::Timeouts;

use crate::exchange::grpc_timeout::{self, GRPC_TIMEOUT};
use crate::forward::Deadlines;
use crate::normalize::Kind;

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
    let value = if kind == Kind::Grpc { fields.get(&GRPC_TIMEOUT) } else { None };
    let call_timeout = value.and_then(grpc_timeout::parse);
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
    let idle = || route.request.map_or(defaults.stream_idle, |all| all.max(defaults.stream_idle));
    // What cannot be connected to leaves time for another endpoint, and is ejected.
    let connect = || route.request.map_or(defaults.connect, |all| (all / 2).min(defaults.connect));
    let is_shorter = |call| route.request.is_none_or(|route| call < route);
    Deadlines {
        is_callers: call_timeout.is_some_and(is_shorter),
        whole: allowed.and_then(|allowed| started.checked_add(allowed)),
        connect: route.connect.unwrap_or_else(connect),
        head,
        idle: route.idle.unwrap_or_else(idle),
        client_read: defaults.client_read,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
            ..Timeouts::default()
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

    #[test]
    fn the_caller_is_the_one_that_waits_no_longer_if_its_time_is_shorter() {
        let is_callers = |route: &Timeouts, request: &str| {
            let request = read(request).unwrap();
            let (defaults, kind, now) = (TimeoutSettings::default(), request.kind, Instant::now());
            deadlines(&defaults, route, kind, &request.headers, now).is_callers
        };
        assert!(is_callers(&Timeouts::default(), CALL));
        assert!(is_callers(&route(6, None), CALL));
        assert!(!is_callers(&route(5, None), CALL));
        assert!(!is_callers(&route(6, None), GET));
    }

    #[test]
    fn each_timeout_of_the_route_replaces_its_default() {
        let of = |route: &Timeouts| {
            let request = read(GET).unwrap();
            let (defaults, kind, now) = (TimeoutSettings::default(), request.kind, Instant::now());
            let deadlines = deadlines(&defaults, route, kind, &request.headers, now);
            (deadlines.connect.as_secs(), deadlines.idle.as_secs())
        };
        assert_eq!(of(&Timeouts::default()), (5, 300));
        let (connect, idle) = (Some(Duration::from_secs(20)), Some(Duration::from_secs(7200)));
        assert_eq!(of(&Timeouts { connect, idle, ..route(60, None) }), (20, 7200));
        let (connect, idle) = (Some(Duration::from_secs(1)), Some(Duration::from_secs(2)));
        assert_eq!(of(&Timeouts { connect, idle, ..route(600, None) }), (1, 2));
        assert_eq!(of(&route(4, None)), (2, 300), "there is time for another endpoint");
    }
}
