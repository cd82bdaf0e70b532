//! Reads the values of labels and annotations.

use crate::model::Origin;
use crate::model::vocabulary::{Key, KeyPlace, PREFIX, VOCABULARY};
use crate::problem::{Problem, Severity, nearest};
use crate::resources::{Annotations, MAX_VALUE, Service, Value};

/// The labels or annotations of one object, and the list for its problems.
pub(super) struct Reader<'a> {
    pub(super) origin: &'a Origin,
    pub(super) annotations: &'a Annotations,
    pub(super) problems: &'a mut Vec<Problem>,
}

/// The most items of a list that are reported. An object may have thousands, and its problems must
/// not hide those of others.
pub(super) const MAX_REPORTED: usize = 10;
/// The reason of problems with invalid values.
const INVALID: &str = "InvalidAnnotation";

/// The result of reading a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading<T> {
    /// The key is not present.
    Absent,
    /// The value is valid.
    Good(T),
    /// The value is invalid, which was reported: what it controls is denied.
    Bad,
}

/// The problems of a list's items, of which the first are reported.
pub(super) struct ItemProblems {
    key: Key,
    reason: &'static str,
    found: usize,
}

// === impl ItemProblems ===

impl ItemProblems {
    pub(super) fn new(key: Key, reason: &'static str) -> Self {
        Self { key, reason, found: 0 }
    }

    /// Reports the problem of an item.
    pub(super) fn report(
        &mut self,
        reader: &mut Reader<'_>,
        help: &str,
        message: impl FnOnce() -> String,
    ) {
        self.found += 1;
        if self.found <= MAX_REPORTED {
            reader.error(self.reason, message(), help);
        }
    }

    /// Reports how many more there are.
    pub(super) fn finish(self, reader: &mut Reader<'_>, help: &str) {
        let more = self.found.saturating_sub(MAX_REPORTED);
        if more > 0 {
            let message = format!("{more} more items of `{}` have no effect", self.key);
            reader.error(self.reason, message, help);
        }
    }
}

// === impl Reading ===

impl<T> Reading<T> {
    /// The value, for keys whose invalid values count as absent.
    pub(super) fn good(self) -> Option<T> {
        match self {
            Self::Good(value) => Some(value),
            Self::Absent | Self::Bad => None,
        }
    }
}

// === impl Reader ===

impl<'a> Reader<'a> {
    /// A reader of the annotations of a Service.
    pub(super) fn of(service: &'a Service, problems: &'a mut Vec<Problem>) -> Self {
        Self { origin: &service.origin, annotations: &service.annotations, problems }
    }

    /// Reads one value. The error of `parse` is the end of a sentence that starts with the value;
    /// `help` describes how to fix it.
    pub(super) fn read<T>(
        &mut self,
        key: Key,
        help: &str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Reading<T> {
        match self.annotations.get(key.name) {
            None => Reading::Absent,
            Some(Value::TooLong(length)) => {
                self.error(
                    INVALID,
                    format!("`{key}` has {length} bytes, more than the limit of {MAX_VALUE}"),
                    help,
                );
                Reading::Bad
            }
            Some(Value::Text(text)) => match parse(text) {
                Ok(value) => Reading::Good(value),
                Err(wrong) => {
                    self.error(INVALID, format!("`{key}: {}` {wrong}", excerpt(text)), help);
                    Reading::Bad
                }
            },
        }
    }

    /// Reads `true` or `false`.
    pub(super) fn read_flag(&mut self, key: Key, help: &str) -> Reading<bool> {
        self.read(key, help, |text| match text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err("is invalid".to_owned()),
        })
    }

    /// Reads a comma-separated list. Invalid items are left out, and the first of them reported; an
    /// empty list is invalid.
    pub(super) fn read_list<T>(
        &mut self,
        key: Key,
        help: &str,
        mut parse: impl FnMut(&str) -> Result<T, String>,
    ) -> Reading<Vec<T>> {
        let text = match self.read(key, help, |text| {
            if text.is_empty() { Err("is empty".to_owned()) } else { Ok(text.to_owned()) }
        }) {
            Reading::Good(text) => text,
            Reading::Absent => return Reading::Absent,
            Reading::Bad => return Reading::Bad,
        };
        let mut items = Vec::new();
        let mut invalid = ItemProblems::new(key, INVALID);
        for item in text.split(',').map(str::trim) {
            match parse(item) {
                Ok(item) => items.push(item),
                Err(wrong) => {
                    invalid.report(self, help, || format!("`{}` in `{key}` {wrong}", excerpt(item)))
                }
            }
        }
        invalid.finish(self, help);
        if items.is_empty() { Reading::Bad } else { Reading::Good(items) }
    }

    /// The help for a key whose last valid value stays in effect: how to fix it, then what applies
    /// until then, which is `otherwise` where there is no such value.
    pub(super) fn lasting_help(&self, key: Key, fix: &str, otherwise: &str) -> String {
        match self.annotations.last_valid(key) {
            Some(text) => {
                let text = excerpt(text);
                format!("{fix}; until then the last valid value stays in effect: `{text}`")
            }
            None => format!("{fix}; until then {otherwise}"),
        }
    }

    /// Reads one value, or the last valid one while it is invalid.
    pub(super) fn read_lasting<T>(
        &mut self,
        key: Key,
        fix: &str,
        otherwise: &str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Reading<T> {
        let help = self.lasting_help(key, fix, otherwise);
        let current = self.read(key, &help, &parse);
        let last = self.annotations.last_valid(key).and_then(|text| parse(text).ok());
        last.map_or(current, Reading::Good)
    }

    pub(super) fn error(&mut self, reason: &'static str, message: String, help: &str) {
        self.report(Severity::Error, reason, message, help);
    }

    pub(super) fn warn(&mut self, reason: &'static str, message: String, help: &str) {
        self.report(Severity::Warning, reason, message, help);
    }

    fn report(&mut self, severity: Severity, reason: &'static str, message: String, help: &str) {
        self.problems.push(Problem {
            severity,
            reason,
            origin: self.origin.clone(),
            message,
            help: help.to_owned(),
        });
    }
}

/// Whether a problem concerns only the value of a label or annotation, regardless of other state.
pub(crate) fn is_about_annotations(problem: &Problem) -> bool {
    matches!(problem.reason, INVALID | "UnknownAnnotation" | "MisplacedAnnotation")
}

/// Reports keys that are unknown or misplaced.
pub(super) fn check_keys(
    origin: &Origin,
    labels: &Annotations,
    annotations: &Annotations,
    problems: &mut Vec<Problem>,
) {
    let mut reader = Reader { origin, annotations, problems };
    for (name, _) in labels.iter() {
        check_key(&mut reader, name, true);
    }
    for (name, _) in annotations.iter() {
        check_key(&mut reader, name, false);
    }
}

fn check_key(reader: &mut Reader<'_>, name: &str, is_label: bool) {
    let Some(key) = VOCABULARY.iter().find(|key| key.name == name) else {
        let help = match nearest(name, VOCABULARY.iter().map(|key| key.name)) {
            Some(near) => format!("did you mean `{PREFIX}{near}`?"),
            None => "docs/annotations.md lists all annotations".to_owned(),
        };
        return reader.warn("UnknownAnnotation", format!("`{PREFIX}{name}` is unknown"), &help);
    };
    let namespace = reader.origin.kind == "Namespace";
    let help = match (key.place, is_label, namespace) {
        (KeyPlace::NamespaceLabel, false, _) | (KeyPlace::NamespaceLabel, _, false) => {
            "write it as a label of the Namespace"
        }
        (KeyPlace::Service | KeyPlace::Both, true, _) => "write it as an annotation",
        (KeyPlace::Namespace, true, _) | (KeyPlace::Namespace, _, false) => {
            "write it as an annotation of the Namespace"
        }
        (KeyPlace::Service, _, true) => "write it as an annotation of the Service",
        _ => return,
    };
    reader.warn("MisplacedAnnotation", format!("`{key}` has no effect here"), help);
}

/// The part of a value that is repeated in a message: its start, without control characters.
pub(super) fn excerpt(text: &str) -> String {
    const LENGTH: usize = 80;
    let mut excerpt: String = text
        .chars()
        .take(LENGTH)
        .map(|char| if char.is_control() { '\u{fffd}' } else { char })
        .collect();
    if text.chars().nth(LENGTH).is_some() {
        excerpt.push('…');
    }
    excerpt
}
