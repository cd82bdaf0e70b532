//! YAML as a tree of values with positions, so that errors can be reported with line and column.
//!
//! The configuration file and manifests are read with it. JSON is read as YAML, which includes it
//! (YAML 1.2 §1.2). Limits bound the memory of a document, including aliases, before it is stored.

mod amend;
mod build;
mod decode;
mod document;
mod edit;
mod scalar;

use granit_parser::Marker;

pub(crate) use self::amend::{Amended, decode_amending, original_path};
pub(crate) use self::build::{SyntaxError, read};
pub(crate) use self::decode::{DecodeError, Step, decode};
pub use self::document::{InvalidDocument, documents, read_file, read_text};
pub(crate) use self::edit::{NotEditable, ObjectName, annotate};

/// The maximum nesting depth of a document.
pub(crate) const MAX_DEPTH: usize = 64;
/// The maximum number of values in one file.
pub(crate) const MAX_NODES: usize = 1_000_000;
/// The maximum number of values stored by anchors (`&name`) or repeated by aliases (`*name`).
pub(crate) const MAX_REPEATED: usize = 100_000;

/// A value and its position.
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

/// A value of YAML's core schema.
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
    /// The value of `key`, if this is a map that has it.
    pub(crate) fn get(&self, key: &str) -> Option<&Node> {
        self.entry(key).map(|entry| &entry.node)
    }

    fn entry(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// The text, if this is one.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The values, if this is a list.
    pub(crate) fn list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// Resolves `keys` as far as they exist; returns the path and the position of its end. A number
    /// is an index into a list.
    pub(crate) fn resolve(&self, keys: &[&str]) -> (Vec<Step>, Position) {
        let mut node = self;
        let mut path = Vec::new();
        for key in keys {
            let index = match &node.value {
                Value::List(_) => key.parse().ok(),
                Value::Map(entries) => entries.iter().position(|entry| entry.key == *key),
                _ => None,
            };
            let Some((step, next)) =
                index.and_then(|index| Some((Step(index), node.at_path(&[Step(index)])?)))
            else {
                break;
            };
            path.push(step);
            node = next;
        }
        (path, node.at)
    }

    /// The value at `path`.
    pub(crate) fn at_path(&self, path: &[Step]) -> Option<&Node> {
        path.iter().try_fold(self, |node, step| match &node.value {
            Value::List(list) => list.get(step.0),
            Value::Map(entries) => entries.get(step.0).map(|entry| &entry.node),
            _ => None,
        })
    }

    /// The value at `path`, mutable.
    pub(crate) fn at_path_mut(&mut self, path: &[Step]) -> Option<&mut Node> {
        path.iter().try_fold(self, |node, step| match &mut node.value {
            Value::List(list) => list.get_mut(step.0),
            Value::Map(entries) => entries.get_mut(step.0).map(|entry| &mut entry.node),
            _ => None,
        })
    }

    /// The path in dotted notation: `certificates[0].files.key`.
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

    /// The map reduced to one key.
    pub(crate) fn only(&self, key: &str) -> Self {
        let entries = self.entry(key).cloned().into_iter().collect();
        Self { value: Value::Map(entries), at: self.at }
    }

    /// Removes the value at `path`, so that the rest can be decoded without it; returns whether it
    /// existed.
    pub(crate) fn remove(&mut self, path: &[Step]) -> bool {
        let Some((last, parents)) = path.split_last() else { return false };
        match self.at_path_mut(parents).map(|node| &mut node.value) {
            Some(Value::List(list)) if last.0 < list.len() => drop(list.remove(last.0)),
            Some(Value::Map(entries)) if last.0 < entries.len() => drop(entries.remove(last.0)),
            _ => return false,
        }
        true
    }
}

// === impl Position ===

impl Position {
    /// The start of a file.
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
