//! What must hold for any octets at all: the laws that the fuzz target in `fuzz/` checks for hours,
//! and that every test run checks again on the corpus which it has found.

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

/// A file of manifests, as the folder and the configuration are read.
///
/// - Whatever it is, it is read to its end, within the bounds of the reader.
/// - An error stands in the file.
/// - Every object and every problem has its place.
/// - What was read, printed as JSON and read again, is the same.
///
/// # Panics
/// Where one of these is broken.
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
                read_again(&node);
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
    for place in origins.map(|origin| origin.place.as_ref().expect("what is in a file has a place"))
    {
        assert!((1..=lines + 2).contains(&place.line), "{place} is not in a file of {lines} lines");
    }
}

fn read_again(node: &Node) {
    let mut text = String::new();
    if !print(&node.value, &mut text) || node.value == Value::Null {
        return;
    }
    match yaml::read(text.as_bytes()).as_slice() {
        [Ok(again)] => assert!(
            is_same(&node.value, &again.value),
            "{node:?} was read from {text} as {again:?}"
        ),
        other => panic!("{node:?} was read from {text} as {other:?}"),
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

/// Equal but for places.
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

/// As JSON; `false` where JSON cannot say it.
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

/// YAML has characters that stand nowhere as they are, and such that end a line, which JSON writes
/// as they are (YAML 1.2 §5.1).
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
    write!(text, "{value}").expect("a String takes all");
}

#[cfg(test)]
mod tests;
