//! Placeholders in the texts of templates: `{{image}}` and `{{settings.NAME}}`.

/// The name of the placeholder of the image.
pub(super) const IMAGE: &str = "image";
/// What precedes the name of a setting.
const SETTINGS: &str = "settings.";
/// What stands for a placeholder while a text is parsed, with its name in parentheses: one that is
/// not quoted would be a mapping of YAML.
const WORD: &str = "portcullis-placeholder";
/// The longest name of a setting.
const MAX_NAME: usize = 63;

/// A part of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part<'t> {
    /// Text that stays.
    Text(&'t str),
    /// The name in a placeholder.
    Placeholder(&'t str),
}

/// The name of the setting that a placeholder stands for; `None` for the image.
pub(super) fn setting(name: &str) -> Option<&str> {
    name.strip_prefix(SETTINGS)
}

/// Whether a text is the name of a setting: letters, digits, `-` and `_`, beginning with a letter.
pub(super) fn is_setting_name(text: &str) -> bool {
    text.len() <= MAX_NAME
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

/// Splits a text at its placeholders. Other braces are text.
pub(super) fn parts(text: &str) -> Vec<Part<'_>> {
    let mut parts = Vec::new();
    let (mut from, mut searched) = (0, 0);
    while let Some(start) = text.get(searched..).and_then(|rest| rest.find("{{")) {
        let start = searched + start;
        let Some((name, end)) = name(text, start) else {
            searched = start + 1;
            continue;
        };
        parts.extend(text.get(from..start).filter(|text| !text.is_empty()).map(Part::Text));
        parts.push(Part::Placeholder(name));
        (from, searched) = (end, end);
    }
    parts.extend(text.get(from..).filter(|text| !text.is_empty()).map(Part::Text));
    parts
}

/// The name in the placeholder that begins at `start`, and where it ends.
///
/// It reads spaces and the characters of names alone. As no brace is among them, no octet is read for
/// more than one `start`, so that splitting a text takes time in proportion to its length.
fn name(text: &str, start: usize) -> Option<(&str, usize)> {
    let is_in_names = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let inner = text.get(start..)?.strip_prefix("{{")?.trim_start_matches(' ');
    let after = inner.trim_start_matches(is_in_names);
    let name = inner.get(..inner.len() - after.len())?;
    let rest = after.trim_start_matches(' ').strip_prefix("}}")?;
    let is_known = name == IMAGE || setting(name).is_some_and(is_setting_name);
    is_known.then_some((name, text.len() - rest.len()))
}

/// The text with other texts in the place of its placeholders.
pub(super) fn replaced(text: &str, value: impl Fn(&str) -> String) -> String {
    let part = |part| match part {
        Part::Text(text) => text.to_owned(),
        Part::Placeholder(name) => value(name),
    };
    parts(text).into_iter().map(part).collect()
}

/// A placeholder in its only spelling.
pub(super) fn written(name: &str) -> String {
    format!("{{{{{name}}}}}")
}

/// The text with words in the place of its placeholders.
pub(super) fn protected(text: &str) -> String {
    replaced(text, |name| format!("{WORD}({name})"))
}

/// The text with placeholders in the place of words.
pub(super) fn restored(text: &str) -> String {
    let mut rest = text.split(WORD);
    let mut restored = rest.next().unwrap_or_default().to_owned();
    for part in rest {
        match part.strip_prefix('(').and_then(|part| part.split_once(')')) {
            Some((name, after)) => restored.extend([&*written(name), after]),
            None => restored.extend([WORD, part]),
        }
    }
    restored
}

/// Whether a text has a word in the place of a placeholder.
pub(super) fn is_protected(text: &str) -> bool {
    text.contains(WORD)
}

/// The beginning of a text that looks like the placeholder of a setting and is none.
pub(super) fn misspelled(text: &str) -> Option<String> {
    parts(text).into_iter().find_map(|part| {
        let Part::Text(text) = part else { return None };
        Some(misspelled_start(text)?.chars().take(40).collect())
    })
}

/// The text from what looks like the placeholder of a setting. What follows a run of braces and spaces
/// is the same for each brace of it, so that a run is read once.
fn misspelled_start(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let start = rest.get(start..)?;
        let inner = start.trim_start_matches(['{', ' ']);
        if inner.starts_with(SETTINGS) || inner.starts_with("setting.") {
            return Some(start);
        }
        rest = inner;
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Part::{Placeholder, Text};
    use super::*;

    #[test]
    fn only_known_placeholders_are_found() {
        assert_eq!(
            parts("a{{image}}b{{ settings.log-level }}"),
            [Text("a"), Placeholder("image"), Text("b"), Placeholder("settings.log-level")]
        );
        assert_eq!(parts("{{{image}}"), [Text("{"), Placeholder("image")]);
        for text in ["{{ .Labels }}", "{{settings.}}", "{{settings.1a}}", "{{images}}", "{{image"] {
            assert_eq!(parts(text), [Text(text)]);
        }
        assert_eq!(misspelled("x {{ settings.a b }}").as_deref(), Some("{{ settings.a b }}"));
        assert_eq!(misspelled("{{setting.a}}").as_deref(), Some("{{setting.a}}"));
        assert_eq!(misspelled("{{ .settings.a }} {{settings.a}}"), None);
    }

    /// Where a placeholder begins and what is in it, by searching its end in all of the text.
    fn searched(text: &str) -> Option<(usize, &str)> {
        let starts = text.match_indices('{').map(|(start, _)| start);
        starts.filter(|start| text[*start..].starts_with("{{")).find_map(|start| {
            let inner = &text[start + 2..];
            let name = inner[..inner.find("}}")?].trim_matches(' ');
            let is_known = name == IMAGE || setting(name).is_some_and(is_setting_name);
            is_known.then_some((start, name))
        })
    }

    #[test]
    fn a_text_of_braces_is_read_once() {
        let started = std::time::Instant::now();
        for part in ["{", "{{", "{{ ", "{{a", "{{setting", "}{{"] {
            let text = part.repeat((1 << 20) / part.len());
            assert_eq!(parts(&text), [Text(&text)]);
            assert_eq!(misspelled(&text), None);
        }
        // Searching the end of each brace took minutes.
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }

    proptest! {
        #[test]
        fn the_first_placeholder_is_the_one_that_a_search_finds(
            text in "([{} .]|\\{\\{|\\}\\}|image|settings\\.|a){0,12}",
        ) {
            let found = parts(&text);
            let before = match found.as_slice() {
                [Text(before), Placeholder(name), ..] => Some((before.len(), *name)),
                [Placeholder(name), ..] => Some((0, *name)),
                _ => None,
            };
            prop_assert_eq!(before, searched(&text));
        }

        #[test]
        fn replacing_by_itself_and_protecting_change_nothing(text in "[a-c{}. ]{0,8}(\\{\\{image\\}\\}|\\{\\{ settings\\.a \\}\\})?[a-c{}. ]{0,8}") {
            let normal = replaced(&text, written);
            prop_assert_eq!(&replaced(&normal, written), &normal);
            prop_assert_eq!(restored(&protected(&text)), normal);
        }
    }
}
