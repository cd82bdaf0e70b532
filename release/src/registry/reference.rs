//! Names of images, by the grammar of the OCI distribution specification ("Pulling manifests").

use std::str::FromStr;

use crate::model::{is_host, is_tag};

/// The longest repository: that of the registries' own implementations.
const MAX_REPOSITORY: usize = 255;

/// The name of an image: registry, repository, and a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reference {
    /// Host and port of the registry, as written.
    pub(super) host: String,
    /// The repository.
    pub(super) repository: String,
    /// The tag, if there is one.
    pub(super) tag: Option<String>,
    /// The digest, if there is one; it decides.
    pub(super) digest: Option<String>,
}

// === impl Reference ===

impl FromStr for Reference {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, rest) = text.split_once('/').filter(|(host, _)| is_host(host)).ok_or(())?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) if is_sha256(digest) => (rest, Some(digest.to_owned())),
            Some(_) => return Err(()),
            None => (rest, None),
        };
        let (repository, tag) = match rest.split_once(':') {
            Some((repository, tag)) if is_tag(tag) => (repository, Some(tag.to_owned())),
            Some(_) => return Err(()),
            None => (rest, None),
        };
        if repository.len() > MAX_REPOSITORY || !repository.split('/').all(is_component) {
            return Err(());
        }
        // Docker Hub's own images are in the repository `library`.
        let prefix = if host == "docker.io" && !repository.contains('/') { "library/" } else { "" };
        Ok(Self { host: host.to_owned(), repository: format!("{prefix}{repository}"), tag, digest })
    }
}

impl Reference {
    /// What the registry is asked for: the digest, else the tag, else `latest`.
    pub(super) fn version(&self) -> &str {
        self.digest.as_deref().or(self.tag.as_deref()).unwrap_or("latest")
    }
}

/// A part of a repository: lower-case letters and digits, with `.`, `_`, `__` or hyphens between
/// them.
fn is_component(text: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let ends =
        text.bytes().next().is_some_and(is_word) && text.bytes().next_back().is_some_and(is_word);
    ends && text
        .split(|character: char| u8::try_from(character).is_ok_and(is_word))
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|byte| byte == b'-'))
}

/// Whether a text is a SHA-256 digest in its only spelling.
pub(crate) fn is_sha256(digest: &str) -> bool {
    let digits = digest.strip_prefix("sha256:").unwrap_or_default();
    digits.len() == 64 && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_images_have_one_reading() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let parsed = |text: &str| {
            let Reference { host, repository, tag, digest } = text.parse().ok()?;
            Some((host, repository, tag.or(digest).unwrap_or_default()))
        };
        for (text, repository, version) in [
            ("registry.test/web:1.4", "web", "1.4"),
            ("registry.test:5000/team/a__b--c.d", "team/a__b--c.d", ""),
            ("localhost/web:_x", "web", "_x"),
            ("[::1]:5000/web:1", "web", "1"),
            ("docker.io/nginx:1", "library/nginx", "1"),
        ] {
            let (_, found, tag) = parsed(text).unwrap();
            assert_eq!((found.as_str(), tag.as_str()), (repository, version), "{text}");
        }
        let both: Reference = format!("registry.test/web:1@{digest}").parse().unwrap();
        assert_eq!(both.version(), digest, "the digest decides");
        for bad in [
            "",
            "web",
            "web:1",
            "registry/web:1",
            "registry.test/",
            "registry.test//web",
            "registry.test/../v2/other",
            "registry.test/web/../other",
            "registry.test/web?x=1",
            "registry.test/web#x",
            "registry.test/web:1/x",
            "registry.test/web:",
            "registry.test/W",
            "registry.test/web:-1",
            "registry.test/web@sha256:12",
            "registry.test:0/web",
            "user@registry.test/web",
            "http://registry.test/web",
            "registry.test/a..b",
            "registry.test/web%2Fother",
            "registry.test/web:1 ",
            "registry.test/é",
        ] {
            assert_eq!(parsed(bad), None, "{bad}");
        }
    }
}
