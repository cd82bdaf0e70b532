//! Which responses are not forwarded, but followed by another attempt, and after what time: a pure
//! policy.

use std::time::Duration;

use http::HeaderName;
use portcullis_config::snapshot::policy::Retries;

use crate::exchange::ResponseHead;
use crate::exchange::grpc_status::grpc_status;

/// The longest time before the first retry. Each further one is twice as long.
const FIRST_BACK_OFF: Duration = Duration::from_millis(25);
/// The longest time before any retry.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(250);

static GRPC_RETRY_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// Returns after what time another attempt may follow a response, if its status is to be retried;
/// `None` if it is forwarded. `random` is uniform over `u64`, and `earlier` is the number of
/// responses of this request that were not forwarded.
pub(super) fn back_off(
    retries: &Retries,
    head: &ResponseHead,
    earlier: u32,
    random: u64,
) -> Option<Duration> {
    if is_rejected(retries, head) { wait(head, earlier, random) } else { None }
}

/// Whether the status is one that is retried: that of HTTP, or that of gRPC in a response without
/// messages (gRPC over HTTP/2, "Trailers-Only").
fn is_rejected(retries: &Retries, head: &ResponseHead) -> bool {
    if head.status.as_u16() >= 400 && retries.codes.contains(&head.status.as_u16()) {
        return true;
    }
    grpc_status(&head.headers).is_some_and(|code| retries.grpc_codes.contains(&code))
}

/// The server's push-back, else an exponential back-off with full jitter, so that those that were
/// rejected together do not come again together.
fn wait(head: &ResponseHead, earlier: u32, random: u64) -> Option<Duration> {
    if let Some(pushback) = head.headers.get(&GRPC_RETRY_PUSHBACK) {
        // gRFC A6: a negative or malformed value forbids retries.
        return pushback.to_str().ok()?.parse::<u64>().ok().map(Duration::from_millis);
    }
    let longest = FIRST_BACK_OFF.saturating_mul(1 << earlier.min(16)).min(LONGEST_BACK_OFF);
    let jitter = (longest.as_micros() * u128::from(random >> 32)) >> 32;
    Some(Duration::from_micros(u64::try_from(jitter).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue, StatusCode};

    use super::*;

    fn retries() -> Retries {
        Retries { attempts: 1, codes: vec![503], grpc_codes: vec![14], non_idempotent: false }
    }

    fn wait(
        status: u16,
        fields: &[(&'static str, &'static str)],
        earlier: u32,
    ) -> Option<Duration> {
        let headers: HeaderMap = fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let head = ResponseHead { status: StatusCode::from_u16(status).unwrap(), headers };
        back_off(&retries(), &head, earlier, u64::MAX)
    }

    #[test]
    fn a_status_of_the_policy_is_retried_after_a_growing_time() {
        assert_eq!(wait(200, &[], 0), None);
        assert_eq!(wait(500, &[], 0), None);
        for (earlier, longest) in [(0, 25), (1, 50), (3, 200), (4, 250), (1_000, 250)] {
            let waited = wait(503, &[], earlier).unwrap();
            let longest = Duration::from_millis(longest);
            assert!(waited < longest && waited > longest - Duration::from_millis(1));
        }
    }

    #[test]
    fn a_grpc_status_of_the_policy_is_retried_unless_the_server_pushes_back() {
        assert_eq!(wait(200, &[("grpc-status", "0")], 0), None);
        assert_eq!(wait(200, &[("grpc-status", "13")], 0), None);
        assert_eq!(wait(200, &[("grpc-status", "nonsense")], 0), None);
        assert!(wait(200, &[("grpc-status", "14")], 0).is_some());
        for (pushback, expected) in
            [("0", Some(0)), ("1500", Some(1_500)), ("-1", None), ("", None), ("soon", None)]
        {
            let fields = [("grpc-status", "14"), ("grpc-retry-pushback-ms", pushback)];
            assert_eq!(wait(200, &fields, 0), expected.map(Duration::from_millis), "{pushback}");
        }
    }
}
