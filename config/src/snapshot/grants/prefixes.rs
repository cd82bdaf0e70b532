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

    /// Calls `found` with each prefix of `text` and its value.
    ///
    /// They are the last one that is not greater than `text`, and its parents, as far as they are
    /// prefixes of `text`: whatever is between a prefix of `text` and `text` begins with that
    /// prefix.
    pub(super) fn find(
        &self,
        text: &(impl Iterator<Item = u8> + Clone),
        mut found: impl FnMut(&[u8], u32),
    ) {
        let is_not_greater =
            |prefix: &Prefix| prefix.text.iter().copied().cmp(text.clone()).is_le();
        let mut next = self.0.partition_point(is_not_greater).checked_sub(1);
        while let Some(prefix) = next.and_then(|index| self.0.get(index)) {
            if prefix.text.iter().copied().eq(text.clone().take(prefix.text.len())) {
                found(&prefix.text, prefix.value);
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
            prefixes.find(&text.bytes(), |_, value| found.push(value));
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
