//! Which fields may be trailers: by allow-list, since some recipients merge trailers into the head,
//! after everything about the head was checked (RFC 9110 §6.5.1).

use http::{HeaderMap, HeaderName, HeaderValue, header};
use smallvec::SmallVec;

use crate::normalize::{Kind, folded, has_client_key, kind_of, role};

/// Which trailers of a response are forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseTrailers {
    /// Those of the list.
    Listed,
    /// Those of gRPC, and its custom metadata, whose names services choose.
    Grpc,
}

/// Removes the trailers of a request that are not forwarded to backends: all but checksums of the
/// content. A checksum is what a client can know only after the body; gRPC clients send no trailers. A
/// client key is none.
pub(crate) fn of_request(trailers: &mut HeaderMap) {
    keep(trailers, |name, value| is_checksum(name.as_str()) && !has_client_key(value.as_bytes()));
}

// === impl ResponseTrailers ===

impl ResponseTrailers {
    /// For a response with these headers.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        match headers.get(header::CONTENT_TYPE).map(kind_of) {
            Some(Kind::Grpc) => Self::Grpc,
            _ => Self::Listed,
        }
    }

    /// Removes the trailers of a response that are not forwarded to clients.
    pub(crate) fn apply(self, trailers: &mut HeaderMap) {
        keep(trailers, |name, _| {
            is_listed(name.as_str()) || self == Self::Grpc && is_metadata(name)
        });
    }
}

/// Removes the fields that are not kept.
pub(super) fn keep(fields: &mut HeaderMap, is_kept: impl Fn(&HeaderName, &HeaderValue) -> bool) {
    let is_removed = |(name, value): &(&HeaderName, &HeaderValue)| !is_kept(name, value);
    let removed: SmallVec<[HeaderName; 4]> =
        fields.iter().filter(is_removed).map(|(name, _)| name.clone()).collect();
    for name in removed {
        fields.remove(name);
    }
}

/// The fields whose definitions allow them in trailers of a response: `ETag` (RFC 9110 §8.8.3),
/// `Server-Timing` (W3C), those of gRPC, and checksums.
fn is_listed(name: &str) -> bool {
    matches!(
        name,
        "etag" | "server-timing" | "grpc-status" | "grpc-message" | "grpc-status-details-bin"
    ) || is_checksum(name)
}

/// Digest fields (RFC 9530 §2, §3), their predecessors, and what object stores and applications call
/// them.
fn is_checksum(name: &str) -> bool {
    const PREFIXES: [&str; 2] = ["x-checksum-", "x-amz-checksum-"];
    matches!(
        name,
        "content-digest"
            | "repr-digest"
            | "digest"
            | "content-md5"
            | "x-checksum"
            | "x-sum"
            | "x-goog-hash"
    ) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether a field may be custom metadata of a gRPC response, in any spelling: it is nothing that
/// the gateway sets, reads or removes in heads, and nothing that HTTP clients act on.
fn is_metadata(name: &HeaderName) -> bool {
    match folded(name.as_str()) {
        Some(folded) => std::str::from_utf8(&folded).is_ok_and(is_custom),
        None => is_custom(name.as_str()),
    }
}

fn is_custom(name: &str) -> bool {
    const PREFIXES: [&str; 3] = ["content-", "access-control-", "set-cookie"];
    role(name).is_free()
        && !matches!(
            name,
            "strict-transport-security"
                | "alt-svc"
                | "clear-site-data"
                | "location"
                | "refresh"
                | "www-authenticate"
                | "x-api-key"
        )
        && !PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fields that no trailer may carry in any direction.
    const NEVER: [&str; 40] = [
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "connection",
        "keep-alive",
        "upgrade",
        "host",
        "expect",
        "authorization",
        "proxy-authorization",
        "cookie",
        "set-cookie",
        "set_cookie",
        "content-type",
        "content-encoding",
        "content-range",
        "cache-control",
        "strict-transport-security",
        "alt-svc",
        "location",
        "access-control-allow-origin",
        "www-authenticate",
        "range",
        "proxy",
        "client-cert",
        "client_cert",
        "client-cert-chain",
        "forwarded",
        "x-forwarded",
        "x_forwarded",
        "x-forwarded-for",
        "x-forwarded-user",
        "x_forwarded_user",
        "x.forwarded.user",
        "x-real-ip",
        "x-auth-request-user",
        "x-auth-user",
        "x-api-key",
        "x-portcullis-jwt-assertion",
    ];

    fn kept(names: &[&'static str], filter: impl Fn(&mut HeaderMap)) -> Vec<String> {
        let mut trailers: HeaderMap = names
            .iter()
            .map(|name| (HeaderName::from_static(name), HeaderValue::from_static("0")))
            .collect();
        filter(&mut trailers);
        let mut kept: Vec<String> = trailers.keys().map(ToString::to_string).collect();
        kept.sort_unstable();
        kept
    }

    #[test]
    fn only_checksums_follow_a_request() {
        let checksums = ["content-digest", "repr-digest", "x-checksum", "x-checksum-sha256"];
        assert_eq!(kept(&checksums, of_request), checksums);
        assert_eq!(kept(&NEVER, of_request), [""; 0]);
        let others = [
            "x-user",
            "x-role",
            "x-anything",
            "x_checksum",
            "grpc-status",
            "etag",
            "server-timing",
        ];
        assert_eq!(kept(&others, of_request), [""; 0]);
    }

    #[test]
    fn a_client_key_is_no_checksum() {
        let key = portcullis_config::client_key::Key::new(&[7; 32]);
        let mut trailers = HeaderMap::new();
        for value in ["sha256:0", key.expose()] {
            trailers.append("x-checksum", HeaderValue::from_str(value).unwrap());
        }
        trailers.insert("digest", HeaderValue::from_static("sha-256=x"));
        of_request(&mut trailers);
        assert_eq!(trailers.keys().collect::<Vec<_>>(), ["digest"]);
    }

    #[test]
    fn listed_fields_follow_a_response() {
        let filter = |trailers: &mut HeaderMap| ResponseTrailers::Listed.apply(trailers);
        let listed = ["etag", "grpc-message", "grpc-status", "server-timing", "x-checksum"];
        assert_eq!(kept(&listed, filter), listed);
        assert_eq!(kept(&NEVER, filter), [""; 0]);
        assert_eq!(kept(&["x-anything", "refresh"], filter), [""; 0]);
    }

    #[test]
    fn custom_metadata_follows_a_grpc_response() {
        let filter = |trailers: &mut HeaderMap| ResponseTrailers::Grpc.apply(trailers);
        let metadata = [
            "acme.v1_cost",
            "grpc-retry-pushback-ms",
            "grpc-status",
            "grpc-status-details-bin",
            "retry-info",
            "x-debug-bin",
        ];
        assert_eq!(kept(&metadata, filter), metadata);
        assert_eq!(kept(&NEVER, filter), [""; 0]);
    }
}
