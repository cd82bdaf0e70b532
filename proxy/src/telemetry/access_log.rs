//! Formats lines of the access log. Values are escaped, so that clients cannot inject lines or
//! fields.

use std::io::Write;
use std::time::Duration;

use http::{HeaderValue, Version};

use super::record::Record;
use crate::itoa::{put_address, put_decimal};

/// The maximum length of a client's value, in octets; longer values are truncated.
const MAX_VALUE: usize = 1024;

/// Appends a JSON object. Fields without a value are omitted.
pub(super) fn json(lines: &mut Vec<u8>, record: &Record<'_>, timestamp: &str, milliseconds: u32) {
    put(lines, &["{\"time\":\"", timestamp, "."]);
    put_fraction(lines, u64::from(milliseconds), 100);
    lines.extend_from_slice(b"Z\"");
    lines.extend_from_slice(b",\"id\":\"");
    lines.extend_from_slice(record.id);
    lines.extend_from_slice(b"\",\"client\":\"");
    put_address(lines, record.client);
    lines.push(b'"');
    text(lines, "listener", record.listener);
    put(lines, &[",\"tls\":", if record.tls { "true" } else { "false" }]);
    text(lines, "version", version(record.version));
    text(lines, "method", record.method.as_str());
    text(lines, "host", record.host);
    text(lines, "path", record.path);
    number(lines, "status", u64::from(record.status));
    if let Some(code) = record.grpc_status {
        number(lines, "grpcStatus", u64::from(code));
    }
    number(lines, "bytesIn", record.bytes_in);
    number(lines, "bytesOut", record.bytes_out);
    seconds(lines, "duration", record.duration);
    if let Some(duration) = record.upstream_duration {
        seconds(lines, "upstreamDuration", duration);
    }
    text(lines, "environment", record.environment);
    text(lines, "service", record.service);
    text(lines, "variant", record.variant);
    text(lines, "assignedBy", record.assignment.map_or("", |assignment| assignment.reason.label()));
    text(lines, "missedVariant", record.missed_variant);
    if let Some(upstream) = record.upstream {
        let _ = write!(lines, ",\"upstream\":\"{upstream}\"");
        number(lines, "tries", u64::from(record.tries));
    }
    text(lines, "application", record.application);
    text(lines, "user", record.user);
    text(lines, "credential", record.rejected.unwrap_or_default());
    text(lines, "denied", record.denied.unwrap_or_default());
    text(lines, "login", record.login.unwrap_or_default());
    text(lines, "refusal", record.refusal.unwrap_or_default());
    text(lines, "failure", record.failure.unwrap_or_default());
    text(lines, "userAgent", &String::from_utf8_lossy(octets(record.user_agent)));
    text(lines, "referer", &String::from_utf8_lossy(without_query(octets(record.referer))));
    lines.extend_from_slice(b"}\n");
}

/// Appends a line in the combined format of Apache and nginx.
pub(super) fn combined(lines: &mut Vec<u8>, record: &Record<'_>, time: &str) {
    put_address(lines, record.client);
    put(lines, &[" - - [", time, "] \"", record.method.as_str(), " "]);
    quoted(lines, record.path.as_bytes());
    put(lines, &[" HTTP/", version(record.version), "\" "]);
    put_decimal(lines, u64::from(record.status));
    lines.push(b' ');
    put_decimal(lines, record.bytes_out);
    lines.extend_from_slice(b" \"");
    quoted(lines, without_query(octets(record.referer)));
    lines.extend_from_slice(b"\" \"");
    quoted(lines, octets(record.user_agent));
    lines.extend_from_slice(b"\"\n");
}

fn put(lines: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        lines.extend_from_slice(part.as_bytes());
    }
}

/// `,"name":1`
fn number(lines: &mut Vec<u8>, name: &str, number: u64) {
    put(lines, &[",\"", name, "\":"]);
    put_decimal(lines, number);
}

/// `,"name":1.000001`, in seconds.
fn seconds(lines: &mut Vec<u8>, name: &str, duration: Duration) {
    number(lines, name, duration.as_secs());
    lines.push(b'.');
    put_fraction(lines, u64::from(duration.subsec_micros()), 100_000);
}

/// Appends the digits of a fraction with leading zeros; `unit` is the value of the first digit.
fn put_fraction(lines: &mut Vec<u8>, number: u64, unit: u64) {
    let mut unit = unit;
    while unit > 0 {
        lines.push(b'0' + (number / unit % 10) as u8);
        unit /= 10;
    }
}

/// Returns whether all octets are printable ASCII that needs no escaping. It does not stop early,
/// so that the compiler can vectorize it.
fn is_plain(value: &[u8]) -> bool {
    value.iter().fold(true, |plain, byte| {
        plain & matches!(byte, b' '..=b'~') & (*byte != b'"') & (*byte != b'\\')
    })
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn octets(value: Option<&HeaderValue>) -> &[u8] {
    value.map(HeaderValue::as_bytes).unwrap_or_default()
}

/// Removes the query and fragment of a URL, which may contain tokens and names.
fn without_query(url: &[u8]) -> &[u8] {
    memchr::memchr2(b'?', b'#', url).and_then(|end| url.get(..end)).unwrap_or(url)
}

fn truncated(value: &str) -> &str {
    let end = (0..=MAX_VALUE.min(value.len()))
        .rev()
        .find(|end| value.is_char_boundary(*end))
        .unwrap_or_default();
    value.get(..end).unwrap_or_default()
}

/// `,"name":"value"`, escaped as in RFC 8259 §7. DEL and the C1 controls are escaped, too, since
/// terminals interpret them.
fn text(lines: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    put(lines, &[",\"", name, "\":\""]);
    let value = truncated(value);
    if is_plain(value.as_bytes()) {
        lines.extend_from_slice(value.as_bytes());
    } else {
        for character in value.chars() {
            let _ = match character {
                '"' | '\\' => write!(lines, "\\{character}"),
                character if character.is_control() => {
                    write!(lines, "\\u{:04x}", u32::from(character))
                }
                character => write!(lines, "{character}"),
            };
        }
    }
    lines.push(b'"');
}

/// Appends a value, escaped as Apache does: `\"`, `\\`, and `\xhh` for all but printable ASCII. An
/// empty value becomes `-`.
fn quoted(lines: &mut Vec<u8>, value: &[u8]) {
    if value.is_empty() {
        return lines.push(b'-');
    }
    let value = value.get(..MAX_VALUE).unwrap_or(value);
    if is_plain(value) {
        return lines.extend_from_slice(value);
    }
    for byte in value {
        let _ = match byte {
            b'"' | b'\\' => lines.write_all(&[b'\\', *byte]),
            b' '..=b'~' => lines.write_all(&[*byte]),
            _ => write!(lines, "\\x{byte:02x}"),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::clock;
    use crate::telemetry::tests::record;

    const STAMP: &str = "2026-11-21T10:15:00";

    fn as_json(record: &Record<'_>) -> String {
        let mut lines = Vec::new();
        json(&mut lines, record, STAMP, 7);
        String::from_utf8(lines).unwrap()
    }

    fn as_combined(record: &Record<'_>) -> String {
        let mut lines = Vec::new();
        combined(&mut lines, record, &clock::combined(STAMP).unwrap());
        String::from_utf8(lines).unwrap()
    }

    #[test]
    fn lines_have_the_fields_of_the_request() {
        let expected = "{\"time\":\"2026-11-21T10:15:00.007Z\",\"id\":\"0190-a\",\"client\":\"192.0.\
                      2.1\",\"listener\":\"https\",\"tls\":true,\"version\":\"2\",\"method\":\"\
                      GET\",\"host\":\"shop--staging.apps.example.com\",\"path\":\"/cart\",\"\
                      status\":200,\"bytesIn\":5,\"bytesOut\":1024,\"duration\":0.003000,\"\
                      upstreamDuration\":0.000900,\"environment\":\"staging\",\"service\":\"shop\"\
                      ,\"variant\":\"stable\",\"upstream\":\"10.0.0.7:8080\",\"tries\":1}\n";
        assert_eq!(as_json(&record()), expected);
        let expected = "192.0.2.1 - - [21/Nov/2026:10:15:00 +0000] \"GET /cart HTTP/2\" 200 1024 \
                      \"-\" \"-\"\n";
        assert_eq!(as_combined(&record()), expected);
    }

    #[test]
    fn client_values_cannot_inject_fields_or_lines() {
        for evil in [
            "a\"b",
            "a\\",
            "a\\\"b",
            "\u{85}\u{2028}x",
            "caf\u{e9}",
            "tab\there",
            &"\u{e9}".repeat(2000),
            "}{",
            "\" 200 1 \"-\" \"x",
        ] {
            let agent = HeaderValue::from_bytes(evil.as_bytes()).unwrap();
            let record = Record {
                user_agent: Some(&agent),
                path: evil,
                host: evil,
                refusal: Some("method"),
                ..record()
            };
            let line = as_json(&record);
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert!(line.ends_with("}\n") && line.lines().count() == 1, "{line}");
            let agent = read["userAgent"].as_str().unwrap();
            assert!(evil.starts_with(agent) && agent.len() <= MAX_VALUE, "{line}");
            assert_eq!(read["status"], 200);
            let line = as_combined(&record);
            let unescaped = line.replace("\\\\", "").replace("\\\"", "");
            assert!(
                line.is_ascii() && line.lines().count() == 1 && unescaped.matches('"').count() == 6,
                "{line}"
            );
        }
    }

    #[test]
    fn values_that_are_not_utf_8_are_escaped() {
        let agent = HeaderValue::from_bytes(b"a\xff\xfe\"").unwrap();
        let line = as_json(&Record { user_agent: Some(&agent), ..record() });
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    }

    #[test]
    fn the_query_of_a_referer_is_not_logged() {
        let referer = HeaderValue::from_static("https://a.example/reset?token=secret#x");
        let record = Record { referer: Some(&referer), ..record() };
        for line in [as_json(&record), as_combined(&record)] {
            assert!(line.contains("https://a.example/reset") && !line.contains("secret"), "{line}");
        }
    }
}
