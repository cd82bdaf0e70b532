//! Builds trees from parser events, without recursion: the input controls the nesting depth.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Tag};

use super::{Entry, MAX_DEPTH, MAX_NODES, MAX_REPEATED, Node, Position, Value, scalar};

/// How many bytes of a text count as one more value where it is repeated, so that few aliases of a
/// long text are as bounded as many aliases of a short one.
const NODE_BYTES: usize = 100;

/// Why a file, or one document of it, is rejected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) at: Position,
    pub(crate) message: String,
    pub(crate) help: &'static str,
}

/// Reads all documents except empty ones. An invalid one does not affect those before and after it.
pub(crate) fn read(bytes: &[u8]) -> Vec<Result<Node, SyntaxError>> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let at = Position::after(&String::from_utf8_lossy(before));
            return vec![Err(SyntaxError::new(
                at,
                "the file is not UTF-8 text",
                "save it as UTF-8",
            ))];
        }
    };
    let options = granit_parser::options! {
        // The limit of the builder applies: its error has a help text.
        flow_nesting_limit: MAX_DEPTH + 1,
        block_nesting_limit: MAX_DEPTH + 1,
    };
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::default();
    let mut documents = Vec::new();
    loop {
        match parser.next_event() {
            None | Some(Ok((Event::StreamEnd, _))) => return documents,
            Some(Ok((event, span))) => match builder.event(event, span.start) {
                Ok(document) => documents.extend(document.map(Ok)),
                Err(error) => {
                    documents.push(Err(error));
                    if !builder.resume(&mut parser) {
                        return documents;
                    }
                }
            },
            Some(Err(error)) => {
                documents.push(Err(SyntaxError::from(&error)));
                if !builder.resume(&mut parser) {
                    return documents;
                }
            }
        }
    }
}

/// The state while a document is built.
#[derive(Default)]
struct Builder {
    open: Vec<Collection>,
    anchors: HashMap<usize, (Node, Extent)>,
    nodes: usize,
    repeated: usize,
}

/// An open list or map.
struct Collection {
    content: Content,
    at: Position,
    anchor: usize,
    extent: Extent,
}

/// The size of a value, including itself. A long text counts as several values.
#[derive(Clone, Copy)]
struct Extent {
    nodes: usize,
    depth: usize,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, key: Option<(String, Position)> },
}

// === impl Extent ===

impl Extent {
    /// The extent of a short scalar or an empty collection.
    const ONE: Self = Self { nodes: 1, depth: 1 };
}

// === impl Builder ===

impl Builder {
    /// Handles an event; returns the document if the event completes it.
    fn event(&mut self, event: Event<'_>, start: Marker) -> Result<Option<Node>, SyntaxError> {
        let at = Position::from(start);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = scalar_value(&text, style, tag.as_deref(), at)?;
                self.count(at)?;
                let nodes = 1 + text.len() / NODE_BYTES;
                self.complete(Node { value, at }, anchor, Extent { nodes, ..Extent::ONE })
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Content::List(Vec::new()), at, anchor)
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(tag.as_deref(), at)?;
                self.begin(Content::Map { entries: Vec::new(), key: None }, at, anchor)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(collection) = self.open.pop() else { return Ok(None) };
                let value = match collection.content {
                    Content::List(list) => Value::List(list),
                    Content::Map { entries, .. } => Value::Map(merged(entries)?),
                };
                self.complete(
                    Node { value, at: collection.at },
                    collection.anchor,
                    collection.extent,
                )
            }
            Event::Alias(id) => {
                let Some((node, extent)) = self.anchors.get(&id) else {
                    return Err(recursive_alias(at));
                };
                let extent = *extent;
                self.repeated += extent.nodes;
                if self.repeated > MAX_REPEATED || self.open.len() + extent.depth > MAX_DEPTH {
                    return Err(too_large(at));
                }
                let node = Node { value: node.value.clone(), at };
                self.complete(node, 0, extent)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        content: Content,
        at: Position,
        anchor: usize,
    ) -> Result<Option<Node>, SyntaxError> {
        self.count(at)?;
        if self.open.len() >= MAX_DEPTH {
            return Err(too_large(at));
        }
        if let Some(Collection { content: Content::Map { key: None, .. }, .. }) = self.open.last() {
            return Err(no_key(at));
        }
        self.open.push(Collection { content, at, anchor, extent: Extent::ONE });
        Ok(None)
    }

    fn count(&mut self, at: Position) -> Result<(), SyntaxError> {
        self.nodes += 1;
        if self.nodes > MAX_NODES { Err(too_large(at)) } else { Ok(()) }
    }

    /// Adds a complete value to the enclosing collection, or returns it as the document if there is
    /// none.
    fn complete(
        &mut self,
        node: Node,
        anchor: usize,
        extent: Extent,
    ) -> Result<Option<Node>, SyntaxError> {
        if anchor != 0 {
            self.repeated += extent.nodes;
            if self.repeated > MAX_REPEATED {
                return Err(too_large(node.at));
            }
            self.anchors.insert(anchor, (node.clone(), extent));
        }
        let Some(parent) = self.open.last_mut() else {
            return Ok((node.value != Value::Null).then_some(node));
        };
        parent.extent.nodes += extent.nodes;
        parent.extent.depth = parent.extent.depth.max(extent.depth + 1);
        match &mut parent.content {
            Content::List(list) => list.push(node),
            Content::Map { entries, key } => match key.take() {
                Some((key, key_at)) => entries.push(Entry { key, key_at, node }),
                None => *key = Some((into_key(node.value, node.at)?, node.at)),
            },
        }
        Ok(None)
    }

    /// Discards the current document and skips to the next; returns whether there is one.
    fn resume<'a>(&mut self, parser: &mut Parser<'a, granit_parser::StrInput<'a>>) -> bool {
        self.open.clear();
        self.anchors.clear();
        self.nodes <= MAX_NODES
            && self.repeated <= MAX_REPEATED
            && parser.proceed_next_document().unwrap_or(false)
    }
}

fn scalar_value(
    text: &str,
    style: ScalarStyle,
    tag: Option<&Tag>,
    at: Position,
) -> Result<Value, SyntaxError> {
    check_tag(tag, at)?;
    let as_text =
        style != ScalarStyle::Plain || tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"));
    Ok(if as_text { Value::Text(text.to_owned()) } else { scalar::resolve(text) })
}

fn check_tag(tag: Option<&Tag>, at: Position) -> Result<(), SyntaxError> {
    match tag {
        // `!` alone means "not a plain scalar" (YAML 1.2 §6.9.1), which follows from the style.
        Some(tag) if tag.is_custom() && tag.original() != "!" => Err(SyntaxError::new(
            at,
            format!("unsupported tag `{}`", tag.original()),
            "remove the tag",
        )),
        _ => Ok(()),
    }
}

/// Numbers and booleans are keys by their canonical text, as in JSON.
fn into_key(value: Value, at: Position) -> Result<String, SyntaxError> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Bool(value) => Ok(value.to_string()),
        Value::Integer(value) => Ok(value.to_string()),
        Value::Unsigned(value) => Ok(value.to_string()),
        Value::Float(_) | Value::Null | Value::List(_) | Value::Map(_) => Err(no_key(at)),
    }
}

/// Rejects duplicate keys, and adds the entries of merge keys (`<<: *name`) that the map does not
/// define itself.
fn merged(entries: Vec<Entry>) -> Result<Vec<Entry>, SyntaxError> {
    let mut seen = HashSet::with_capacity(entries.len());
    if let Some(duplicate) = entries.iter().find(|entry| !seen.insert(entry.key.as_str())) {
        return Err(SyntaxError::new(
            duplicate.key_at,
            format!("duplicate key `{}`", duplicate.key),
            "remove one of the two",
        ));
    }
    if !seen.contains("<<") {
        return Ok(entries);
    }
    let (merges, mut own): (Vec<Entry>, Vec<Entry>) =
        entries.into_iter().partition(|entry| entry.key == "<<");
    let mut seen: HashSet<String> = own.iter().map(|entry| entry.key.clone()).collect();
    for merge in merges {
        let sources = match merge.node.value {
            Value::List(list) => list,
            _ => vec![merge.node],
        };
        for source in sources {
            let Value::Map(entries) = source.value else {
                return Err(SyntaxError::new(
                    source.at,
                    "a merge key (`<<`) takes a map or a list of maps",
                    "write an alias of a map",
                ));
            };
            own.extend(entries.into_iter().filter(|entry| seen.insert(entry.key.clone())));
        }
    }
    Ok(own)
}

fn no_key(at: Position) -> SyntaxError {
    SyntaxError::new(at, "a key must be a text", "write the key as a plain or quoted text")
}

fn recursive_alias(at: Position) -> SyntaxError {
    SyntaxError::new(
        at,
        "an alias (`*`) is inside the value that it refers to",
        "write out the value",
    )
}

fn too_large(at: Position) -> SyntaxError {
    SyntaxError::new(
        at,
        format!(
            "the file is too large: more than {MAX_NODES} values, {MAX_DEPTH} levels, or \
             {MAX_REPEATED} values repeated by aliases"
        ),
        "split it into several files, and write out what aliases repeat",
    )
}

// === impl SyntaxError ===

impl SyntaxError {
    fn new(at: Position, message: impl Into<String>, help: &'static str) -> Self {
        Self { at, message: message.into(), help }
    }
}

impl From<&ScanError> for SyntaxError {
    fn from(error: &ScanError) -> Self {
        let at = Position::from(*error.marker());
        match error.kind() {
            ErrorKind::RecursionLimitExceeded => too_large(at),
            ErrorKind::UnknownAnchor => Self::new(
                at,
                "an alias (`*`) refers to no anchor before it",
                "define the anchor (`&`) first",
            ),
            kind => Self::new(
                at,
                format!("the file is not well-formed YAML: {kind}"),
                "fix the syntax at this position",
            ),
        }
    }
}
