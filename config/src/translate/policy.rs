//! Request policies from annotations: timeout, retries, limits, paths.

use std::collections::BTreeSet;
use std::num::NonZeroU64;
use std::time::Duration;

use super::access::NamespaceAccess;
use super::annotations::{Reader, Reading};
use super::health_check;
use super::rate_limit;
use super::retry_on::{self, RetryOn};
use super::variants;
use crate::model::duration;
use crate::model::vocabulary::{
    CONNECT_TIMEOUT, FIRST_BYTE_TIMEOUT, IDLE_TIMEOUT, Key, LOAD_BALANCING, MAX_BODY, PATHS,
    RETRIES, RETRY_NON_IDEMPOTENT, RETRY_ON, TIMEOUT,
};
use crate::snapshot::policy::{LoadBalancing, Policy, Retries, Timeouts};
use crate::snapshot::rate_limit::RateLimit;
use crate::snapshot::rule::PathPrefix;

/// The maximum number of retries that can be configured.
pub const MAX_RETRIES: u8 = 10;

/// The most segments of a path prefix: as many as the longest has are looked up for each request.
const MAX_SEGMENTS: usize = 64;

/// All policies of a Service, with the access policy and the limits of its Namespace.
pub(super) fn policy(
    access: &NamespaceAccess,
    limits: &[RateLimit],
    service: &mut Reader<'_>,
) -> Policy {
    let (affinity, keeps_endpoint) = variants::affinity(service);
    Policy {
        access: access.of_service(service),
        timeouts: timeouts(service),
        retries: retries(service),
        max_body: max_body(service),
        load_balancing: load_balancing(service),
        health_check: health_check::read(service),
        rate_limits: rate_limit::of_service(limits, service),
        affinity,
        keeps_endpoint,
    }
}

fn load_balancing(reader: &mut Reader<'_>) -> LoadBalancing {
    let help = "write least-latency or round-robin; until then it is least-latency";
    let parse = |text: &str| match text {
        "least-latency" => Ok(LoadBalancing::LeastLatency),
        "round-robin" => Ok(LoadBalancing::RoundRobin),
        _ => Err("is not a way of load balancing".to_owned()),
    };
    reader.read(LOAD_BALANCING, help, parse).good().unwrap_or_default()
}

fn timeouts(reader: &mut Reader<'_>) -> Timeouts {
    const DEFAULT: &str = "until then the gateway's default applies";
    Timeouts {
        request: timeout(reader, TIMEOUT, "until then there is no timeout"),
        backend_request: timeout(reader, FIRST_BYTE_TIMEOUT, DEFAULT),
        connect: timeout(reader, CONNECT_TIMEOUT, DEFAULT),
        idle: timeout(reader, IDLE_TIMEOUT, DEFAULT),
    }
}

/// Reads a duration above zero.
pub(super) fn timeout(reader: &mut Reader<'_>, key: Key, until_then: &str) -> Option<Duration> {
    let parse = |text: &str| {
        duration::parse(text)
            .filter(|time| !time.is_zero())
            .ok_or_else(|| "is not a duration".to_owned())
    };
    let help = format!("write a duration above zero, such as 500ms, 30s or 1h30m; {until_then}");
    reader.read(key, &help, parse).good()
}

fn retries(reader: &mut Reader<'_>) -> Retries {
    let parse = |text: &str| {
        text.parse::<u8>()
            .ok()
            .filter(|tries| *tries <= MAX_RETRIES)
            .ok_or_else(|| "is not a number of retries".to_owned())
    };
    let non_idempotent = retry_non_idempotent(reader);
    let on = retry_on::read(reader);
    let help = format!("write a number from 0 to {MAX_RETRIES}; until then it is 0");
    let attempts = match reader.read(RETRIES, &help, parse) {
        // What says on which responses wants a retry.
        Reading::Absent => u8::from(on.is_some()),
        Reading::Good(attempts) => attempts,
        Reading::Bad => 0,
    };
    if attempts == 0 {
        if on.is_some() {
            let message = format!("`{RETRY_ON}` has no effect: there are no `{RETRIES}`");
            reader.warn("NoEffect", message, "write a number above 0, or remove the annotation");
        }
        return Retries { non_idempotent, ..Retries::default() };
    }
    let RetryOn { codes, grpc_codes } = on.unwrap_or_default();
    Retries { attempts, codes, grpc_codes, non_idempotent }
}

fn retry_non_idempotent(reader: &mut Reader<'_>) -> bool {
    let help = "write \"true\" or \"false\"; until then only idempotent requests are repeated";
    reader.read_flag(RETRY_NON_IDEMPOTENT, help) == Reading::Good(true)
}

fn max_body(reader: &mut Reader<'_>) -> Option<NonZeroU64> {
    let help =
        "write a number of bytes above zero, such as 500k or 10Mi; until then there is no limit";
    reader.read(MAX_BODY, help, |text| size(text).ok_or_else(|| "is not a size".to_owned())).good()
}

/// A size in bytes, as a whole Kubernetes quantity: `10Mi`, `500k`, `1048576`.
fn size(text: &str) -> Option<NonZeroU64> {
    const UNITS: [(&str, u64); 9] = [
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1_000),
        ("M", 1_000_000),
        ("G", 1_000_000_000),
        ("T", 1_000_000_000_000),
        ("", 1),
    ];
    let (digits, factor) =
        UNITS.iter().find_map(|(unit, factor)| Some((text.strip_suffix(unit)?, factor)))?;
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    NonZeroU64::new(digits.parse::<u64>().ok()?.checked_mul(*factor)?)
}

/// The path prefixes to serve: all without the annotation, none if it is invalid.
pub(super) fn paths(reader: &mut Reader<'_>) -> BTreeSet<PathPrefix> {
    let help = "write paths such as /api, separated by commas; until then they are not served";
    match reader.read_list(PATHS, help, path) {
        Reading::Absent => BTreeSet::from([PathPrefix::root()]),
        Reading::Good(paths) => BTreeSet::from_iter(paths),
        Reading::Bad => BTreeSet::new(),
    }
}

/// Parses a path prefix. It must be a valid normalized path (RFC 3986 §3.3), or it would never
/// match.
pub(super) fn path(text: &str) -> Result<PathPrefix, String> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+;=:@%".contains(&byte);
    if !text.starts_with('/') {
        return Err("does not start with `/`".to_owned());
    }
    if text.contains('*') {
        return Err("has a `*`, but every path is a prefix already".to_owned());
    }
    if !text.bytes().all(allowed) {
        return Err("has a character that is not allowed in a path".to_owned());
    }
    if !text
        .split('%')
        .skip(1)
        .all(|rest| rest.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2)
    {
        return Err("has a `%` without two hexadecimal digits".to_owned());
    }
    if text.to_ascii_lowercase().contains("%2f")
        || text.split('/').any(|segment| matches!(segment, "." | ".."))
    {
        return Err("has a segment with `%2F`, or one that is `.` or `..`".to_owned());
    }
    if text.matches('/').count() > MAX_SEGMENTS {
        return Err(format!("has more than {MAX_SEGMENTS} segments"));
    }
    PathPrefix::new(text).ok_or_else(|| "has an empty segment".to_owned())
}
