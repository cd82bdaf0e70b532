//! What differs between two releases, for people.

use portcullis_release::api::ReleaseDiff;
use portcullis_release::manifest::Change;
use serde_json::Value;

use super::output::printable;

/// The longest value that is shown, in characters.
const MAX_VALUE: usize = 100;

/// The objects that differ, such as `Deployment/web`.
pub(super) fn names(diff: &ReleaseDiff) -> Vec<String> {
    diff.objects
        .iter()
        .map(|found| format!("{}/{}", found.object.kind, found.object.name))
        .collect()
}

/// A line for each object, and below it one for each field.
pub(super) fn text(diff: &ReleaseDiff) -> String {
    let from = diff.from.as_ref().map_or_else(|| "nothing".to_owned(), ToString::to_string);
    let mut text = format!("{from} → {}\n", diff.to);
    if diff.objects.is_empty() {
        text.push_str("no differences\n");
    }
    for found in &diff.objects {
        let sign = match found.change {
            Change::Added => '+',
            Change::Removed => '-',
            Change::Changed => '~',
        };
        text.push_str(&format!("{sign} {}\n", found.object));
        for field in &found.fields {
            let path = printable(&field.path);
            let [before, after] = [&field.before, &field.after].map(value);
            text.push_str(&format!("    {path}: {before} → {after}\n"));
        }
    }
    text
}

/// A value on one line.
fn value(value: &Option<Value>) -> String {
    let text =
        value.as_ref().map_or_else(|| "(none)".to_owned(), |value| printable(&value.to_string()));
    match text.char_indices().nth(MAX_VALUE) {
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        None => text,
    }
}
