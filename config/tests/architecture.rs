//! Checks that top-level modules only use modules below them, by the tables "Layers of `CRATE`" in
//! `docs/architecture.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test fails by a panic"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use regex::Regex;

/// Top-level modules with the index of their row, from the top.
type Layers = BTreeMap<String, usize>;

/// A use of one module by another one of the same crate.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Arrow {
    from: String,
    to: String,
    file: PathBuf,
}

#[test]
fn no_module_uses_one_beside_or_above_it() {
    let document = fs::read_to_string(root().join("docs/architecture.md")).unwrap();
    for name in crates() {
        let layers = layers(&document, &name)
            .unwrap_or_else(|| panic!("docs/architecture.md has no `### Layers of `{name}``"));
        let sources = sources(&root().join(&name).join("src"));
        let modules: BTreeSet<&String> = sources.keys().map(|(module, _)| module).collect();
        assert_eq!(modules, layers.keys().collect(), "modules of {name}, and those in the table");
        let arrows: Vec<Arrow> = sources
            .iter()
            .flat_map(|((module, file), text)| arrows(module, file, text))
            .filter(|arrow| is_upwards(arrow, &layers))
            .collect();
        assert!(arrows.is_empty(), "{name}: these point up in docs/architecture.md: {arrows:#?}");
    }
}

#[test]
fn an_upward_dependency_is_reported_with_both_names() {
    let document = "### Layers of `a`\n\n| modules | x |\n| --- | --- |\n| `top` | `no` |\n| `left`, \
                    `right` | |\n| `leaf` | |\n\n### Layers of `b`\n\n| `other` |\n";
    let layers = layers(document, "a").unwrap();
    assert_eq!(
        layers,
        [("top", 0), ("left", 1), ("right", 1), ("leaf", 2)]
            .map(|(name, row)| (name.to_owned(), row))
            .into()
    );
    let up = |file: &str, text: &str| -> Vec<String> {
        arrows("left", Path::new(file), text)
            .into_iter()
            .filter(|arrow| is_upwards(arrow, &layers))
            .map(|arrow| format!("{} → {}", arrow.from, arrow.to))
            .collect()
    };
    assert_eq!(up("left.rs", "use crate::top::X;"), ["left → top"]);
    assert_eq!(up("left.rs", "use crate::{leaf, right::{self, Y}};"), ["left → right"]);
    assert_eq!(up("left.rs", "fn f() { super::top::f() }"), ["left → top"]);
    assert_eq!(up("left/a.rs", "use super::super::top::X;"), ["left → top"]);
    assert_eq!(up("left.rs", "macro_rules! m { () => { $crate::top::f() } }"), ["left → top"]);
    assert_eq!(up("left.rs", "crate::run();"), ["left → run"], "an item of the crate's root");
    for good in [
        "use crate::leaf::X;",
        "use crate::left::a;",
        "// [`X`](crate::top::X)",
        "use self::top::X;",
        "pub(crate) fn f() {}",
        "#[cfg(test)]\nmod tests {\n    use crate::top::X;\n}",
    ] {
        assert_eq!(up("left.rs", good), [""; 0], "{good}");
    }
    assert_eq!(up("left/a.rs", "use super::top::X;"), [""; 0], "a part of `left`");
}

fn is_upwards(arrow: &Arrow, layers: &Layers) -> bool {
    layers.get(&arrow.to) <= layers.get(&arrow.from)
}

/// Parses the table of a crate.
fn layers(document: &str, name: &str) -> Option<Layers> {
    let (_, section) = document.split_once(&format!("### Layers of `{name}`\n"))?;
    let section = section.split("\n#").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    let names = |(number, row): (usize, &str)| {
        let cell = row.split('|').nth(1).unwrap_or_default().to_owned();
        let names: Vec<String> = cell.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        names.into_iter().map(move |name| (name, number)).collect::<Vec<_>>()
    };
    Some(rows.enumerate().flat_map(names).collect())
}

/// The uses of other top-level modules of the crate in a file; `file` is relative to `src`.
fn arrows(module: &str, file: &Path, text: &str) -> Vec<Arrow> {
    let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code = Regex::new("//.*").unwrap().replace_all(text, "");
    // The `super::…` path that leads to the root of the crate.
    let root = format!(r"\b(?:crate|{})", vec!["super"; file.components().count()].join("::"));
    let path = Regex::new(&format!(r"{root}::(?:(\w+)|\{{([^;]*?)\}}\s*;)")).unwrap();
    let mut names = Vec::new();
    for found in path.captures_iter(&code) {
        match (found.get(1), found.get(2)) {
            (Some(name), _) => names.push(name.as_str().to_owned()),
            (None, list) => names.extend(heads(list.map_or("", |list| list.as_str()))),
        }
    }
    // A longer path contains shorter ones: `super::super` is not `super` and a module.
    names.retain(|name| name != "super" && name != module);
    let arrow = |to| Arrow { from: module.to_owned(), to, file: file.to_owned() };
    names.into_iter().map(arrow).collect()
}

/// The first names in the list of a `use`: for `a, b::{c, d}`, `a` and `b`.
fn heads(list: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let is_outside = |char: &char| {
        depth = match char {
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
        depth == 0
    };
    let flat: String = list.chars().filter(is_outside).collect();
    let heads = flat.split(',').filter_map(|item| item.trim().split("::").next());
    heads.filter(|head| !head.is_empty()).map(str::to_owned).collect()
}

/// The text of each file of a crate except its root and tests, by top-level module and path.
fn sources(src: &Path) -> BTreeMap<(String, PathBuf), String> {
    let mut sources = BTreeMap::new();
    let mut folders = vec![src.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if stem == "tests" || stem.ends_with("_tests") {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let file = path.strip_prefix(src).unwrap();
            let module = file.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs");
            if path.extension().is_some_and(|extension| extension == "rs") && module != "lib" {
                let text = fs::read_to_string(&path).unwrap();
                sources.insert((module.to_owned(), file.to_owned()), text);
            }
        }
    }
    sources
}

/// The folders of the workspace that have a `src/lib.rs`.
fn crates() -> Vec<String> {
    let entries = fs::read_dir(root()).unwrap().map(|entry| entry.unwrap().path());
    let crates = entries.filter(|path| path.join("src/lib.rs").is_file());
    crates.map(|path| path.file_name().unwrap().to_str().unwrap().to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}
