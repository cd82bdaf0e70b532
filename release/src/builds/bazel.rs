//! Targets and images of Bazel, in a sandbox: see [`super::sandbox`].
//!
//! Even a query executes code of the repository: macros, repository rules, and what its `.bazelrc`
//! names. So it is as hostile as a build, and what it returns is read with bounds, as labels alone.

use std::collections::BTreeSet;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt};

use super::targets::{InvalidLabel, Label, MAX_TARGETS};

/// The query for a repository without one: what has the tag `portcullis`, and the images of a macro.
pub const QUERY: &str = concat!(
    r"attr(tags, '[\[ ]portcullis[,\]]', //...)",
    " + filter('_image_publish$', attr(generator_function, '^go_http_server$', //...))"
);
/// The most that a query may return, in bytes.
const MAX_OUTPUT: u64 = 128 * 1024;
/// The bytes of a MiB.
const MEBIBYTE: u64 = 1024 * 1024;

/// The program, and what it may use.
#[derive(Debug)]
pub(super) struct Bazel<'b> {
    program: &'b Path,
    /// The memory of its own, in MiB.
    heap: u64,
}

/// Why the output of a query has no labels.
#[derive(Debug, thiserror::Error)]
pub enum InvalidLabels {
    /// The query reported a failure.
    #[error("the query of Bazel failed")]
    Failed,
    /// It is too long.
    #[error("the query of Bazel returned more than {MAX_TARGETS} targets, or {MAX_OUTPUT} bytes")]
    TooMany,
    /// It is not a list of labels.
    #[error("the query of Bazel returned something else than labels")]
    Text,
    /// One of them cannot be built.
    #[error("the query of Bazel returned {0}")]
    Label(#[from] InvalidLabel),
    /// It cannot be read.
    #[error("the output of the query cannot be read: {0}")]
    Read(#[from] std::io::Error),
}

// === impl Bazel ===

impl<'b> Bazel<'b> {
    /// One whose processes have a memory of this many bytes in all.
    pub(super) fn new(program: &'b Path, memory: u64) -> Self {
        // The other half is for the program itself and for what it starts.
        Self { program, heap: (memory / MEBIBYTE / 2).max(1) }
    }

    /// The arguments of a sandbox that builds a target.
    pub(super) fn build(&self, label: &Label) -> Vec<String> {
        self.arguments("bazel-build", [label.to_string(), label.output().to_string()])
    }

    /// The arguments of a sandbox that returns labels, for [`read`].
    pub(super) fn query(&self, expression: &str) -> Vec<String> {
        self.arguments("bazel-query", [expression.to_owned()])
    }

    fn arguments(&self, builder: &str, own: impl IntoIterator<Item = String>) -> Vec<String> {
        let program = self.program.to_string_lossy().into_owned();
        [builder.to_owned(), program, self.heap.to_string()].into_iter().chain(own).collect()
    }
}

/// Reads the labels that a query returns, one a line, each once and in their order.
///
/// # Errors
/// There are too many of them, or something else.
pub(super) async fn read(output: impl AsyncRead + Unpin) -> Result<Vec<Label>, InvalidLabels> {
    let mut text = Vec::new();
    output.take(MAX_OUTPUT.saturating_add(1)).read_to_end(&mut text).await?;
    if text.len() as u64 > MAX_OUTPUT {
        return Err(InvalidLabels::TooMany);
    }
    parse(&text)
}

fn parse(text: &[u8]) -> Result<Vec<Label>, InvalidLabels> {
    let text = std::str::from_utf8(text).map_err(|_| InvalidLabels::Text)?;
    // A line that is cut off is no label.
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(InvalidLabels::Text);
    }
    let labels = text.split_terminator('\n').map(str::parse);
    let labels: BTreeSet<Label> = labels.collect::<Result<_, _>>()?;
    if labels.len() > MAX_TARGETS {
        return Err(InvalidLabels::TooMany);
    }
    Ok(labels.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_read_once_each_and_in_their_order() {
        let labels = |text: &str| -> Result<Vec<String>, String> {
            let labels = parse(text.as_bytes()).map_err(|error| error.to_string())?;
            Ok(labels.iter().map(ToString::to_string).collect())
        };
        assert_eq!(labels("").unwrap(), [""; 0]);
        assert_eq!(labels("//b:x\n//a:x\n//b:x\n").unwrap(), ["//a:x", "//b:x"]);
        for (text, expected) in [
            ("//a:x", "something else than labels"),
            ("//a:x\n\n", "\"\" is not a label"),
            ("\n", "\"\" is not a label"),
            ("//a:x\r\n", "\"//a:x\\r\" is not a label"),
            ("//a:x\n--foo\n", "\"--foo\" is not a label"),
            ("//a:../../etc\n", "\"//a:../../etc\" is not a label"),
            ("@x//a:x\n", "\"@x//a:x\" is a target of another repository"),
            ("//a:all\n", "\"//a:all\" stands for several targets"),
        ] {
            let error = labels(text).unwrap_err();
            assert!(error.starts_with("the query of Bazel returned "), "{error}");
            assert!(error.contains(expected), "{text:?}: {error}");
        }
        assert!(matches!(parse(b"//a:\xff\n"), Err(InvalidLabels::Text)));
        let many = |count: usize| -> String {
            (0..count).map(|number| format!("//a:{number}\n")).collect()
        };
        assert_eq!(labels(&many(MAX_TARGETS)).unwrap().len(), MAX_TARGETS);
        assert!(labels(&many(MAX_TARGETS + 1)).unwrap_err().contains("more than 100 targets"));
    }

    #[tokio::test]
    async fn an_endless_output_is_not_read() {
        let error = read(tokio::io::repeat(b'/')).await.unwrap_err();
        assert!(matches!(error, InvalidLabels::TooMany), "{error}");
    }

    #[test]
    fn nothing_of_a_repository_is_an_option() {
        let bazel = Bazel::new(Path::new("/opt/bazel"), 4 << 30);
        let label = "//-x:--y".parse().unwrap();
        let expected = ["bazel-build", "/opt/bazel", "2048", "//-x:--y", "-x/--y"];
        assert_eq!(bazel.build(&label), expected);
        assert_eq!(bazel.query(QUERY)[3], QUERY);
    }
}
