//! The crumbs of a `Cookie` field.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, header};

/// Joins several `Cookie` fields, which is how HTTP/2 compresses them (RFC 9113 §8.2.3), so that
/// limits and every later step see one, however the client has sent it.
pub(crate) fn join(headers: &mut HeaderMap) {
    // The first is quick to see: most requests repeat no field at all.
    let repeats_no_field = headers.len() == headers.keys_len();
    if repeats_no_field || headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let crumbs = || headers.get_all(header::COOKIE).iter().filter(|crumb| !crumb.is_empty());
    let octets = crumbs().map(|crumb| crumb.len() + SEPARATOR.len()).sum();
    let mut joined = Vec::with_capacity(octets);
    for crumb in crumbs() {
        if !joined.is_empty() {
            joined.extend_from_slice(SEPARATOR);
        }
        joined.extend_from_slice(crumb.as_bytes());
    }
    if let Ok(mut value) = HeaderValue::from_maybe_shared(Bytes::from(joined)) {
        value.set_sensitive(true);
        headers.insert(header::COOKIE, value);
    }
}

/// What is between two cookies in a field (RFC 6265 §4.2.1).
pub(crate) const SEPARATOR: &[u8] = b"; ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crumbs_become_one_field() {
        for (crumbs, joined) in [
            (&[][..], None),
            (&["a=1"], Some("a=1")),
            (&[""], Some("")),
            (&["a=1", "b=2", "c=3"], Some("a=1; b=2; c=3")),
            (&["", "a=1", ""], Some("a=1")),
        ] {
            let mut headers = HeaderMap::new();
            for crumb in crumbs {
                headers.append(header::COOKIE, HeaderValue::from_static(crumb));
            }
            join(&mut headers);
            let values: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
            assert_eq!(values, joined.into_iter().collect::<Vec<_>>(), "{crumbs:?}");
        }
    }
}
