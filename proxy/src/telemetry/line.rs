//! Lines of the access log. Whatever a client sends, a line stays one line and its fields stay apart.

use std::io::Write;

use http::{HeaderValue, Version};

use super::clock;
use super::record::Record;

/// Octets of a value from the client that go into a line; what is longer is cut.
const MAX_VALUE: usize = 1024;

/// One JSON object. Fields that have no value are left out.
pub(super) fn json(lines: &mut Vec<u8>, record: &Record<'_>, stamp: &str, milliseconds: u32) {
    let _ = write!(lines, "{{\"time\":\"{stamp}.{milliseconds:03}Z\"");
    text(lines, "id", record.id);
    let _ = write!(lines, ",\"client\":\"{}\"", record.client);
    text(lines, "listener", record.listener);
    let _ = write!(lines, ",\"tls\":{}", record.tls);
    text(lines, "version", version(record.version));
    text(lines, "method", record.method.as_str());
    text(lines, "host", record.host);
    text(lines, "path", record.path);
    let _ = write!(lines, ",\"status\":{}", record.status);
    if let Some(code) = record.grpc_status {
        let _ = write!(lines, ",\"grpcStatus\":{code}");
    }
    let _ = write!(lines, ",\"bytesIn\":{},\"bytesOut\":{}", record.bytes_in, record.bytes_out);
    let _ = write!(lines, ",\"duration\":{:.6}", record.duration.as_secs_f64());
    if let Some(duration) = record.upstream_duration {
        let _ = write!(lines, ",\"upstreamDuration\":{:.6}", duration.as_secs_f64());
    }
    text(lines, "environment", record.environment);
    text(lines, "service", record.service);
    text(lines, "variant", record.variant);
    if let Some(upstream) = record.upstream {
        let _ = write!(lines, ",\"upstream\":\"{upstream}\",\"tries\":{}", record.tries);
    }
    text(lines, "refusal", record.refusal.unwrap_or_default());
    text(lines, "failure", record.failure.unwrap_or_default());
    text(lines, "userAgent", &value(record.user_agent));
    text(lines, "referer", without_query(&value(record.referer)));
    lines.extend_from_slice(b"}\n");
}

/// The combined format of Apache and nginx.
pub(super) fn combined(lines: &mut Vec<u8>, record: &Record<'_>, stamp: &str) {
    let time = clock::combined(stamp).unwrap_or_default();
    let _ = write!(lines, "{} - - [{time}] \"{} ", record.client, record.method);
    quoted(lines, record.path);
    let _ = write!(lines, " HTTP/{}\" {} {} \"", version(record.version), record.status, record.bytes_out);
    quoted(lines, without_query(&value(record.referer)));
    lines.extend_from_slice(b"\" \"");
    quoted(lines, &value(record.user_agent));
    lines.extend_from_slice(b"\"\n");
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "1.0",
        Version::HTTP_2 => "2",
        _ => "1.1",
    }
}

fn value(value: Option<&HeaderValue>) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(value.map(HeaderValue::as_bytes).unwrap_or_default())
}

/// Queries carry tokens and names, those of other pages too.
fn without_query(url: &str) -> &str {
    url.split(['?', '#']).next().unwrap_or_default()
}

fn cut(value: &str) -> &str {
    let end = (0..=MAX_VALUE.min(value.len())).rev().find(|end| value.is_char_boundary(*end)).unwrap_or_default();
    value.get(..end).unwrap_or_default()
}

/// `,"name":"value"`, escaped as RFC 8259 §7 says, and DEL and the C1 controls too: terminals act on them.
fn text(lines: &mut Vec<u8>, name: &str, value: &str) {
    if value.is_empty() {
        return;
    }
    let _ = write!(lines, ",\"{name}\":\"");
    let value = cut(value);
    if value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        lines.extend_from_slice(value.as_bytes());
    } else {
        for character in value.chars() {
            let _ = match character {
                '"' | '\\' => write!(lines, "\\{character}"),
                character if character.is_control() => write!(lines, "\\u{:04x}", u32::from(character)),
                character => write!(lines, "{character}"),
            };
        }
    }
    lines.push(b'"');
}

/// As Apache escapes: `\"`, `\\`, and `\xhh` for all that is not printable ASCII. `-` where there is nothing.
fn quoted(lines: &mut Vec<u8>, value: &str) {
    if value.is_empty() {
        lines.push(b'-');
    }
    for byte in cut(value).bytes() {
        let _ = match byte {
            b'"' | b'\\' => lines.write_all(&[b'\\', byte]),
            b' '..=b'~' => lines.write_all(&[byte]),
            _ => write!(lines, "\\x{byte:02x}"),
        };
    }
}
