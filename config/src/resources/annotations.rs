//! Labels and annotations, trimmed to Portcullis' own.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::vocabulary::{PREFIX, is_known};

/// The longest value that is kept, in bytes; Kubernetes allows 256 KiB over all annotations of an
/// object, a folder any size.
pub const MAX_VALUE: usize = 8 * 1024;
/// The most keys kept of an object that are not understood.
pub const MAX_UNKNOWN: usize = 8;
/// The longest key that is kept: more than any that is understood.
const MAX_KEY: usize = 128;

/// The labels, or the annotations, of an object that start with [`PREFIX`], by what follows it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Annotations(BTreeMap<Box<str>, Value>);

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// As it was written, without white space around it.
    Text(Arc<str>),
    /// Longer than [`MAX_VALUE`], so not kept; its length in bytes.
    TooLong(usize),
}

// === impl Annotations ===

impl Annotations {
    /// Keeps what is Portcullis' own.
    #[must_use]
    pub fn keep(entries: Option<&BTreeMap<String, String>>) -> Self {
        let mut unknown = 0;
        let own = entries
            .into_iter()
            .flatten()
            .filter_map(|(key, value)| Some((key.strip_prefix(PREFIX)?, value)));
        let kept = own.filter(|(key, _)| {
            unknown += usize::from(!is_known(key));
            is_known(key) || (unknown <= MAX_UNKNOWN && key.len() <= MAX_KEY)
        });
        Self(kept.map(|(key, value)| (key.into(), Value::new(value))).collect())
    }

    /// The value of `key`, which is without prefix.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }

    /// All keys, without prefix, with their values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(key, value)| (&**key, value))
    }
}

// === impl Value ===

impl Value {
    fn new(text: &str) -> Self {
        if text.len() > MAX_VALUE {
            Self::TooLong(text.len())
        } else {
            Self::Text(text.trim().into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documentation_has_the_longest_value() {
        let documented = include_str!("../../../docs/annotations.md");
        assert!(documented.contains(&format!("{} KiB", MAX_VALUE / 1024)));
    }
}
