//! Finds all prefixes of a text among many.

use std::collections::BTreeMap;

/// Prefixes in order, each with the longest other one that is its own prefix.
#[derive(Debug, Clone, Default)]
pub(super) struct Prefixes(Vec<Prefix>);

#[derive(Debug, Clone)]
struct Prefix {
    text: Box<[u8]>,
    value: u32,
    parent: Option<usize>,
}

// === impl Prefixes ===

impl Prefixes {
    pub(super) fn new(texts: BTreeMap<Box<[u8]>, u32>) -> Self {
        let mut all: Vec<Prefix> = Vec::with_capacity(texts.len());
        for (text, value) in texts {
            // In this order, a prefix comes before all that it is a prefix of.
            let mut parent = all.len().checked_sub(1);
            while let Some(before) = parent.and_then(|index| all.get(index)) {
                if text.starts_with(&before.text) {
                    break;
                }
                parent = before.parent;
            }
            all.push(Prefix { text, value, parent });
        }
        Self(all)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds the value of each prefix of `text`.
    ///
    /// They are the last one that is not greater than `text`, and its parents, as far as they are
    /// prefixes of `text`: whatever is between a prefix of `text` and `text` begins with that
    /// prefix.
    pub(super) fn find(&self, text: &[u8], found: &mut Vec<u32>) {
        let greater = self.0.partition_point(|prefix| *prefix.text <= *text);
        let mut next = greater.checked_sub(1);
        while let Some(prefix) = next.and_then(|index| self.0.get(index)) {
            if text.starts_with(&prefix.text) {
                found.push(prefix.value);
            }
            next = prefix.parent;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_prefixes_are_found(texts in btree_set("[ab]{0,4}", 0..12), text in "[abc]{0,6}") {
            let all: Vec<&String> = texts.iter().collect();
            let prefixes = Prefixes::new(
                (0..).zip(&all).map(|(value, text)| (text.as_bytes().into(), value)).collect(),
            );
            let mut found = Vec::new();
            prefixes.find(text.as_bytes(), &mut found);
            found.sort_unstable();
            let expected: Vec<u32> = (0..)
                .zip(&all)
                .filter(|(_, prefix)| text.starts_with(prefix.as_str()))
                .map(|(value, _)| value)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
