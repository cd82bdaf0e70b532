//! Labels of targets of Bazel (<https://bazel.build/concepts/labels>).

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::builds::path::RepositoryPath;

/// The longest label, in bytes.
const MAX_LABEL: usize = 1024;
/// Names that stand for all targets of a package.
const WILDCARDS: [&str; 3] = ["all", "all-targets", "*"];
/// What a label may have besides letters and digits. Bazel allows more, such as spaces and quotes.
const SPECIAL: &[u8] = b"_-.+=,@~/";

/// A target of the repository itself, such as `//web:image`.
///
/// It is one argument of Bazel, and one target: no option, no pattern, no target of another
/// repository, and no path that leads out of the package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Label {
    package: RepositoryPath,
    name: String,
}

/// Why a text is not the label of a target of the repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// It is that of another repository.
    #[error("{0:?} is a target of another repository")]
    External(String),
    /// It stands for several targets.
    #[error("{0:?} stands for several targets: write the label of one")]
    Pattern(String),
    /// It has another form.
    #[error("{0:?} is not a label such as `//web:image`, of letters, digits and `_-.+=,@~/`")]
    Form(String),
}

// === impl Label ===

impl Label {
    /// The folder of its package.
    #[must_use]
    pub fn package(&self) -> &RepositoryPath {
        &self.package
    }

    /// Its output, below the folder of outputs: of the label's name in the folder of its package.
    #[must_use]
    pub fn output(&self) -> RepositoryPath {
        self.package.join(&self.name)
    }
}

impl FromStr for Label {
    type Err = InvalidLabel;

    fn from_str(text: &str) -> Result<Self, InvalidLabel> {
        // What is shown of it is bounded, too.
        let shown = || text.chars().take(MAX_LABEL / 8).collect::<String>();
        let form = || InvalidLabel::Form(shown());
        if text.starts_with('@') {
            return Err(InvalidLabel::External(shown()));
        }
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || SPECIAL.contains(&byte);
        let (package, name) =
            text.strip_prefix("//").and_then(|rest| rest.split_once(':')).ok_or_else(form)?;
        if WILDCARDS.contains(&name) || package.split('/').any(|part| part == "...") {
            return Err(InvalidLabel::Pattern(shown()));
        }
        if text.len() > MAX_LABEL || ![package, name].iter().all(|it| it.bytes().all(is_plain)) {
            return Err(form());
        }
        // With one spelling: neither empty parts nor `.` and `..`.
        let path = |text: &str| {
            let path: Option<RepositoryPath> = text.parse().ok();
            path.filter(|path| path.as_str() == text).ok_or_else(form)
        };
        let (package, target) = (path(package)?, path(name)?);
        if target.is_root() { Err(form()) } else { Ok(Self { package, name: name.to_owned() }) }
    }
}

impl TryFrom<String> for Label {
    type Error = InvalidLabel;

    fn try_from(text: String) -> Result<Self, InvalidLabel> {
        text.parse()
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "//{}:{}", self.package.as_str(), self.name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_label_is_one_target_of_the_repository() {
        for (text, output) in [
            ("//web:image", "web/image"),
            ("//:image", "image"),
            ("//a/b-c/d.e:x/y_z", "a/b-c/d.e/x/y_z"),
            ("//web:all.tar", "web/all.tar"),
            ("//-x:-y", "-x/-y"),
        ] {
            let label: Label = text.parse().unwrap();
            assert_eq!((label.to_string().as_str(), label.output().as_str()), (text, output));
        }
        for external in ["@x//web:image", "@//web:image", "@@x//:y"] {
            let error = external.parse::<Label>().unwrap_err();
            assert!(matches!(error, InvalidLabel::External(_)), "{external}: {error}");
        }
        for pattern in ["//web:all", "//web:*", "//web:all-targets", "//web/...:x", "//...:all"] {
            let error = pattern.parse::<Label>().unwrap_err();
            assert!(matches!(error, InvalidLabel::Pattern(_)), "{pattern}: {error}");
        }
        for bad in [
            "",
            "web",
            ":image",
            "web:image",
            "/web:image",
            "///web:image",
            "//web",
            "//...",
            "//web:",
            "//../web:image",
            "//web:../image",
            "//web:a/../../b",
            "//web:.",
            "//web:a//b",
            "//web/:image",
            "//./web:image",
            "//.git:image",
            "//web:a:b",
            "//web:a b",
            "//web:a\r",
            "//web:a\n//b:c",
            "//web:$(x)",
            "//web:a\\b",
            "//web:\u{e9}",
            "--foo",
            "-//web:image",
            "--output_base=//web:image",
            "//web:a\0",
        ] {
            let error = bad.parse::<Label>().unwrap_err();
            assert!(matches!(error, InvalidLabel::Form(_)), "{bad}: {error}");
        }
        let long = format!("//{}:image", "a/".repeat(MAX_LABEL));
        assert!(long.parse::<Label>().unwrap_err().to_string().len() < 300);
    }

    proptest! {
        /// Whatever is a label has one spelling, starts as no option does, and stays in its package.
        #[test]
        fn no_label_leads_out(text in "(//|@|-)?[a./:@*-]{0,12}") {
            if let Ok(label) = text.parse::<Label>() {
                prop_assert_eq!(label.to_string(), text);
                prop_assert!(label.to_string().starts_with("//"));
                let output = label.output();
                prop_assert!(label.package().contains(output.as_str().as_bytes()));
                prop_assert!(!output.as_str().split('/').any(|part| part == ".."));
            }
        }
    }
}
