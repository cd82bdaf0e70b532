//! Active health checks from annotations.

use std::num::NonZeroU8;
use std::time::Duration;

use super::annotations::Reader;
use super::policy;
use crate::model::duration;
use crate::model::vocabulary::{
    HEALTH_CHECK, HEALTH_CHECK_FAILURES, HEALTH_CHECK_INTERVAL, HEALTH_CHECK_TIMEOUT,
};
use crate::snapshot::backend::UpstreamProtocol;
use crate::snapshot::health_check::{HealthCheck, HealthProbe};

/// The shortest and the longest interval.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
/// The shortest and the longest timeout; none is longer than the interval.
const TIMEOUT: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(10));
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_FAILURES: u8 = 10;
const DEFAULT_FAILURES: NonZeroU8 = NonZeroU8::MIN.saturating_add(2);
/// The longest path, and the longest name of a service, in bytes.
const MAX_TEXT: usize = 1024;

/// Reads how the endpoints of a Service are checked; `None` if they are not.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<HealthCheck> {
    let help = "write a path such as /healthz, grpc, or grpc:SERVICE; until then pods are not \
                checked";
    let probe = reader.read(HEALTH_CHECK, help, probe);
    let interval = interval(reader);
    let timeout = timeout(reader, interval);
    let failures = failures(reader);
    if reader.annotations.get(HEALTH_CHECK.name).is_none() {
        for key in [HEALTH_CHECK_INTERVAL, HEALTH_CHECK_TIMEOUT, HEALTH_CHECK_FAILURES] {
            if reader.annotations.get(key.name).is_some() {
                let message = format!("`{key}` has no effect without `{HEALTH_CHECK}`");
                reader.warn("NoEffect", message, "say what is checked, or remove the annotation");
            }
        }
    }
    Some(HealthCheck { probe: probe.good()?, interval, timeout, failures })
}

/// Removes a check that the protocol to pods does not allow, and reports it.
pub(super) fn check_protocol(
    check: Option<HealthCheck>,
    protocol: Option<&UpstreamProtocol>,
    reader: &mut Reader<'_>,
) -> Option<HealthCheck> {
    let check = check?;
    if protocol.is_some_and(|protocol| !check.probe.suits(protocol)) {
        let message = format!("`{HEALTH_CHECK}: grpc` needs a port with HTTP/2");
        let help = "give the port an appProtocol such as kubernetes.io/h2c, or check a path; until \
                    then pods are not checked";
        reader.error("InvalidAnnotation", message, help);
        return None;
    }
    Some(check)
}

fn probe(text: &str) -> Result<HealthProbe, String> {
    if text.len() > MAX_TEXT {
        return Err(format!("has more than {MAX_TEXT} bytes"));
    }
    if let Some(service) = text.strip_prefix("grpc:") {
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/".contains(&byte);
        return match service {
            "" => Err("names no service after the colon".to_owned()),
            name if name.bytes().all(is_name) => Ok(HealthProbe::Grpc(name.into())),
            _ => Err("is not the name of a gRPC service".to_owned()),
        };
    }
    if text == "grpc" {
        return Ok(HealthProbe::Grpc("".into()));
    }
    let (path, query) = text.split_once('?').unwrap_or((text, ""));
    policy::path(path)?;
    if !query.bytes().all(|byte| matches!(byte, b'!'..=b'~') && byte != b'#') {
        return Err("has a query with characters that are not allowed".to_owned());
    }
    Ok(HealthProbe::Http(text.into()))
}

fn interval(reader: &mut Reader<'_>) -> Duration {
    let help = "write a duration from 1s to 5m; until then it is 10s";
    let parse = |text: &str| within(text, INTERVAL);
    reader.read(HEALTH_CHECK_INTERVAL, help, parse).good().unwrap_or(DEFAULT_INTERVAL)
}

fn timeout(reader: &mut Reader<'_>, interval: Duration) -> Duration {
    let help = "write a duration from 100ms to 10s, not longer than the interval; until then it is \
                1s";
    let (shortest, longest) = TIMEOUT;
    let parse = |text: &str| within(text, (shortest, longest.min(interval)));
    reader.read(HEALTH_CHECK_TIMEOUT, help, parse).good().unwrap_or(DEFAULT_TIMEOUT)
}

fn within(text: &str, (shortest, longest): (Duration, Duration)) -> Result<Duration, String> {
    let time = duration::parse(text).ok_or_else(|| "is not a duration".to_owned())?;
    if time < shortest || time > longest {
        let (shortest, longest) = (duration::format(shortest), duration::format(longest));
        return Err(format!("is not from {shortest} to {longest}"));
    }
    Ok(time)
}

fn failures(reader: &mut Reader<'_>) -> NonZeroU8 {
    let help = "write a number from 1 to 10; until then it is 3";
    let parse = |text: &str| {
        let number = text.parse().ok().filter(|number: &NonZeroU8| number.get() <= MAX_FAILURES);
        number.ok_or_else(|| "is not a number of failures".to_owned())
    };
    reader.read(HEALTH_CHECK_FAILURES, help, parse).good().unwrap_or(DEFAULT_FAILURES)
}
