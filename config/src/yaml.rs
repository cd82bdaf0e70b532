//! YAML as a tree in which every value knows its place, so that whatever is wrong with a value can
//! be told with line and column.
//!
//! The configuration file and manifests are read through it. JSON is read as the YAML that it is
//! (YAML 1.2 §1.2). What a document may cost is bounded, aliases included, before any of it is
//! kept.

mod amend;
mod build;
mod decode;
mod scalar;

use granit_parser::Marker;

pub(crate) use self::amend::{Amended, decode_amending, original_path};
pub(crate) use self::build::{SyntaxError, read};
pub(crate) use self::decode::{DecodeError, Step, decode};

/// The deepest nesting of a document.
pub(crate) const MAX_DEPTH: usize = 64;
/// The most values in one file.
pub(crate) const MAX_NODES: usize = 1_000_000;
/// The most values that anchors (`&name`) may keep and aliases (`*name`) repeat in one file.
pub(crate) const MAX_REPEATED: usize = 100_000;

/// A value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) value: Value,
    pub(crate) at: Position,
}

/// A line and a column, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Position {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// What YAML's core schema knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) key_at: Position,
    pub(crate) node: Node,
}

// === impl Node ===

impl Node {
    /// The value under `key`, where this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text, where this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values, where this is a list.
    pub(crate) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// The way that `keys` lead, as far as there is one, and the place of its end. A number leads
    /// into a list.
    pub(crate) fn way_to(&self, keys: &[&str]) -> (Vec<Step>, Position) {
        let mut node = self;
        let mut way = Vec::new();
        for key in keys {
            let index = match &node.value {
                Value::List(_) => key.parse().ok(),
                Value::Map(entries) => entries.iter().position(|entry| entry.key == *key),
                _ => None,
            };
            let Some((step, next)) =
                index.and_then(|index| Some((Step(index), node.follow(&[Step(index)])?)))
            else {
                break;
            };
            way.push(step);
            node = next;
        }
        (way, node.at)
    }

    /// What `path` leads to.
    pub(crate) fn follow(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::List(list) => list.get(step.0),
            Value::Map(entries) => entries.get(step.0).map(|entry| &entry.node),
            _ => None,
        })
    }

    /// What `path` leads to, to be changed.
    pub(crate) fn follow_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, step| match &mut node.value {
            Value::List(list) => list.get_mut(step.0),
            Value::Map(entries) => entries.get_mut(step.0).map(|entry| &mut entry.node),
            _ => None,
        })
    }

    /// A path as people write it: `certificates[0].files.key`.
    pub(crate) fn key_path(&self, path: &[Step]) -> String {
        let mut text = String::new();
        let mut node = self;
        for step in path {
            let next = match &node.value {
                Value::List(list) => {
                    text.push_str(&format!("[{}]", step.0));
                    list.get(step.0)
                }
                Value::Map(entries) => entries.get(step.0).map(|entry| {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(&entry.key);
                    &entry.node
                }),
                _ => None,
            };
            match next {
                Some(next) => node = next,
                None => break,
            }
        }
        text
    }

    /// The map with one of its keys alone.
    pub(crate) fn only(&self, key: &str) -> Self {
        let entries = self.entry(key).cloned().into_iter().collect();
        Self { value: Value::Map(entries), at: self.at }
    }

    /// Takes out what `path` leads to, so that the rest can be judged without it; false where there
    /// is nothing there.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((last, way)) = path.split_last() else { return false };
        match self.follow_mut(way).map(|node| &mut node.value) {
            Some(Value::List(list)) if last.0 < list.len() => drop(list.remove(last.0)),
            Some(Value::Map(entries)) if last.0 < entries.len() => drop(entries.remove(last.0)),
            _ => return false,
        }
        true
    }
}

// === impl Position ===

impl Position {
    /// The beginning of a file.
    pub(crate) const START: Self = Self { line: 1, column: 1 };

    fn after(text: &str) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let last = text.rsplit('\n').next().unwrap_or_default();
        Self {
            line: number(text.matches('\n').count() + 1),
            column: number(last.chars().count() + 1),
        }
    }
}

impl From<Marker> for Position {
    fn from(marker: Marker) -> Self {
        let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Self { line: number(marker.line()).max(1), column: number(marker.col()).saturating_add(1) }
    }
}

#[cfg(test)]
mod tests;
