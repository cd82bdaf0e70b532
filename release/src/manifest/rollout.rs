//! How a service is rolled out: declared in a document of its template, which is not applied.
//!
//! What the document says of steps and objectives is read by [`crate::rollout`].

use serde_json::Value;

use super::{OWN, PREFIX, TemplateProblem, pointer_part};
use crate::model::EnvironmentName;

/// The keys of the document.
const KEYS: [&str; 5] = ["apiVersion", "kind", "metadata", "environments", "rollout"];

/// The document that declares rollouts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declaration {
    /// Its position among the documents of the template.
    pub index: usize,
    /// The environments in which the service is rolled out; `None` for all.
    pub environments: Option<Vec<EnvironmentName>>,
    /// Steps, objectives and error rates.
    pub settings: Value,
}

// === impl Declaration ===

impl Declaration {
    /// The declaration in a document, if it is one.
    pub(super) fn of(index: usize, document: &Value) -> Option<Self> {
        let settings = document.get("rollout").filter(|_| is_declaration(document))?.clone();
        let name = |value: &Value| value.as_str()?.parse().ok();
        let environments = document.get("environments").and_then(Value::as_array);
        let environments = environments.map(|names| names.iter().filter_map(name).collect());
        Some(Self { index, environments, settings })
    }

    /// Whether it is for an environment.
    #[must_use]
    pub fn is_for(&self, environment: &EnvironmentName) -> bool {
        self.environments.as_ref().is_none_or(|all| all.contains(environment))
    }
}

/// The version and kind of the document that declares rollouts.
pub(super) fn is_declaration(document: &Value) -> bool {
    let text = |key| document.get(key).and_then(Value::as_str);
    text("kind") == Some("Rollout") && text("apiVersion") == Some(&format!("{OWN}{PREFIX}v1"))
}

/// The problems of the document, beside those of what it says of steps.
pub(super) fn problems(pointer: &str, document: &Value) -> Vec<TemplateProblem> {
    let mut problems = Vec::new();
    let mut report = |place: String, message: &str, help: &str| {
        problems.push(TemplateProblem::at(place, message, help));
    };
    if document.get("rollout").is_none() {
        let help = "write steps such as `rollout: [{weight: 1, hold: 10m}, {weight: 100}]`";
        report(pointer.to_owned(), "`rollout` is missing", help);
    }
    let is_name =
        |value: &Value| value.as_str().is_some_and(|name| name.parse::<EnvironmentName>().is_ok());
    let environments = document.get("environments");
    let is_list = |value: &Value| {
        value.as_array().is_some_and(|names| !names.is_empty() && names.iter().all(is_name))
    };
    if environments.is_some_and(|value| !is_list(value)) {
        let help = "write `environments: [production]`, or leave it out for all environments";
        report(format!("{pointer}/environments"), "it is not a list of environments", help);
    }
    let keys = document.as_object().into_iter().flat_map(serde_json::Map::keys);
    for key in keys.filter(|key| !KEYS.contains(&key.as_str())) {
        let help = "write `environments` and `rollout` alone";
        report(format!("{pointer}/{}", pointer_part(key)), "it is not known", help);
    }
    problems
}
