//! Where a resource came from.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

/// Where a resource came from: its name, and its location where it was read from a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Default)]
pub struct Origin {
    /// The resource's kind, such as `Service`; empty for the configuration file itself.
    #[serde(skip_serializing_if = "str::is_empty")]
    pub kind: &'static str,
    /// The resource's namespace; empty for what has none.
    #[serde(skip_serializing_if = "is_empty")]
    pub namespace: Arc<str>,
    /// The resource's name.
    #[serde(skip_serializing_if = "is_empty")]
    pub name: Arc<str>,
    /// File, line and column, where the resource was read from a file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<SourceLocation>,
}

/// A location in a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SourceLocation {
    /// The file.
    pub file: Arc<PathBuf>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

fn is_empty(text: &str) -> bool {
    text.is_empty()
}

// === impl Origin ===

impl Origin {
    /// The Namespace whose writers it belongs to: of a Namespace, itself; empty for the operator.
    #[must_use]
    pub fn owner(&self) -> &Arc<str> {
        if self.kind == "Namespace" { &self.name } else { &self.namespace }
    }

    /// Whether both are the same resource, regardless of location.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.namespace, &self.name) == (other.kind, &other.namespace, &other.name)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = &self.place {
            write!(f, "{place}")?;
            if !self.kind.is_empty() {
                f.write_str(": ")?;
            }
        }
        match (self.kind, &*self.namespace) {
            ("", _) => Ok(()),
            (kind, "") => write!(f, "{kind} {}", self.name),
            (kind, namespace) => write!(f, "{kind} {namespace}/{}", self.name),
        }
    }
}

// === impl SourceLocation ===

impl fmt::Display for SourceLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}
