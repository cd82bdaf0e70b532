//! Problems of a template, with their place.

use portcullis_config::yaml::InvalidDocument;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A problem of a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TemplateProblem {
    /// Where it is, as a JSON pointer (RFC 6901) into the list of documents.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// Where it is in a text: the line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// What is wrong.
    pub message: String,
    /// How to fix it.
    pub help: String,
}

// === impl TemplateProblem ===

impl TemplateProblem {
    /// A problem at a JSON pointer.
    pub(crate) fn at(pointer: String, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { pointer: Some(pointer), line: None, message: message.into(), help: help.into() }
    }

    /// A problem at a JSON pointer of a request.
    pub(crate) fn in_request(
        pointer: String,
        message: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self::at(pointer, message, help)
    }

    /// A problem of the whole template.
    pub(super) fn whole(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { pointer: None, line: None, message: message.into(), help: help.into() }
    }
}

impl From<InvalidDocument> for TemplateProblem {
    fn from(error: InvalidDocument) -> Self {
        Self {
            pointer: None,
            line: Some(error.line),
            message: format!("{} (column {})", error.message, error.column),
            help: error.help,
        }
    }
}

impl std::fmt::Display for TemplateProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.line, &self.pointer) {
            (Some(line), _) => write!(f, "line {line}: ")?,
            (None, Some(pointer)) => write!(f, "{pointer}: ")?,
            (None, None) => {}
        }
        write!(f, "{} ({})", self.message, self.help)
    }
}
