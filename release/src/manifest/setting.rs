//! Settings of a template: declared in it, with values for environments and services.
//!
//! A template declares its settings in a document of its own, which is not applied. The value of a
//! setting is that for the service in the environment, else that for the environment, else its
//! default.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::placeholder::is_setting_name;
use super::{MAX_PROBLEMS, OWN, PREFIX, TemplateProblem, pointer_part};

/// The most settings of a template.
pub(crate) const MAX_SETTINGS: usize = 100;
/// The longest text of a setting, in bytes.
const MAX_TEXT: usize = 1024;
/// The most that the values of a service in an environment have together, in bytes of JSON with their
/// names. Each deployment has a copy.
pub(crate) const MAX_SIZE: usize = 64 * 1024;

/// The type of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum SettingType {
    /// A text of at most 1 KiB, without control characters other than line breaks and tabs.
    String,
    /// An integer of 64 bits.
    Integer,
    /// A number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A key of a Secret in the environment's Namespace, as `NAME/KEY`. The builder never reads it.
    Secret,
}

/// A setting that a template declares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Declaration {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: SettingType,
    /// Its value where no other is set; without it, each environment needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub default: Option<Value>,
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Source {
    /// The template.
    Default,
    /// The environment.
    Environment,
    /// The service in the environment.
    Service,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Setting {
    /// Its name.
    pub name: String,
    /// Its value.
    #[schema(value_type = Object)]
    pub value: Value,
    /// Where the value comes from.
    pub source: Source,
}

/// Values by the names of settings.
pub type Values = BTreeMap<String, Value>;

/// The values that are set for a service in an environment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layers {
    /// Those of the environment.
    pub environment: Values,
    /// Those of the service in it.
    pub service: Values,
}

// === impl SettingType ===

impl SettingType {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Secret => "secret",
        }
    }

    /// What is wrong with a value of this type, if anything.
    #[must_use]
    pub fn problem(self, value: &Value) -> Option<String> {
        let is_valid = match self {
            Self::String => value.as_str().is_some_and(is_text),
            Self::Integer => value.is_i64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Secret => value.as_str().and_then(secret_key).is_some(),
        };
        let expected = match self {
            Self::String => "a string of at most 1 KiB without control characters",
            Self::Integer => "an integer",
            Self::Number => "a number",
            Self::Boolean => "true or false",
            Self::Secret => "the name of a Secret and a key of it, as `NAME/KEY`",
        };
        (!is_valid).then(|| format!("the value is not {expected}"))
    }
}

// === impl Source ===

impl Source {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Environment => "environment",
            Self::Service => "service",
        }
    }
}

// === impl Setting ===

impl Setting {
    /// What stands in the place of a text that is the placeholder alone.
    pub(super) fn rendered(&self, kind: SettingType) -> Value {
        match (kind, self.value.as_str().and_then(secret_key)) {
            (SettingType::Secret, Some((name, key))) => json!({ "name": name, "key": key }),
            _ => self.value.clone(),
        }
    }

    /// What stands in the place of a placeholder within a longer text.
    pub(super) fn text(&self) -> String {
        self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned)
    }
}

/// Whether a text is a value. A line break or a tab takes two bytes of JSON, other control characters
/// six.
fn is_text(text: &str) -> bool {
    text.len() <= MAX_TEXT
        && !text.chars().any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
}

/// The bytes of a value in JSON, with its name.
pub(crate) fn size(name: &str, value: &Value) -> usize {
    name.len() + value.to_string().len()
}

/// The name of a Secret and the key in `NAME/KEY`.
fn secret_key(text: &str) -> Option<(&str, &str)> {
    let (name, key) = text.split_once('/')?;
    let is_key = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let is_valid = super::check::is_object_name(name)
        && (1..=253).contains(&key.len())
        && key.bytes().all(is_key);
    is_valid.then_some((name, key))
}

/// The version and kind of the document that declares settings.
pub(super) fn is_declaration(document: &Value) -> bool {
    let text = |key| document.get(key).and_then(Value::as_str);
    text("kind") == Some("Settings") && text("apiVersion") == Some(&format!("{OWN}{PREFIX}v1"))
}

/// The settings of the document that declares them.
pub(super) fn declarations(document: &Value) -> BTreeMap<String, Declaration> {
    let settings = document.get("settings").and_then(Value::as_object);
    let read = |(name, value): (&String, &Value)| {
        Some((name.clone(), Declaration::deserialize(value).ok()?))
    };
    settings.into_iter().flatten().filter_map(read).collect()
}

/// The problems of the document that declares settings.
pub(super) fn problems(pointer: &str, document: &Value) -> Vec<TemplateProblem> {
    let place = format!("{pointer}/settings");
    let Some(settings) = document.get("settings").and_then(Value::as_object) else {
        let help = "write `settings:` with names, each with a `type` and a `default`";
        return vec![TemplateProblem::at(place, "`settings` is not a mapping", help)];
    };
    let mut problems = Vec::new();
    if settings.len() > MAX_SETTINGS {
        let message = format!("there are more than {MAX_SETTINGS} settings");
        problems.push(TemplateProblem::at(place, message, "keep those that differ"));
        return problems;
    }
    for (name, value) in settings {
        let place = format!("{place}/{}", pointer_part(name));
        if !is_setting_name(name) {
            let help = "write letters, digits, `-` and `_`, beginning with a letter";
            problems.push(TemplateProblem::at(place.clone(), "it is not a name", help));
        }
        match Declaration::deserialize(value) {
            Err(error) => {
                let help = "write a `type`: string, integer, number, boolean or secret; and a \
                            `default`, if there is one";
                problems.push(TemplateProblem::at(place, error.to_string(), help));
            }
            Ok(Declaration { kind, default: Some(default) }) => {
                let problem = kind.problem(&default);
                problems.extend(problem.map(|problem| {
                    let help = format!("write a value of the type {}", kind.name());
                    TemplateProblem::at(format!("{place}/default"), problem, help)
                }));
            }
            Ok(Declaration { default: None, .. }) => {}
        }
    }
    problems
}

/// The value of each declared setting, in the order of names. Values of others are not used.
///
/// # Errors
/// Settings without a value, and values of another type.
pub fn resolve(
    declared: &BTreeMap<String, Declaration>,
    layers: &Layers,
) -> Result<Vec<Setting>, Vec<TemplateProblem>> {
    let (mut settings, mut problems) = (Vec::new(), Vec::new());
    for (name, declaration) in declared {
        let found = [
            (layers.service.get(name), Source::Service),
            (layers.environment.get(name), Source::Environment),
            (declaration.default.as_ref(), Source::Default),
        ];
        let found = found.into_iter().find_map(|(value, source)| Some((value?.clone(), source)));
        let problem = match &found {
            None => Some("the setting has no value here, and no default".to_owned()),
            Some((value, source)) => declaration
                .kind
                .problem(value)
                .map(|problem| format!("{problem}; it is that of the {} layer", source.name())),
        };
        let place = format!("/settings/{name}");
        problems.extend(problem.map(|problem| {
            TemplateProblem::at(place, problem, format!("set it: `portcullis env set … {name}=…`"))
        }));
        settings.extend(found.map(|(value, source)| Setting { name: name.clone(), value, source }));
    }
    let together: usize = settings.iter().map(|setting| size(&setting.name, &setting.value)).sum();
    if together > MAX_SIZE {
        let message = format!("the values have more than {MAX_SIZE} bytes together");
        let help = "move long texts into a ConfigMap of the template";
        problems.push(TemplateProblem::at("/settings".to_owned(), message, help));
    }
    problems.truncate(MAX_PROBLEMS);
    if problems.is_empty() { Ok(settings) } else { Err(problems) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn declared() -> BTreeMap<String, Declaration> {
        declarations(&json!({ "settings": {
            "replicas": { "type": "integer", "default": 2 },
            "host": { "type": "string" },
            "database": { "type": "secret", "default": "database/password" },
        } }))
    }

    fn values(values: &[(&str, Value)]) -> Values {
        values.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
    }

    #[test]
    fn the_value_of_the_narrowest_layer_counts() {
        let environment = values(&[("host", json!("a.test")), ("replicas", json!(4))]);
        let service = values(&[("replicas", json!(8)), ("unused", json!(true))]);
        let resolved = resolve(&declared(), &Layers { environment, service }).unwrap();
        let found: Vec<_> = resolved
            .iter()
            .map(|setting| (setting.name.as_str(), setting.text(), setting.source))
            .collect();
        assert_eq!(
            found,
            [
                ("database", "database/password".to_owned(), Source::Default),
                ("host", "a.test".to_owned(), Source::Environment),
                ("replicas", "8".to_owned(), Source::Service),
            ]
        );
        let key = resolved[0].rendered(SettingType::Secret);
        assert_eq!(key, json!({ "name": "database", "key": "password" }));
    }

    #[test]
    fn a_setting_without_a_value_and_one_of_another_type_are_reported() {
        let environment = values(&[("replicas", json!("4"))]);
        let layers = Layers { environment, service: Values::new() };
        let problems = resolve(&declared(), &layers).unwrap_err();
        let places: Vec<_> =
            problems.iter().filter_map(|problem| problem.pointer.as_deref()).collect();
        assert_eq!(places, ["/settings/host", "/settings/replicas"]);
    }

    #[test]
    fn values_have_a_bounded_size_together() {
        let resolved = |count: usize| {
            let long = json!("x".repeat(MAX_TEXT));
            let name = |number| format!("a{number:03}");
            let settings: serde_json::Map<_, _> = (0..count)
                .map(|number| (name(number), json!({ "type": "string", "default": long })))
                .collect();
            resolve(&declarations(&json!({ "settings": settings })), &Layers::default())
        };
        assert!(resolved(63).is_ok());
        assert_eq!(resolved(64).unwrap_err()[0].pointer.as_deref(), Some("/settings"));
    }

    #[test]
    fn values_are_of_their_type() {
        for (kind, good, bad) in [
            (SettingType::String, json!(""), json!("x".repeat(1025))),
            (SettingType::Integer, json!(-1), json!(1.5)),
            (SettingType::Number, json!(1.5), json!("1")),
            (SettingType::Boolean, json!(false), json!("false")),
            (SettingType::Secret, json!("a.b/c_d.e"), json!("no-key")),
        ] {
            assert_eq!(
                (kind.problem(&good), kind.problem(&bad).is_some()),
                (None, true),
                "{kind:?}"
            );
        }
        let control = json!("\u{1b}[2J");
        assert!(SettingType::String.problem(&control).is_some());
        assert_eq!(SettingType::String.problem(&json!("a: 1\n\tb\r\n")), None);
        for bad in ["/k", "n/", "N/k", "n/k/k", "n/k e"] {
            assert!(SettingType::Secret.problem(&json!(bad)).is_some(), "{bad}");
        }
    }
}
