//! Decoding that goes on after a mistake, so that all mistakes are found at once.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::{DecodeError, Entry, Node, Position, Step, Value, decode};

/// What was read of a tree in spite of what is wrong with it.
#[derive(Debug)]
pub(crate) struct Amended<T> {
    /// The value, where taking out what is wrong was enough.
    pub(crate) value: Option<T>,
    /// The tree that it was read from.
    pub(crate) rest: Node,
    /// All that is wrong, with paths in the original tree.
    pub(crate) errors: Vec<DecodeError>,
}

/// Reads a value of type `T`. What is wrong is reported, up to `max` times, and taken out of a copy
/// of the tree, so that the rest can be judged. `stand_in` is what takes the place of a key of the
/// root that must be there, and is not or cannot be read.
pub(crate) fn decode_amending<T: DeserializeOwned>(
    original: &Node,
    max: usize,
    stand_in: impl Fn(&str, Position) -> Option<Value>,
) -> Amended<T> {
    let mut rest = original.clone();
    let mut errors: Vec<DecodeError> = Vec::new();
    let mut incomplete = HashSet::new();
    // What follows from another mistake counts too, so that the end is never far.
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
        // What lacks something because that was taken out is not wrong by itself, and what still is
        // wrong as a text was reported before.
        let consequence = if error.lacking {
            incomplete.contains(&at)
        } else {
            errors.iter().any(|known| !known.lacking && known.path == path)
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

/// A path of the amended tree as it was before things were taken out of it.
pub(crate) fn original_path(original: &Node, amended: &Node, path: &[Step]) -> Vec<Step> {
    let (mut original, mut amended) = (original, amended);
    let mut found = Vec::new();
    for step in path {
        let Some(next) = amended.follow(&[*step]) else { break };
        let position = match &original.value {
            Value::List(list) => list.iter().position(|node| node.at == next.at),
            Value::Map(entries) => entries.iter().position(|entry| entry.node.at == next.at),
            _ => None,
        };
        let Some((position, node)) =
            position.and_then(|index| Some((index, original.follow(&[Step(index)])?)))
        else {
            break;
        };
        found.push(Step(position));
        (original, amended) = (node, next);
    }
    found
}

/// Takes out of the tree what is wrong, or puts in what it lacks; false where that is not possible.
/// A number or a truth value becomes a text first: most often, one was meant.
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
    if let Some(node) = root.follow_mut(&error.path)
        && let Some(text) = scalar_text(&node.value)
    {
        node.value = Value::Text(text);
        return true;
    }
    let Some((_, parents)) = error.path.split_last() else { return false };
    for length in 1..=parents.len() {
        incomplete.extend(
            parents.get(..length).and_then(|way: &[Step]| root.follow(way)).map(|node| node.at),
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
