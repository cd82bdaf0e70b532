//! Patterns of names of applications, users and groups, as written in grants.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A name, or a pattern: `*` matches all, `*@example.com` by suffix, `team-*` by prefix.
///
/// Names are compared octet by octet; those with an `@`, which are e-mail addresses, ignoring ASCII
/// case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NamePattern {
    kind: NamePatternKind,
    /// The text beside the `*`.
    text: Box<str>,
}

/// Which names a pattern matches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum NamePatternKind {
    /// The text.
    Exact,
    /// Those that begin with the text.
    StartsWith,
    /// Those that end with the text.
    EndsWith,
}

/// Why a text is not a [`NamePattern`]; the message follows the text in a sentence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidNamePattern {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("has more than {MAX_NAME} bytes")]
    Long,
    /// A `*` in the middle, or several.
    #[error("has a `*` that is neither at its beginning nor at its end, or several")]
    Star,
    /// A control character or white space.
    #[error("has white space or a control character")]
    Character,
}

/// The longest name of an application, user or group, in bytes.
const MAX_NAME: usize = 256;

// === impl NamePattern ===

impl NamePattern {
    /// Which names it matches.
    pub(crate) fn kind(&self) -> NamePatternKind {
        self.kind
    }

    /// The text beside the `*`.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether some name may match both; `false` where certainly none does.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.text.to_ascii_lowercase(), other.text.to_ascii_lowercase());
        match (self.kind, other.kind) {
            (NamePatternKind::Exact, _) => other.matches(&self.text),
            (_, NamePatternKind::Exact) => self.matches(&other.text),
            (NamePatternKind::StartsWith, NamePatternKind::StartsWith) => {
                one.starts_with(&two) || two.starts_with(&one)
            }
            (NamePatternKind::EndsWith, NamePatternKind::EndsWith) => {
                one.ends_with(&two) || two.ends_with(&one)
            }
            (NamePatternKind::StartsWith, NamePatternKind::EndsWith)
            | (NamePatternKind::EndsWith, NamePatternKind::StartsWith) => true,
        }
    }

    /// Returns the name if the pattern has no `*`.
    #[must_use]
    pub fn exact(&self) -> Option<&str> {
        (self.kind == NamePatternKind::Exact).then_some(&self.text)
    }

    /// Whether `name` matches.
    #[must_use]
    pub fn matches(&self, name: &str) -> bool {
        let (text, name) = (self.text.as_bytes(), name.as_bytes());
        let part = match self.kind {
            NamePatternKind::Exact if text.len() != name.len() => None,
            NamePatternKind::Exact => Some(name),
            NamePatternKind::StartsWith => name.get(..text.len()),
            NamePatternKind::EndsWith => {
                name.len().checked_sub(text.len()).and_then(|start| name.get(start..))
            }
        };
        part.is_some_and(|part| {
            part == text || name.contains(&b'@') && part.eq_ignore_ascii_case(text)
        })
    }
}

impl FromStr for NamePattern {
    type Err = InvalidNamePattern;

    fn from_str(text: &str) -> Result<Self, InvalidNamePattern> {
        if text.is_empty() {
            return Err(InvalidNamePattern::Empty);
        }
        if text.len() > MAX_NAME {
            return Err(InvalidNamePattern::Long);
        }
        if text.chars().any(|char| char.is_control() || char.is_whitespace()) {
            return Err(InvalidNamePattern::Character);
        }
        let (kind, rest) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(end), _) => (NamePatternKind::EndsWith, end),
            (None, Some(start)) => (NamePatternKind::StartsWith, start),
            (None, None) => (NamePatternKind::Exact, text),
        };
        if rest.contains('*') {
            Err(InvalidNamePattern::Star)
        } else {
            Ok(Self { kind, text: rest.into() })
        }
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            NamePatternKind::Exact => f.write_str(&self.text),
            NamePatternKind::StartsWith => write!(f, "{}*", self.text),
            NamePatternKind::EndsWith => write!(f, "*{}", self.text),
        }
    }
}

impl Serialize for NamePattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NamePattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| de::Error::custom(format!("`{text}` {error}")))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_matches_exactly_its_names() {
        for (pattern, matching, other) in [
            ("*", &["a", "a@b", ""][..], &[][..]),
            ("shop", &["shop"], &["Shop", "shop2", "", "sho"]),
            (
                "*@example.com",
                &["a@example.com", "A@EXAMPLE.com"],
                &["a@example.org", "a@sub.example.com", "aexample.com", "example.com"],
            ),
            ("Ann@Example.com", &["ann@example.COM"], &["ann@example.co", "xann@example.com"]),
            ("team-*", &["team-", "team-a"], &["Team-a", "tea", "my-team-a"]),
            (
                "spiffe://example.org/ns/prod/*",
                &["spiffe://example.org/ns/prod/sa/x"],
                &["spiffe://example.org/ns/production", "spiffe://example.org/ns/PROD/x"],
            ),
            ("é*", &["éa"], &["e", "\u{301}"]),
        ] {
            let parsed: NamePattern = pattern.parse().unwrap();
            assert_eq!(parsed.to_string(), pattern);
            for name in matching {
                assert!(parsed.matches(name), "{pattern} matches {name}");
            }
            for name in other {
                assert!(!parsed.matches(name), "{pattern} does not match {name}");
            }
        }
    }

    proptest! {
        #[test]
        fn patterns_that_match_a_common_name_overlap(one in "\\*?[aA@]{1,3}|[aA@]{0,2}\\*", other in "\\*?[aA@]{1,3}|[aA@]{0,2}\\*", name in "[aA@]{0,6}") {
            let (one, other): (NamePattern, NamePattern) = (one.parse().unwrap(), other.parse().unwrap());
            prop_assert_eq!(one.overlaps(&other), other.overlaps(&one));
            prop_assert!(one.overlaps(&other) || !(one.matches(&name) && other.matches(&name)), "{} and {} match {}", one, other, name);
        }
    }

    #[test]
    fn patterns_without_a_common_name_do_not_overlap() {
        let overlap = |one: &str, other: &str| {
            one.parse::<NamePattern>().unwrap().overlaps(&other.parse().unwrap())
        };
        assert!(
            !overlap("a", "b")
                && !overlap("a*", "b*")
                && !overlap("*@a.com", "*@b.com")
                && !overlap("x@a.com", "*@b.com")
        );
        assert!(
            overlap("*", "b")
                && overlap("team-*", "team-a-*")
                && overlap("*a", "b*")
                && overlap("Ann@a.com", "*@A.com")
        );
    }

    #[test]
    fn an_ambiguous_or_malformed_pattern_is_rejected() {
        for (text, wrong) in [
            ("", InvalidNamePattern::Empty),
            ("a*b", InvalidNamePattern::Star),
            ("**", InvalidNamePattern::Star),
            ("*a*", InvalidNamePattern::Star),
            ("a b", InvalidNamePattern::Character),
            ("a\u{0}", InvalidNamePattern::Character),
            (&"a".repeat(MAX_NAME + 1), InvalidNamePattern::Long),
        ] {
            assert_eq!(text.parse::<NamePattern>(), Err(wrong), "{text:?}");
        }
    }
}
