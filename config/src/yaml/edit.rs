//! Changes annotations in the text of a manifest file, and nothing else: comments, order and style
//! of the rest stay.

use std::ops::Range;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StructureStyle};
use serde_json::{Value, json};

use super::{MAX_DEPTH, documents};

/// The object to change.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObjectName<'a> {
    pub(crate) kind: &'a str,
    pub(crate) namespace: &'a str,
    pub(crate) name: &'a str,
}

/// The text cannot be changed without a risk for the rest of it: it uses aliases or an uncommon
/// style, or it is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotEditable;

/// Returns the text with these annotations of the first object of that name, each added or replaced.
///
/// # Errors
/// The text has no such object, or it would not be read as the same objects with these annotations.
pub(crate) fn annotate(
    text: &str,
    object: ObjectName<'_>,
    annotations: &[(String, String)],
) -> Result<String, NotEditable> {
    let trees = parse(text).ok_or(NotEditable)?;
    let found = trees.iter().find_map(|tree| tree.find(object)).ok_or(NotEditable)?;
    let edits = edits(text, found, annotations).ok_or(NotEditable)?;
    let mut edited = text.to_owned();
    for (range, replacement) in edits.into_iter().rev() {
        edited.get(range.clone()).ok_or(NotEditable)?;
        edited.replace_range(range, &replacement);
    }
    let read = |text: &str| documents(text.as_bytes()).map_err(|_| NotEditable);
    let mut expected = read(text)?;
    let target = expected.iter_mut().find_map(|value| find_value(value, object));
    let metadata = target.and_then(|value| value.get_mut("metadata")?.as_object_mut());
    let map = metadata.and_then(|metadata| {
        metadata.entry("annotations").or_insert_with(|| json!({})).as_object_mut()
    });
    let new = annotations.iter().map(|(key, value)| (key.clone(), json!(value)));
    map.ok_or(NotEditable)?.extend(new);
    if read(&edited)? == expected { Ok(edited) } else { Err(NotEditable) }
}

fn find_value<'v>(value: &'v mut Value, object: ObjectName<'_>) -> Option<&'v mut Value> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str);
    let is_it = text("/kind") == Some(object.kind)
        && text("/metadata/name") == Some(object.name)
        && text("/metadata/namespace").unwrap_or("default") == object.namespace;
    if is_it {
        return Some(value);
    }
    let items = value.get_mut("items")?.as_array_mut()?;
    items.iter_mut().find_map(|item| find_value(item, object))
}

/// A value and where it is in the text.
#[derive(Debug)]
struct Tree {
    shape: Shape,
    start: Marker,
    end: Marker,
}

#[derive(Debug)]
enum Shape {
    Scalar { text: String, is_block: bool },
    Map { is_flow: bool, entries: Vec<(Tree, Tree)> },
    List(Vec<Tree>),
    Alias,
}

/// Reads all documents; `None` if the text is invalid.
fn parse(text: &str) -> Option<Vec<Tree>> {
    let options = granit_parser::options! {
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut documents = Vec::new();
    // The open collections, with their style, and what was read of them.
    let mut open: Vec<(Marker, Option<bool>, Vec<Tree>)> = Vec::new();
    while let Some(event) = parser.next_event() {
        let (event, Span { start, end, .. }) = event.ok()?;
        let tree = match event {
            Event::Scalar(text, style, ..) => {
                let is_block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
                let shape = Shape::Scalar { text: text.into_owned(), is_block };
                Some(Tree { shape, start, end })
            }
            Event::Alias(_) => Some(Tree { shape: Shape::Alias, start, end }),
            Event::SequenceStart(..) => {
                open.push((start, None, Vec::new()));
                None
            }
            Event::MappingStart(style, ..) => {
                open.push((start, Some(style == StructureStyle::Flow), Vec::new()));
                None
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let (start, is_flow, children) = open.pop()?;
                let shape = match is_flow {
                    None => Shape::List(children),
                    Some(is_flow) => Shape::Map { is_flow, entries: pairs(children) },
                };
                Some(Tree { shape, start, end })
            }
            _ => None,
        };
        match (tree, open.last_mut()) {
            (Some(tree), Some((.., siblings))) => siblings.push(tree),
            (Some(tree), None) => documents.push(tree),
            (None, _) => {}
        }
    }
    Some(documents)
}

fn pairs(children: Vec<Tree>) -> Vec<(Tree, Tree)> {
    let mut children = children.into_iter();
    let mut pairs = Vec::new();
    while let (Some(key), Some(value)) = (children.next(), children.next()) {
        pairs.push((key, value));
    }
    pairs
}

/// The changes of the text, in order.
fn edits(
    text: &str,
    object: &Tree,
    annotations: &[(String, String)],
) -> Option<Vec<(Range<usize>, String)>> {
    let metadata = object.get("metadata")?;
    let Some(existing) = metadata.get("annotations") else {
        return Some(vec![added_map(text, metadata, annotations)?]);
    };
    let (mut edits, mut new) = (Vec::new(), Vec::new());
    for (key, value) in annotations {
        match existing.get(key) {
            Some(Tree { shape: Shape::Scalar { is_block: false, .. }, start, end }) => {
                edits.push((start.byte_offset()?..end.byte_offset()?, quoted(value)));
            }
            Some(_) => return None,
            None => new.push((key.clone(), value.clone())),
        }
    }
    if !new.is_empty() {
        edits.push(added_entries(text, existing, &new)?);
    }
    edits.sort_by_key(|(range, _)| range.start);
    Some(edits)
}

/// A text as JSON and YAML write it.
fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// The entry `annotations`, in a map without it.
fn added_map(
    text: &str,
    metadata: &Tree,
    annotations: &[(String, String)],
) -> Option<(Range<usize>, String)> {
    let Shape::Map { is_flow, entries } = &metadata.shape else { return None };
    if *is_flow {
        let entries = annotations.iter().map(|(key, value)| (key.clone(), json!(value)));
        let map = Value::Object(entries.collect()).to_string();
        return added_flow(text, metadata, &format!("\"annotations\": {map}"));
    }
    let (first, _) = entries.first()?;
    let indent = " ".repeat(first.start.col());
    let mut lines = vec!["annotations:".to_owned()];
    lines.extend(annotations.iter().map(|(key, value)| format!("  {key}: {}", quoted(value))));
    added_lines(text, entries, &indent, &lines)
}

/// Entries of a map that lacks them.
fn added_entries(
    text: &str,
    map: &Tree,
    new: &[(String, String)],
) -> Option<(Range<usize>, String)> {
    let Shape::Map { is_flow, entries } = &map.shape else { return None };
    if *is_flow {
        let entries: Vec<String> =
            new.iter().map(|(key, value)| format!("{}: {}", quoted(key), quoted(value))).collect();
        return added_flow(text, map, &entries.join(", "));
    }
    let (first, _) = entries.first()?;
    let indent = " ".repeat(first.start.col());
    let lines: Vec<String> =
        new.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
    added_lines(text, entries, &indent, &lines)
}

/// Adds to a map in braces, at its beginning.
fn added_flow(text: &str, map: &Tree, entries: &str) -> Option<(Range<usize>, String)> {
    let Shape::Map { entries: existing, .. } = &map.shape else { return None };
    let at = map.start.byte_offset()?;
    let at = at + text.get(at..)?.find('{')? + 1;
    let separator = if existing.is_empty() { "" } else { ", " };
    Some((at..at, format!("{entries}{separator}")))
}

/// Adds lines to a map without braces: after its last entry if that ends with its line, else before
/// the first one.
fn added_lines(
    text: &str,
    entries: &[(Tree, Tree)],
    indent: &str,
    lines: &[String],
) -> Option<(Range<usize>, String)> {
    let is_line = |(key, value): &&(Tree, Tree)| {
        matches!(value.shape, Shape::Scalar { is_block: false, .. })
            && key.start.line() == value.end.line()
    };
    if let Some((_, value)) = entries.last().filter(is_line) {
        let end = value.end.byte_offset()?;
        let rest = text.get(end..)?;
        let at = end + rest.find('\n').unwrap_or(rest.len());
        let added = lines.iter().map(|line| format!("\n{indent}{line}")).collect();
        return Some((at..at, added));
    }
    let at = entries.first()?.0.start.byte_offset()?;
    Some((at..at, lines.iter().map(|line| format!("{line}\n{indent}")).collect()))
}

// === impl Tree ===

impl Tree {
    fn get(&self, key: &str) -> Option<&Self> {
        let Shape::Map { entries, .. } = &self.shape else { return None };
        entries.iter().find(|(name, _)| name.text() == Some(key)).map(|(_, value)| value)
    }

    fn text(&self) -> Option<&str> {
        match &self.shape {
            Shape::Scalar { text, .. } => Some(text),
            _ => None,
        }
    }

    /// The object of that name, itself or in a list.
    fn find(&self, object: ObjectName<'_>) -> Option<&Self> {
        let text = |key| self.get("metadata")?.get(key)?.text();
        let is_it = self.get("kind").and_then(Self::text) == Some(object.kind)
            && text("name") == Some(object.name)
            && text("namespace").unwrap_or("default") == object.namespace;
        if is_it {
            return Some(self);
        }
        match &self.get("items")?.shape {
            Shape::List(items) => items.iter().find_map(|item| item.find(object)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEB: ObjectName<'_> = ObjectName { kind: "Service", namespace: "shop", name: "web" };

    fn edited(text: &str) -> Result<String, NotEditable> {
        let of = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        annotate(text, WEB, &[of("x/split", "a=0-499"), of("x/generation", "7")])
    }

    #[test]
    fn annotations_are_replaced_where_they_are() {
        let text = "\
# the shop
apiVersion: v1
kind: Service
metadata: # of the shop
  name: web
  namespace: shop
  annotations:
    x/split: a=0-99 # five percent
    'x/generation':   \"6\"

    other: \"true\"
spec: {ports: [{port: 80}]}
---
kind: Other # stays
";
        let expected = text.replace("a=0-99 #", "\"a=0-499\" #").replace("\"6\"", "\"7\"");
        assert_eq!(edited(text), Ok(expected));
    }

    #[test]
    fn annotations_are_added_in_the_style_of_the_file() {
        let block = |annotations: &str| {
            format!(
                "kind: Service\nmetadata:\n  name: web\n  namespace: shop # here\n{annotations}spec: {{}}\n"
            )
        };
        let new = "x/split: \"a=0-499\"\n    x/generation: \"7\"\n";
        assert_eq!(edited(&block("")), Ok(block(&format!("  annotations:\n    {new}"))));
        let one = "  annotations:\n    other: on # yes\n";
        assert_eq!(edited(&block(one)), Ok(block(&format!("{one}    {new}"))));
        let long = "  annotations:\n    other: |\n      a\n      b\n";
        let first = format!("  annotations:\n    {new}    other: |\n      a\n      b\n");
        assert_eq!(edited(&block(long)), Ok(block(&first)));
        for (before, after) in [
            ("{}", "{\"x/split\": \"a=0-499\", \"x/generation\": \"7\"}"),
            ("{ other: on }", "{\"x/split\": \"a=0-499\", \"x/generation\": \"7\",  other: on }"),
            ("{x/split: b=0-0}", "{\"x/generation\": \"7\", x/split: \"a=0-499\"}"),
        ] {
            let of = |annotations: &str| block(&format!("  annotations: {annotations}\n"));
            assert_eq!(edited(&of(before)), Ok(of(after)));
        }
    }

    #[test]
    fn json_and_lists_are_edited_too() {
        let of = |annotations: &str| {
            format!(
                "{{\"apiVersion\": \"v1\", \"kind\": \"List\", \"items\": [{{\"kind\": \"Service\", \
                 \"metadata\": {{{annotations}\"name\": \"web\", \"namespace\": \"shop\"}}}}]}}"
            )
        };
        let added = "\"annotations\": {\"x/split\":\"a=0-499\",\"x/generation\":\"7\"}, ";
        assert_eq!(edited(&of("")), Ok(of(added)));
    }

    #[test]
    fn what_cannot_be_changed_safely_stays() {
        for text in [
            "kind: Service\nmetadata: {name: other, namespace: shop}\n",
            "kind: Service\nmetadata: {name: web}\n",
            "a: &a {other: on}\n---\nkind: Service\nmetadata:\n  name: web\n  namespace: shop\n  \
             annotations: null\n",
            "kind: Service\nmetadata:\n  name: web\n  namespace: shop\n  labels: &a {x: y}\n  \
             annotations: *a\n",
            "kind: Service\nmetadata: {name: web, namespace: shop, annotations: {x/split: [1]}}\n",
            "kind: [",
            "",
        ] {
            assert_eq!(edited(text), Err(NotEditable), "{text}");
        }
    }
}
