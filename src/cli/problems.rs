//! What is wrong, told to a person.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};
use portcullis_config::model::{Origin, Place};
use portcullis_config::problem::{Problem, Severity};

use super::UNUSABLE;

/// The largest file of which a piece is shown.
const MAX_SHOWN: usize = 1 << 20;

/// Why a command did not do what it was asked for.
#[derive(Debug)]
pub(super) enum Failure {
    /// What was given cannot be used.
    Problems(Vec<Problem>),
    /// Something else failed; what, and how to mend it.
    Other { message: String, help: Option<String> },
}

// === impl Failure ===

impl Failure {
    pub(super) fn new(message: impl fmt::Display) -> Self {
        Self::Other { message: message.to_string(), help: None }
    }

    pub(super) fn with_help(message: impl fmt::Display, help: impl Into<String>) -> Self {
        Self::Other { message: message.to_string(), help: Some(help.into()) }
    }

    pub(super) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Problems(_) => ExitCode::from(UNUSABLE),
            Self::Other { .. } => ExitCode::FAILURE,
        }
    }
}

/// Prints a failure to standard error.
pub(super) fn print_failure(failure: &Failure) {
    match failure {
        Failure::Problems(problems) => print(problems, Snippets::Shown),
        Failure::Other { message, help } => {
            let mut diagnostic = MietteDiagnostic::new(message.clone());
            diagnostic.help.clone_from(help);
            tell(&Report::new(diagnostic));
        }
    }
}

/// Whether pieces of files are shown beside what is wrong with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snippets {
    /// For the configuration file, which holds no secrets.
    Shown,
    /// For manifests: the line beside a mistake may be a Secret's.
    Hidden,
}

/// Prints problems to standard error.
pub(super) fn print(problems: &[Problem], snippets: Snippets) {
    for problem in problems {
        tell(&report(problem, snippets));
    }
}

fn report(problem: &Problem, snippets: Snippets) -> Report {
    let severity = match problem.severity {
        Severity::Error => miette::Severity::Error,
        Severity::Warning => miette::Severity::Warning,
    };
    let diagnostic = |message: String| {
        MietteDiagnostic::new(message).with_severity(severity).with_help(&problem.help)
    };
    let shown = problem.origin.place.as_ref().filter(|_| snippets == Snippets::Shown);
    match shown.and_then(|place| Some((place, read(&place.file)?))) {
        Some((place, text)) => {
            let span = LabeledSpan::at_offset(offset(&text, place), "here");
            let source = NamedSource::new(place.file.display().to_string(), text);
            Report::new(diagnostic(problem.message.clone()).with_label(span))
                .with_source_code(source)
        }
        None if problem.origin == Origin::default() => {
            Report::new(diagnostic(problem.message.clone()))
        }
        None => Report::new(diagnostic(format!("{}: {}", problem.origin, problem.message))),
    }
}

fn read(file: &Path) -> Option<String> {
    std::fs::read_to_string(file).ok().filter(|text| text.len() <= MAX_SHOWN)
}

/// Where a place is in a text, in bytes.
fn offset(text: &str, place: &Place) -> usize {
    let line = usize::try_from(place.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let column = usize::try_from(place.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    start + rest.char_indices().nth(column).map_or(rest.len(), |(index, _)| index)
}

fn tell(report: &Report) {
    // Nobody reads what cannot be written.
    let _ = writeln!(io::stderr().lock(), "{report:?}");
}
