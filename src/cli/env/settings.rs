//! `portcullis env settings|set|unset`: settings of environments, and of services in them.

use std::collections::BTreeMap;

use clap::Args;
use http::Method;
use portcullis_release::api::{NewSettings, SettingStatus};
use portcullis_release::model::{EnvironmentName, ServiceName};
use serde_json::Value;

use crate::cli::builder_api::BuilderApi;
use crate::cli::format::FormatArgs;
use crate::cli::output::printable;
use crate::cli::problems::Failure;
use crate::cli::table;

/// List the settings of a service, with their values and where these come from
#[derive(Debug, Args)]
pub(super) struct Settings {
    /// Environment
    environment: EnvironmentName,
    /// Service
    #[arg(long)]
    service: ServiceName,
    #[command(flatten)]
    format: FormatArgs,
    #[command(flatten)]
    api: BuilderApi,
}

/// Set values of settings: for a service, or for all services of the environment that declare them
///
/// Later deployments have them; what runs is not changed.
#[derive(Debug, Args)]
pub(super) struct Set {
    /// Environment
    environment: EnvironmentName,
    /// Values as NAME=VALUE; numbers, `true` and `false` are not strings
    #[arg(value_name = "NAME=VALUE", value_parser = assignment, required_unless_present = "strings")]
    values: Vec<(String, String)>,
    /// Values that are strings, whatever they look like
    #[arg(long = "string", value_name = "NAME=VALUE", value_parser = assignment)]
    strings: Vec<(String, String)>,
    #[command(flatten)]
    target: Target,
}

/// Remove values of settings, so that those of the environment or the defaults count again
#[derive(Debug, Args)]
pub(super) struct Unset {
    /// Environment
    environment: EnvironmentName,
    /// Names of settings
    #[arg(required = true)]
    names: Vec<String>,
    #[command(flatten)]
    target: Target,
}

#[derive(Debug, Args)]
struct Target {
    /// Service; by default, all services of the environment
    #[arg(long)]
    service: Option<ServiceName>,
    /// Reason, for the audit log
    #[arg(long)]
    reason: Option<String>,
    #[command(flatten)]
    api: BuilderApi,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// A value as it would be in YAML: a number, `true`, `false`, else a string.
fn typed(text: String) -> Value {
    match serde_json::from_str(&text) {
        Ok(value @ (Value::Number(_) | Value::Bool(_))) => value,
        _ => text.into(),
    }
}

// === impl Settings ===

impl Settings {
    pub(super) fn run(self) -> Result<(), Failure> {
        let Self { environment, service, .. } = &self;
        let path = format!("/api/v1/settings?environment={environment}&service={service}");
        let read = || self.api.page::<SettingStatus>(&path);
        let names = |settings: &Vec<SettingStatus>| {
            settings.iter().map(|setting| setting.name.clone()).collect()
        };
        self.format.show(read, names, |settings| text(settings))
    }
}

fn text(settings: &[SettingStatus]) -> String {
    let mut rows = vec![["SETTING", "TYPE", "VALUE", "SOURCE"].map(str::to_owned).to_vec()];
    rows.extend(settings.iter().map(|setting| {
        let value = setting.value.as_ref().map_or_else(|| "(missing)".to_owned(), value);
        let source = setting.source.map(|source| source.name().to_owned());
        vec![
            setting.name.clone(),
            setting.kind.name().to_owned(),
            value,
            source.unwrap_or_default(),
        ]
    }));
    table::format(&rows)
}

/// A value for people: a string without its quotes.
pub(super) fn value(value: &Value) -> String {
    printable(&value.as_str().map_or_else(|| value.to_string(), str::to_owned))
}

// === impl Set ===

impl Set {
    pub(super) fn run(self) -> Result<(), Failure> {
        let strings = self.strings.into_iter().map(|(name, text)| (name, Some(text.into())));
        let values = self.values.into_iter().map(|(name, text)| (name, Some(typed(text))));
        self.target.send(self.environment, values.chain(strings).collect())
    }
}

// === impl Unset ===

impl Unset {
    pub(super) fn run(self) -> Result<(), Failure> {
        let values = self.names.into_iter().map(|name| (name, None)).collect();
        self.target.send(self.environment, values)
    }
}

// === impl Target ===

impl Target {
    fn send(
        self,
        environment: EnvironmentName,
        values: BTreeMap<String, Option<Value>>,
    ) -> Result<(), Failure> {
        let change =
            NewSettings { environment, service: self.service, values, reason: self.reason };
        self.api.change(Method::PATCH, "/api/v1/settings", &change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_typed_as_in_yaml() {
        for (text, expected) in [
            ("3", serde_json::json!(3)),
            ("1.5", serde_json::json!(1.5)),
            ("true", true.into()),
            ("info", "info".into()),
            ("[1]", "[1]".into()),
            ("", "".into()),
        ] {
            assert_eq!(typed(text.to_owned()), expected);
        }
        assert_eq!(assignment("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(assignment("a").is_err());
    }
}
