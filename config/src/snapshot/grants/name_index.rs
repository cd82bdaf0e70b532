//! Finds the lists that have a name. The work depends on the name, and hardly on the lists.

use std::collections::{BTreeMap, HashMap};

use foldhash::fast::RandomState;

use super::prefixes::Prefixes;
use crate::model::{NamePattern, NamePatternKind};

/// The name of an application, a user or a group.
///
/// A `*` does not match the prefix of an issuer, or a part of it: `*@example.com` is for the issuer
/// whose names have no prefix, and another issuer must not be able to issue such names. A pattern
/// for names of an issuer with a prefix begins with that prefix. Only `*` alone matches all names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Name<'n> {
    text: &'n str,
    /// Length of the issuer's prefix, with which the text begins.
    prefix: usize,
}

/// All patterns of one kind of name: applications, users or groups.
#[derive(Debug, Clone, Default)]
pub(super) struct NameIndex {
    /// For names without an `@`, which are compared octet by octet.
    plain: Patterns,
    /// For names with an `@`, which are compared ignoring ASCII case: in lower case.
    folded: Patterns,
}

/// Collects patterns.
#[derive(Default)]
pub(super) struct NameIndexBuilder {
    plain: PatternsBuilder,
    folded: PatternsBuilder,
}

#[derive(Debug, Clone, Default)]
struct Patterns {
    exact: HashMap<Box<[u8]>, u32, RandomState>,
    starts: Prefixes,
    /// The texts are reversed.
    ends: Prefixes,
    /// The lists of each pattern.
    lists: Vec<Vec<u32>>,
}

#[derive(Default)]
struct PatternsBuilder {
    texts: BTreeMap<NamePatternKind, BTreeMap<Box<[u8]>, u32>>,
    lists: Vec<Vec<u32>>,
}

// === impl Name ===

impl<'n> Name<'n> {
    /// A name that begins with a prefix of this length.
    #[must_use]
    pub fn with_prefix(text: &'n str, prefix: usize) -> Self {
        Self { text, prefix }
    }
}

impl<'n> From<&'n str> for Name<'n> {
    /// A name without a prefix.
    fn from(text: &'n str) -> Self {
        Self { text, prefix: 0 }
    }
}

// === impl NameIndexBuilder ===

impl NameIndexBuilder {
    /// Adds the patterns of the list with this number.
    pub(super) fn add(&mut self, patterns: &[NamePattern], list: u32) {
        for pattern in patterns {
            let (kind, text) = (pattern.kind(), pattern.text().as_bytes());
            let has_at = text.contains(&b'@');
            if !has_at {
                self.plain.add(kind, text.to_vec(), list);
            }
            if has_at || kind != NamePatternKind::Exact {
                self.folded.add(kind, text.to_ascii_lowercase(), list);
            }
        }
    }

    pub(super) fn build(self) -> NameIndex {
        NameIndex { plain: self.plain.build(), folded: self.folded.build() }
    }
}

// === impl PatternsBuilder ===

impl PatternsBuilder {
    fn add(&mut self, kind: NamePatternKind, mut text: Vec<u8>, list: u32) {
        if kind == NamePatternKind::EndsWith {
            text.reverse();
        }
        let next = u32::try_from(self.lists.len()).unwrap_or(u32::MAX);
        let number = *self.texts.entry(kind).or_default().entry(text.into()).or_insert(next);
        if number == next {
            self.lists.push(Vec::new());
        }
        if let Some(lists) = self.lists.get_mut(number as usize)
            && lists.last() != Some(&list)
        {
            lists.push(list);
        }
    }

    fn build(mut self) -> Patterns {
        let mut texts = |kind| self.texts.remove(&kind).unwrap_or_default();
        Patterns {
            exact: texts(NamePatternKind::Exact).into_iter().collect(),
            starts: Prefixes::new(texts(NamePatternKind::StartsWith)),
            ends: Prefixes::new(texts(NamePatternKind::EndsWith)),
            lists: self.lists,
        }
    }
}

// === impl NameIndex ===

impl NameIndex {
    /// Calls `found` with the number of each list that has this name.
    pub(super) fn find(&self, name: Name<'_>, mut found: impl FnMut(u32)) {
        self.patterns(name, |patterns, pattern| patterns.lists(pattern).for_each(&mut found));
    }

    /// Calls `found` with the number of each list that has one of `names`. A pattern that many of
    /// them match counts once.
    pub(super) fn find_any<'n>(
        &self,
        names: impl Iterator<Item = Name<'n>>,
        mut found: impl FnMut(u32),
    ) {
        let (mut plain, mut folded) = (Vec::new(), Vec::new());
        for name in names {
            let matched = if has_at(name.text) { &mut folded } else { &mut plain };
            self.patterns(name, |_, pattern| matched.push(pattern));
        }
        for (patterns, mut matched) in [(&self.plain, plain), (&self.folded, folded)] {
            matched.sort_unstable();
            matched.dedup();
            let lists = matched.into_iter().flat_map(|pattern| patterns.lists(pattern));
            lists.for_each(&mut found);
        }
    }

    /// Calls `found` with each pattern that matches a name.
    fn patterns<'i>(&'i self, name: Name<'_>, mut found: impl FnMut(&'i Patterns, u32)) {
        let Name { text, prefix } = name;
        if has_at(text) {
            let text = text.to_ascii_lowercase();
            self.folded.find(text.as_bytes(), prefix, |pattern| found(&self.folded, pattern));
        } else {
            self.plain.find(text.as_bytes(), prefix, |pattern| found(&self.plain, pattern));
        }
    }
}

fn has_at(name: &str) -> bool {
    name.as_bytes().contains(&b'@')
}

// === impl Patterns ===

impl Patterns {
    /// Calls `found` with each pattern that matches a name with a prefix of this length.
    fn find(&self, name: &[u8], prefix: usize, mut found: impl FnMut(u32)) {
        self.exact.get(name).copied().into_iter().for_each(&mut found);
        self.starts.find(&name.iter().copied(), |text, pattern| {
            if text.len() >= prefix {
                found(pattern);
            }
        });
        self.ends.find(&name.iter().rev().copied(), |text, pattern| {
            if text.is_empty() || prefix == 0 {
                found(pattern);
            }
        });
    }

    /// The lists that have a pattern.
    fn lists(&self, pattern: u32) -> impl Iterator<Item = u32> {
        self.lists.get(pattern as usize).into_iter().flatten().copied()
    }
}
