//! Decoding that continues after an error, so that all errors are reported at once.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::{DecodeError, Entry, Node, Position, Step, Value, decode};

/// The result of decoding a tree with errors.
#[derive(Debug)]
pub(crate) struct Amended<T> {
    /// The value, if removing the invalid parts was enough.
    pub(crate) value: Option<T>,
    /// The tree without the invalid parts.
    pub(crate) rest: Node,
    /// All errors, with paths in the original tree.
    pub(crate) errors: Vec<DecodeError>,
}

/// Decodes a value of type `T`. Invalid parts are reported, up to `max`, and removed from a copy of
/// the tree, so that the rest can be decoded. `stand_in` returns a placeholder for a required key
/// of the root that is missing or invalid.
pub(crate) fn decode_amending<T: DeserializeOwned>(
    original: &Node,
    max: usize,
    stand_in: impl Fn(&str, Position) -> Option<Value>,
) -> Amended<T> {
    let mut rest = original.clone();
    let mut errors: Vec<DecodeError> = Vec::new();
    let mut incomplete = HashSet::new();
    // Consequential errors count too, so that the number of rounds is bounded.
    for _ in 0..max.saturating_mul(2) {
        if errors.len() >= max {
            break;
        }
        let error = match decode::<T>(&rest) {
            Ok(value) => return Amended { value: Some(value), rest, errors },
            Err(error) => error,
        };
        let at = error.at.unwrap_or(rest.at);
        let path = original_path(original, &rest, &error.path);
        // A value that lacks a part because that was removed is not an error, and one that is still
        // invalid as a text was reported before.
        let consequence = if error.lacking {
            incomplete.contains(&at)
        } else {
            errors.iter().any(|reported| !reported.lacking && reported.path == path)
        };
        let amended = amend(&mut rest, &error, &mut incomplete, &stand_in);
        if !consequence {
            errors.push(DecodeError { path, at: Some(at), ..error });
        }
        if !amended {
            break;
        }
    }
    Amended { value: None, rest, errors }
}

/// The path in the original tree of a path in the amended tree.
pub(crate) fn original_path(original: &Node, amended: &Node, path: &[Step]) -> Vec<Step> {
    let (mut original, mut amended) = (original, amended);
    let mut found = Vec::new();
    for step in path {
        let Some(next) = amended.at_path(&[*step]) else { break };
        let position = match &original.value {
            Value::List(list) => list.iter().position(|node| node.at == next.at),
            Value::Map(entries) => entries.iter().position(|entry| entry.node.at == next.at),
            _ => None,
        };
        let Some((position, node)) =
            position.and_then(|index| Some((index, original.at_path(&[Step(index)])?)))
        else {
            break;
        };
        found.push(Step(position));
        (original, amended) = (node, next);
    }
    found
}

/// Removes the invalid part from the tree, or adds the missing one; returns whether it could. A
/// number or boolean is first turned into a text, which was most likely intended.
fn amend(
    root: &mut Node,
    error: &DecodeError,
    incomplete: &mut HashSet<Position>,
    stand_in: impl Fn(&str, Position) -> Option<Value>,
) -> bool {
    let at = root.at;
    if let (true, []) = (error.lacking, error.path.as_slice()) {
        let key = error.message.strip_prefix("the key `").and_then(|rest| rest.split('`').next());
        let Some((key, value)) = key.and_then(|key| Some((key, stand_in(key, at)?))) else {
            return false;
        };
        let Value::Map(entries) = &mut root.value else { return false };
        entries.push(Entry { key: key.to_owned(), key_at: at, node: Node { value, at } });
        return true;
    }
    if let ([Step(index)], Value::Map(entries)) = (error.path.as_slice(), &mut root.value)
        && let Some(entry) = entries.get_mut(*index)
        && let Some(value) = stand_in(&entry.key, entry.node.at)
    {
        entry.node.value = value;
        return true;
    }
    if let Some(node) = root.at_path_mut(&error.path)
        && let Some(text) = scalar_text(&node.value)
    {
        node.value = Value::Text(text);
        return true;
    }
    let Some((_, parents)) = error.path.split_last() else { return false };
    for length in 1..=parents.len() {
        incomplete.extend(
            parents.get(..length).and_then(|path: &[Step]| root.at_path(path)).map(|node| node.at),
        );
    }
    root.remove(&error.path)
}

fn scalar_text(value: &Value) -> Option<String> {
    match value {
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Unsigned(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Null | Value::Text(_) | Value::List(_) | Value::Map(_) => None,
    }
}
