//! Reads the configuration file, and reports all of its problems at once.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::Root;
use super::{Settings, check, files};
use crate::model::{Origin, SourceLocation};
use crate::problem::{Problem, Severity};
use crate::yaml::{
    self, Amended, DecodeError, Entry, Node, Position, SyntaxError, Value, decode_amending,
    original_path,
};

/// The largest configuration file, in bytes.
pub const MAX_FILE_BYTES: u64 = 1 << 20;
/// The most problems that are reported at once.
pub const MAX_PROBLEMS: usize = 100;

// === impl Settings ===

impl Settings {
    /// Reads and validates the configuration file and the files that it refers to.
    ///
    /// Relative paths in it are relative to its folder.
    ///
    /// # Errors
    /// All problems in the order of the file, up to [`MAX_PROBLEMS`].
    pub fn read(path: &Path) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(path);
        let mut parsed = reader.open()?;
        parsed.settings.resolve(path.parent().unwrap_or(Path::new("")), None);
        parsed.check(&reader, check::validate);
        parsed.check(&reader, check::files);
        parsed.done()
    }

    /// Reads and validates a configuration that a gateway elsewhere will read, as in a pod.
    ///
    /// With `root`, a folder with the files of that machine, every path is below it: absolute ones,
    /// and relative ones too, which are relative to the configuration's folder if that is in
    /// `root`. Without it, problems with files of a gateway that probably runs in a pod are
    /// warnings, which are returned besides the settings.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_for_elsewhere(
        path: &Path,
        root: Option<&Path>,
    ) -> Result<(Self, Vec<Problem>), Vec<Problem>> {
        let reader = Reader::new(path);
        let mut parsed = reader.open()?;
        let folder = path.parent().unwrap_or(Path::new(""));
        parsed.settings.resolve(folder, root.map(|root| Root::new(root, folder)).as_ref());
        parsed.check(&reader, check::validate);
        let others = parsed.problems.len();
        parsed.check(&reader, check::files);
        let mut warnings = Vec::new();
        if root.is_none() && parsed.settings.is_for_a_pod() {
            warnings = parsed.problems.split_off(others);
            warnings.iter_mut().for_each(files::downgrade);
        }
        match parsed.done() {
            Ok(settings) => Ok((settings, warnings)),
            Err(mut problems) => {
                problems.append(&mut warnings);
                Err(problems)
            }
        }
    }

    /// Parses and validates a configuration as [`read`](Self::read) does, without accessing files.
    ///
    /// `file` is its name in problems.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn parse(file: &Path, bytes: &[u8]) -> Result<Self, Vec<Problem>> {
        let reader = Reader::new(file);
        let mut parsed = reader.parse(bytes)?;
        parsed.check(&reader, check::validate);
        parsed.done()
    }
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!("it has more than {MAX_FILE_BYTES} bytes")));
    }
    Ok(bytes)
}

/// A parsed configuration file.
struct Parsed {
    /// The settings that could be decoded.
    settings: Settings,
    /// The document as written.
    original: Node,
    /// The part of it that the settings were decoded from.
    rest: Node,
    problems: Vec<Problem>,
}

// === impl Parsed ===

impl Parsed {
    fn check(&mut self, reader: &Reader, check: impl FnOnce(&Settings, &mut check::ErrorSink<'_>)) {
        let Self { settings, original, rest, problems } = self;
        check(settings, &mut |keys, message, help| {
            let (steps, at) = rest.resolve(keys);
            // A key that is not written has a default; it is reported by its full name, at the
            // nearest position.
            let key = match steps.len() == keys.len() {
                true => original.key_path(&original_path(original, rest, &steps)),
                false => keys.join("."),
            };
            problems.push(reader.problem(at, format!("`{key}`: {message}"), help));
        });
    }

    fn done(mut self) -> Result<Settings, Vec<Problem>> {
        if self.problems.is_empty() {
            return Ok(self.settings);
        }
        self.problems.sort_by(|a, b| a.origin.place.cmp(&b.origin.place));
        self.problems.truncate(MAX_PROBLEMS);
        Err(self.problems)
    }
}

/// Reads one configuration file.
struct Reader {
    file: Arc<PathBuf>,
}

// === impl Reader ===

impl Reader {
    fn new(file: &Path) -> Self {
        Self { file: Arc::new(file.to_owned()) }
    }

    fn problem(
        &self,
        at: Position,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Problem {
        let place = SourceLocation { file: self.file.clone(), line: at.line, column: at.column };
        let origin = Origin { place: Some(place), ..Origin::default() };
        Problem {
            severity: Severity::Error,
            reason: "InvalidConfiguration",
            origin,
            message: message.into(),
            help: help.into(),
        }
    }

    /// Reads and parses the file.
    fn open(&self) -> Result<Parsed, Vec<Problem>> {
        let bytes = read_bounded(&self.file).map_err(|error| {
            vec![self.problem(
                Position::START,
                format!("it cannot be read: {error}"),
                "name a file that can be read",
            )]
        })?;
        self.parse(&bytes)
    }

    fn parse(&self, bytes: &[u8]) -> Result<Parsed, Vec<Problem>> {
        let original = self.only_document(yaml::read(bytes))?;
        let Amended { value, rest, errors } = decode_amending(&original, MAX_PROBLEMS, stand_in);
        let problems = errors.iter().map(|error| self.decode_problem(&original, error)).collect();
        match value {
            Some(settings) => Ok(Parsed { settings, original, rest, problems }),
            None => Err(problems),
        }
    }

    fn only_document(
        &self,
        documents: Vec<Result<Node, SyntaxError>>,
    ) -> Result<Node, Vec<Problem>> {
        let mut problems = Vec::new();
        let mut nodes = Vec::new();
        for document in documents {
            match document {
                Ok(node) => nodes.push(node),
                Err(error) => problems.push(self.problem(error.at, error.message, error.help)),
            }
        }
        let mut nodes = nodes.into_iter();
        match (nodes.next(), nodes.next()) {
            (Some(node), None) if problems.is_empty() => return Ok(node),
            (None, _) if problems.is_empty() => {
                problems.push(self.problem(
                    Position::START,
                    "it is empty",
                    "write `zone` and `source` at least",
                ));
            }
            (_, Some(second)) => problems.push(self.problem(
                second.at,
                "a second document starts here",
                "merge the documents into one",
            )),
            _ => {}
        }
        Err(problems)
    }

    fn decode_problem(&self, node: &Node, error: &DecodeError) -> Problem {
        let key = node.key_path(&error.path);
        let message = match key.as_str() {
            "" => error.message.clone(),
            key => format!("`{key}`: {}", error.message),
        };
        self.problem(error.at.unwrap_or(node.at), message, help(&key, error))
    }
}

fn help(key: &str, error: &DecodeError) -> String {
    if error.lacking {
        return match error.message.as_str() {
            "the key `zone` is missing" => "add the domain that the gateway serves, such as \
                                            `zone: apps.example.com`"
                .to_owned(),
            "the key `source` is missing" => {
                "add `source:` with `kubernetes: {}` or `directory: FOLDER` below it".to_owned()
            }
            _ => error.help.clone(),
        };
    }
    if error.help == "correct the value" {
        if key.ends_with("address") {
            return "write an address and a port, such as `0.0.0.0:8443` or `[::]:8443`".to_owned();
        }
        if key.starts_with("trustedNetworks") {
            return "write a network, such as `10.0.0.0/8` or `fd00::/8`".to_owned();
        }
    }
    error.help.clone()
}

/// The value that is assumed for a required key that is missing or invalid.
fn stand_in(key: &str, at: Position) -> Option<Value> {
    match key {
        "zone" => Some(Value::Text("zone.invalid".to_owned())),
        "source" => {
            let node = Node { value: Value::Text(".".to_owned()), at };
            Some(Value::Map(vec![Entry { key: "directory".to_owned(), key_at: at, node }]))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests;
