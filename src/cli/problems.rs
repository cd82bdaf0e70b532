//! Prints problems and failures to standard error.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use miette::{LabeledSpan, MietteDiagnostic, NamedSource, Report};
use portcullis_config::model::{Origin, SourceLocation};
use portcullis_config::problem::{Problem, Severity};
use portcullis_proxy::live_table::TableProblem;

use super::UNUSABLE;
use super::output::printable;

/// The maximum size of a file for snippets, in octets.
const MAX_FILE: usize = 1 << 20;

/// Why a command failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// The input is unusable.
    Problems(Vec<Problem>),
    /// Another failure, and how to mend it.
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

impl fmt::Display for Failure {
    /// The message alone, on one line for each problem.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Problems(problems) => {
                let messages = problems.iter().map(|problem| &*problem.message);
                f.write_str(&messages.collect::<Vec<_>>().join("\n"))
            }
            Self::Other { message, .. } => f.write_str(message),
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
            print_report(&Report::new(diagnostic));
        }
    }
}

/// Whether problems are printed with a snippet of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Snippets {
    /// For the configuration file, which contains no secrets.
    Shown,
    /// For manifests: a line next to the problem may be part of a Secret.
    Hidden,
}

/// Prints problems to standard error.
pub(super) fn print(problems: &[Problem], snippets: Snippets) {
    for problem in problems {
        print_report(&report(problem, snippets));
    }
}

/// Prints the problems of a running gateway to standard error.
pub(super) fn print_live(problems: &[TableProblem]) {
    for problem in problems {
        let severity = match &*problem.severity {
            "warning" => miette::Severity::Warning,
            _ => miette::Severity::Error,
        };
        let message = match &*problem.origin {
            "" => problem.message.clone(),
            origin => format!("{origin}: {}", problem.message),
        };
        let diagnostic = MietteDiagnostic::new(printable(&message)).with_severity(severity);
        print_report(&Report::new(diagnostic.with_help(printable(&problem.help))));
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
    std::fs::read_to_string(file).ok().filter(|text| text.len() <= MAX_FILE)
}

/// Converts a location to a byte offset in `text`.
fn offset(text: &str, location: &SourceLocation) -> usize {
    let line = usize::try_from(location.line.saturating_sub(1)).unwrap_or(usize::MAX);
    let column = usize::try_from(location.column.saturating_sub(1)).unwrap_or(usize::MAX);
    let start: usize = text.split_inclusive('\n').take(line).map(str::len).sum();
    let rest = text.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    start + rest.char_indices().nth(column).map_or(rest.len(), |(index, _)| index)
}

fn print_report(report: &Report) {
    // If standard error is closed, there is nowhere left to report to.
    let _ = writeln!(io::stderr().lock(), "{report:?}");
}
