//! Invariants of parsing for arbitrary octets.
//!
//! The fuzz target in `fuzz/` checks them for hours; every test run checks them on its corpus.

use std::fmt::Write;
use std::sync::Arc;

use crate::model::NamespacedName;
use crate::resources::Object;
use crate::source::Secrets;
use crate::source::manifest::{Manifests, read_manifests};
use crate::yaml::{self, MAX_DEPTH, MAX_NODES, MAX_REPEATED, Node, Value};

/// YAML's limit on a key beside its value (YAML 1.2 §7.4.2), in characters, less the quotes and
/// escapes that printing may add.
const LONGEST_KEY: usize = 100;

/// Parses a file of manifests and checks these invariants.
///
/// - Any input is read to its end, within the limits of the reader.
/// - The location of an error is in the file.
/// - Every object and every problem has a location.
/// - Printing a document as JSON and reading that yields the same document.
///
/// # Panics
/// An invariant does not hold.
pub fn manifests(octets: &[u8]) {
    let lines = u32::try_from(octets.iter().filter(|octet| matches!(octet, b'\n' | b'\r')).count())
        .unwrap_or(u32::MAX);
    let mut nodes = 0;
    for document in yaml::read(octets) {
        match document {
            Err(error) => assert!(
                (1..=lines + 2).contains(&error.at.line),
                "{error:?} is not in a file of {lines} lines"
            ),
            Ok(node) => {
                assert!(depth(&node) <= MAX_DEPTH + 1);
                nodes += count(&node);
                check_round_trip(&node);
            }
        }
    }
    assert!(nodes <= MAX_NODES + MAX_REPEATED);
    objects(octets, lines);
}

fn objects(octets: &[u8], lines: u32) {
    let secrets = Secrets {
        certificates: [NamespacedName::new("default", "tls")].into(),
        credentials: Some("default".into()),
    };
    let Manifests { objects, problems, .. } =
        read_manifests(&Arc::new("fuzz.yaml".into()), octets, &secrets);
    let origins =
        objects.iter().map(Object::origin).chain(problems.iter().map(|problem| &problem.origin));
    for origin in origins {
        let location = origin.place.as_ref().expect("an origin in a file has a location");
        assert!(
            (1..=lines + 2).contains(&location.line),
            "{location} is not in a file of {lines} lines"
        );
    }
}

fn check_round_trip(node: &Node) {
    let mut text = String::new();
    if !print(&node.value, &mut text) || node.value == Value::Null {
        return;
    }
    match yaml::read(text.as_bytes()).as_slice() {
        [Ok(parsed)] => assert!(
            is_same(&node.value, &parsed.value),
            "{node:?}, printed as {text}, was read back as {parsed:?}"
        ),
        other => panic!("{node:?}, printed as {text}, was read back as {other:?}"),
    }
}

fn children(value: &Value) -> Vec<&Node> {
    match value {
        Value::List(list) => list.iter().collect(),
        Value::Map(entries) => entries.iter().map(|entry| &entry.node).collect(),
        _ => Vec::new(),
    }
}

fn depth(node: &Node) -> usize {
    1 + children(&node.value).into_iter().map(depth).max().unwrap_or(0)
}

fn count(node: &Node) -> usize {
    1 + children(&node.value).into_iter().map(count).sum::<usize>()
}

/// Whether both are equal, apart from locations.
fn is_same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::List(a), Value::List(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| is_same(&a.value, &b.value))
        }
        (Value::Map(a), Value::Map(b)) => {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|(a, b)| a.key == b.key && is_same(&a.node.value, &b.node.value))
        }
        _ => a == b,
    }
}

/// Prints a value as JSON; returns `false` where JSON cannot represent it.
fn print(value: &Value, text: &mut String) -> bool {
    match value {
        Value::Null => text.push_str("null"),
        Value::Bool(value) => text.push_str(if *value { "true" } else { "false" }),
        Value::Integer(number) => push(text, number),
        Value::Unsigned(number) => push(text, number),
        Value::Float(number) if number.is_finite() => push(text, format_args!("{number:?}")),
        Value::Float(_) => return false,
        Value::Text(value) => quote(text, value),
        Value::List(list) => {
            text.push('[');
            for (index, node) in list.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                if !print(&node.value, text) {
                    return false;
                }
            }
            text.push(']');
        }
        Value::Map(entries) => {
            text.push('{');
            for (index, entry) in entries.iter().enumerate() {
                text.push_str(if index > 0 { ", " } else { "" });
                quote(text, &entry.key);
                text.push_str(": ");
                if entry.key.len() > LONGEST_KEY
                    || entry.key == "<<"
                    || !print(&entry.node.value, text)
                {
                    return false;
                }
            }
            text.push('}');
        }
    }
    true
}

/// Quotes a text as JSON, and escapes also what YAML does not allow literally, or reads as a line
/// break (YAML 1.2 §5.1).
fn quote(text: &mut String, value: &str) {
    for char in serde_json::Value::from(value).to_string().chars() {
        match char {
            '\u{7f}'..='\u{9f}'
            | '\u{2028}'
            | '\u{2029}'
            | '\u{feff}'
            | '\u{fffe}'
            | '\u{ffff}' => {
                push(text, format_args!("\\u{:04x}", u32::from(char)));
            }
            char => text.push(char),
        }
    }
}

fn push(text: &mut String, value: impl std::fmt::Display) {
    write!(text, "{value}").expect("writing to a String cannot fail");
}

#[cfg(test)]
mod tests;
