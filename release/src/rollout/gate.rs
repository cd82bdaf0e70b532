//! The user's check of a canary before its first request: what it runs.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The longest name of an image, in characters.
const MAX_IMAGE: usize = 512;
/// The most words of a command, and the longest one in octets.
const MAX_WORDS: usize = 100;
const MAX_WORD: usize = 4096;
/// The longest quantity, in octets.
const MAX_QUANTITY: usize = 16;

/// What the check runs. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct GateSettings {
    /// Its image; `None` for that of the release.
    pub image: Option<String>,
    /// Its command; empty for that of the image.
    pub command: Vec<String>,
    /// The arguments of the command.
    pub args: Vec<String>,
    /// How long it may take.
    pub timeout: u64,
    /// The CPU that it may use, as Kubernetes writes quantities.
    pub cpu: String,
    /// The memory that it may use.
    pub memory: String,
    /// The user that it runs as; `None` for that of the image. Never root.
    pub run_as_user: Option<u64>,
}

// === impl GateSettings ===

impl Default for GateSettings {
    fn default() -> Self {
        Self {
            image: None,
            command: Vec::new(),
            args: Vec::new(),
            timeout: 5 * 60_000,
            cpu: "500m".to_owned(),
            memory: "256Mi".to_owned(),
            run_as_user: None,
        }
    }
}

/// The name of an image.
pub(super) fn image(value: &Value) -> Option<String> {
    let is_good = |text: &&str| {
        (1..=MAX_IMAGE).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic())
    };
    value.as_str().filter(is_good).map(str::to_owned)
}

/// The words of a command.
pub(super) fn words(value: &Value) -> Option<Vec<String>> {
    let words = value.as_array().filter(|words| (1..=MAX_WORDS).contains(&words.len()))?;
    let word = |word: &Value| {
        let text = word.as_str().filter(|text| text.len() <= MAX_WORD && !text.contains('\0'));
        text.map(str::to_owned)
    };
    words.iter().map(word).collect()
}

/// A quantity that is more than nothing, such as `500m` or `1Gi`.
pub(super) fn quantity(value: &Value) -> Option<String> {
    const SUFFIXES: [&str; 8] = ["", "m", "k", "Ki", "M", "Mi", "G", "Gi"];
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let is_number = number.parse::<f64>().is_ok_and(|number| number > 0.0);
    (is_number && SUFFIXES.contains(&suffix) && text.len() <= MAX_QUANTITY).then_some(text)
}
