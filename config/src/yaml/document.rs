//! What other crates read: documents as JSON values, and configuration files of any type.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Amended, Position, decode, decode_amending, read};
use crate::model::{Origin, SourceLocation};
use crate::problem::{Problem, Severity};

/// The largest configuration file, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// The most problems that are reported at once.
const MAX_PROBLEMS: usize = 100;

/// Why a document cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDocument {
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: String,
}

/// Reads all documents of a YAML or JSON text, except empty ones, as JSON values.
///
/// # Errors
/// All documents that are not valid, or that exceed the limits on depth, size and aliases.
pub fn documents(text: &[u8]) -> Result<Vec<Value>, Vec<InvalidDocument>> {
    let mut values = Vec::new();
    let mut errors = Vec::new();
    for document in read(text) {
        let invalid = |at: Position, message, help| InvalidDocument {
            line: at.line,
            column: at.column,
            message,
            help,
        };
        let value = document
            .map_err(|error| invalid(error.at, error.message, error.help.to_owned()))
            .and_then(|node| {
                decode(&node).map_err(|error| {
                    invalid(error.at.unwrap_or(node.at), error.message, error.help)
                })
            });
        match value {
            Ok(value) => values.push(value),
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(errors) }
}

/// Reads a configuration file of one document.
///
/// # Errors
/// All problems in the order of the file.
pub fn read_file<T: DeserializeOwned>(path: &Path) -> Result<T, Vec<Problem>> {
    let bytes = read_bounded(path).map_err(|error| {
        vec![problem(
            &Arc::new(path.to_owned()),
            Position::START,
            format!("it cannot be read: {error}"),
            "name a file that can be read".to_owned(),
        )]
    })?;
    read_text(path, &bytes)
}

/// Reads the text of a configuration file of one document, which may be in no file. Problems name it
/// by `path`.
///
/// # Errors
/// All problems in the order of the text.
pub fn read_text<T: DeserializeOwned>(path: &Path, text: &[u8]) -> Result<T, Vec<Problem>> {
    let file = Arc::new(path.to_owned());
    let mut nodes = Vec::new();
    for document in read(text) {
        nodes.push(document.map_err(|error| {
            vec![problem(&file, error.at, error.message, error.help.to_owned())]
        })?);
    }
    let [node] = nodes.as_slice() else {
        return Err(vec![problem(
            &file,
            nodes.get(1).map_or(Position::START, |second| second.at),
            "it must have exactly one document".to_owned(),
            "write one mapping of settings".to_owned(),
        )]);
    };
    let Amended { value, errors, .. } = decode_amending(node, MAX_PROBLEMS, |_, _| None);
    let mut problems: Vec<Problem> = errors
        .into_iter()
        .map(|error| {
            let key = node.key_path(&error.path);
            let message =
                if key.is_empty() { error.message } else { format!("`{key}`: {}", error.message) };
            problem(&file, error.at.unwrap_or(node.at), message, error.help)
        })
        .collect();
    problems.sort_by(|a, b| a.origin.place.cmp(&b.origin.place));
    match value {
        Some(value) if problems.is_empty() => Ok(value),
        _ => Err(problems),
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE} bytes")));
    }
    Ok(bytes)
}

fn problem(file: &Arc<PathBuf>, at: Position, message: String, help: String) -> Problem {
    let place = SourceLocation { file: Arc::clone(file), line: at.line, column: at.column };
    Problem {
        severity: Severity::Error,
        reason: "InvalidConfiguration",
        origin: Origin { place: Some(place), ..Origin::default() },
        message,
        help,
    }
}
