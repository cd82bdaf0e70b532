//! Output of the commands about releases: tables for people; JSON, YAML and names for programs.

use std::thread::sleep;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output;
use super::problems::Failure;

/// How often `--watch` looks for a change.
const WATCHED_EVERY: Duration = Duration::from_secs(2);

/// The output format of releases, deployments and environments.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum Format {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
    /// For programs.
    Yaml,
    /// Names alone, one a line.
    Name,
}

/// The output format, and whether changes are followed.
#[derive(Debug, Args)]
pub(super) struct FormatArgs {
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    /// Print again after each change, until interrupted
    #[arg(short, long)]
    watch: bool,
}

// === impl Format ===

impl Format {
    /// Formats a value. `names` and `text` are called for their formats alone; names end without a
    /// line feed, a text with one.
    pub(super) fn render<T: Serialize>(
        self,
        value: &T,
        names: impl FnOnce(&T) -> Vec<String>,
        text: impl FnOnce(&T) -> String,
    ) -> Result<String, Failure> {
        Ok(match self {
            Self::Text => text(value),
            Self::Json => serde_json::to_string_pretty(value).map_err(Failure::new)? + "\n",
            Self::Yaml => serde_saphyr::to_string(value).map_err(Failure::new)?,
            Self::Name => names(value).into_iter().map(|name| name + "\n").collect(),
        })
    }
}

// === impl FormatArgs ===

impl FormatArgs {
    /// Writes what `read` returns, and with `--watch` again whenever it has changed.
    #[expect(
        clippy::disallowed_methods,
        reason = "there is no runtime between two reads, and the API has no events to wait for"
    )]
    pub(super) fn show<T: Serialize + PartialEq>(
        &self,
        read: impl Fn() -> Result<T, Failure>,
        names: impl Fn(&T) -> Vec<String>,
        text: impl Fn(&T) -> String,
    ) -> Result<(), Failure> {
        let mut shown = None;
        loop {
            let value = read()?;
            if shown.as_ref() != Some(&value) {
                output::write(&self.output.render(&value, &names, &text)?)?;
                shown = Some(value);
            }
            if !self.watch {
                return Ok(());
            }
            sleep(WATCHED_EVERY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_format_has_the_whole_value() {
        let value = serde_json::json!([{"id": "web.1", "text": "a: b\n- c", "number": "012"}]);
        let render = |format: Format| {
            let text = |_: &serde_json::Value| "RELEASE\n".to_owned();
            format.render(&value, |_| vec!["web.1".to_owned()], text).expect("it is rendered")
        };
        let parsed: serde_json::Value = serde_json::from_str(&render(Format::Json)).expect("JSON");
        assert_eq!(parsed, value);
        let parsed: serde_json::Value =
            serde_saphyr::from_str(&render(Format::Yaml)).expect("YAML");
        assert_eq!(parsed, value);
        assert_eq!(render(Format::Name), "web.1\n");
        assert_eq!(render(Format::Text), "RELEASE\n");
    }
}
