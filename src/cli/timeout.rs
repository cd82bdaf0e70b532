//! The longest time that a command waits, as an argument.

use std::time::Duration;

use portcullis_config::model::duration;

/// Parses a duration such as `30s` or `90m`.
pub(super) fn parse(text: &str) -> Result<Duration, String> {
    duration::parse(text).ok_or_else(|| "write a duration such as 30s or 90m".to_owned())
}
