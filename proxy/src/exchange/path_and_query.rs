//! The path and the query of a request, as the client wrote them.

use std::fmt;

use bytes::Bytes;
use bytestring::ByteString;

/// A path with its query: printable ASCII without `#`, and it starts with `/`; or the `*` of
/// `OPTIONS *`.
///
/// What else is allowed is for [`normalize`](crate::normalize) to decide. The type of the `http`
/// crate would decide, too: it drops a fragment, and rejects `<`, `>` and, in a query, `"`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct PathAndQuery {
    text: ByteString,
    /// Octets before the `?`.
    path: usize,
}

// === impl PathAndQuery ===

impl PathAndQuery {
    /// Creates it; `None` if an octet is not allowed, or the first one is not `/`.
    pub(crate) fn new(octets: impl Into<Bytes>) -> Option<Self> {
        let octets = octets.into();
        // Without an early end, so that the compiler checks many octets at once.
        let is_printable = octets
            .iter()
            .fold(true, |all, octet| all & matches!(octet, 0x21..=0x7e) & (*octet != b'#'));
        let is_valid = is_printable && octets.first() == Some(&b'/');
        if !is_valid {
            return None;
        }
        let path = memchr::memchr(b'?', &octets).unwrap_or(octets.len());
        Some(Self { text: ByteString::try_from(octets).ok()?, path })
    }

    /// `/`.
    pub(crate) const fn root() -> Self {
        Self { text: ByteString::from_static("/"), path: 1 }
    }

    /// `*`.
    pub(crate) const fn asterisk() -> Self {
        Self { text: ByteString::from_static("*"), path: 1 }
    }

    /// Returns a copy with memory of its own: this one may be a slice of a whole head.
    pub(crate) fn detached(&self) -> Self {
        Self { text: ByteString::from(&*self.text), path: self.path }
    }

    /// The path.
    pub(crate) fn path(&self) -> &str {
        self.text.get(..self.path).unwrap_or_default()
    }

    /// The query, without its `?`; `None` if there is no `?`.
    pub(crate) fn query(&self) -> Option<&str> {
        self.text.get(self.path + 1..)
    }

    /// Path and query.
    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    /// Octets of path and query.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }
}

impl fmt::Display for PathAndQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for PathAndQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_query_are_split_at_the_first_question_mark() {
        for (text, path, query) in [
            ("/", "/", None),
            ("/a?", "/a", Some("")),
            ("/a?b=c?d", "/a", Some("b=c?d")),
            ("/?\"<>^`{|}\\", "/", Some("\"<>^`{|}\\")),
            ("/<\"`", "/<\"`", None),
        ] {
            let read = PathAndQuery::new(text).unwrap();
            assert_eq!((read.path(), read.query(), read.as_str()), (path, query, text));
        }
        let asterisk = PathAndQuery::asterisk();
        assert_eq!((asterisk.path(), asterisk.query()), ("*", None));
    }

    #[test]
    fn everything_but_printable_ascii_after_a_slash_is_refused() {
        for text in ["", "*", "a", "?a", "/#", "/a?b#c", "/ ", "/\t", "/\u{7f}", "/\u{e9}", "/a?\r"]
        {
            assert_eq!(PathAndQuery::new(text), None, "{text:?}");
        }
    }
}
