//! Settings of environments: which of them a gateway serves.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Settings;
use super::check::ErrorSink;

/// The environments that this gateway serves.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct EnvironmentSettings {
    /// Which Namespaces are environments of this gateway, by their labels; without it, all with the
    /// label `portcullis.dev/environment`. Several gateways of one cluster serve different ones.
    pub selector: LabelSelector,
}

/// A selector of labels, as in Kubernetes: all of its requirements must hold.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LabelSelector {
    /// Labels that must be present with these values.
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    pub match_expressions: Vec<LabelRequirement>,
}

/// A requirement of a selector.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LabelRequirement {
    /// The label.
    pub key: String,
    /// How its value is compared.
    pub operator: LabelOperator,
    /// The values, for `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// How a label is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
pub enum LabelOperator {
    /// It has one of the values.
    In,
    /// It has none of the values, or does not exist.
    NotIn,
    /// It exists.
    Exists,
    /// It does not exist.
    DoesNotExist,
}

// === impl LabelSelector ===

impl LabelSelector {
    /// Whether an object with these labels is selected.
    #[must_use]
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

// === impl LabelRequirement ===

impl LabelRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let is_listed = value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => is_listed,
            LabelOperator::NotIn => !is_listed,
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }
}

pub(super) fn validate(settings: &Settings, report: &mut ErrorSink<'_>) {
    let requirements = &settings.environments.selector.match_expressions;
    for (index, requirement) in requirements.iter().enumerate() {
        let needs_values = matches!(requirement.operator, LabelOperator::In | LabelOperator::NotIn);
        if needs_values == requirement.values.is_empty() {
            let keys =
                ["environments", "selector", "matchExpressions", &index.to_string(), "values"];
            let (message, help) = if needs_values {
                ("`In` and `NotIn` compare with values, and there are none", "list the values")
            } else {
                ("`Exists` and `DoesNotExist` compare with no values", "remove the values")
            };
            report(&keys, message.to_owned(), help.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn selector(text: &str) -> LabelSelector {
        let text = format!(
            "zone: apps.test\nsource: {{kubernetes: {{}}}}\nenvironments: {{selector: {text}}}\n"
        );
        Settings::parse(Path::new("gateway.yaml"), text.as_bytes()).unwrap().environments.selector
    }

    fn labels(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn all_requirements_must_hold() {
        let selector = selector(
            "{matchLabels: {gateway: internal}, matchExpressions: [{key: team, operator: In, \
             values: [a, b]}, {key: old, operator: DoesNotExist}]}",
        );
        assert!(selector.selects(&labels(&[("gateway", "internal"), ("team", "a")])));
        for missing in [
            &[("team", "a")][..],
            &[("gateway", "internal")],
            &[("gateway", "internal"), ("team", "c")],
            &[("gateway", "internal"), ("team", "a"), ("old", "")],
        ] {
            assert!(!selector.selects(&labels(missing)), "{missing:?}");
        }
        assert!(LabelSelector::default().selects(&labels(&[])));
    }

    #[test]
    fn operators_are_those_of_kubernetes() {
        let holds = |operator: &str, entries: &[(&str, &str)]| {
            let values = if operator.ends_with("In") { ", values: [x]" } else { "" };
            let text = format!("{{matchExpressions: [{{key: k, operator: {operator}{values}}}]}}");
            selector(&text).selects(&labels(entries))
        };
        let (same, other, none) = (&[("k", "x")][..], &[("k", "y")][..], &[][..]);
        let verdicts = |operator| [same, other, none].map(|entries| holds(operator, entries));
        assert_eq!(verdicts("In"), [true, false, false]);
        assert_eq!(verdicts("NotIn"), [false, true, true]);
        assert_eq!(verdicts("Exists"), [true, true, false]);
        assert_eq!(verdicts("DoesNotExist"), [false, false, true]);
    }

    #[test]
    fn values_that_do_not_fit_the_operator_are_reported() {
        let text = "zone: apps.test\nsource: {kubernetes: {}}\nenvironments:\n  selector:\n    \
                    matchExpressions:\n    - {key: a, operator: In}\n    - {key: a, operator: \
                    Exists, values: [x]}\n";
        let problems = Settings::parse(Path::new("gateway.yaml"), text.as_bytes()).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:#?}");
    }
}
