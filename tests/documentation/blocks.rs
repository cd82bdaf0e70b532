//! The command blocks of the documentation, and how each is tested.
//!
//! A comment before a block, which readers do not see, says it: `<!-- tested: node -->`,
//! `<!-- tested: releases -->` (on a node with a registry), `<!-- tested: builds -->` (the same, with a
//! repository), `<!-- tested: pods -->` (with a builder in a pod), `<!-- tested: here -->`, or
//! `<!-- untested: REASON -->`.

use std::path::PathBuf;

/// A block of commands.
pub(crate) struct Block {
    /// Its page, relative to the repository.
    pub(crate) page: String,
    /// The line where it starts.
    pub(crate) line: usize,
    /// The commands.
    pub(crate) text: String,
    /// What the comment before it contains.
    pub(crate) mark: Option<String>,
}

/// The command blocks of a page.
pub(crate) fn of(page: &str) -> Vec<Block> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(page);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{page}: {error}"));
    let mut blocks = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut mark = None;
    while let Some((number, line)) = lines.next() {
        let trimmed = line.trim();
        let comment = trimmed.strip_prefix("<!--").and_then(|rest| rest.strip_suffix("-->"));
        match (trimmed, comment) {
            ("```sh", _) => {
                let indent = line.len() - line.trim_start().len();
                let body =
                    lines.by_ref().map(|(_, line)| line).take_while(|line| line.trim() != "```");
                let body: Vec<&str> =
                    body.map(|line| line.get(indent..).unwrap_or_default()).collect();
                let (page, text) = (page.to_owned(), body.join("\n"));
                blocks.push(Block { page, line: number + 1, text, mark: mark.take() });
            }
            (_, Some(comment)) => mark = Some(comment.trim().to_owned()),
            ("", None) => {}
            // A fence of another language, or text between the comment and the block.
            _ => mark = None,
        }
    }
    blocks
}

/// The page that begins and ends with a cluster without a gateway.
pub(crate) const START: &str = "docs/getting-started.md";
/// The pages whose blocks a node runs after it, in this order: from such a cluster to a gateway.
pub(crate) const WALK: [&str; 4] =
    ["README.md", "docs/install.md", "docs/operate.md", "docs/upgrade.md"];
// === impl Block ===

impl Block {
    /// Whether a test runs it in this place.
    pub(crate) fn is_tested(&self, place: &str) -> bool {
        self.mark.as_deref() == Some(&format!("tested: {place}"))
    }
}
