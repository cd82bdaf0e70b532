//! The documentation's commands: each is run by a test, or says why not. Those for a cluster are
//! run in `tests/cluster/documentation.rs`.

#[path = "../documentation/blocks.rs"]
pub(crate) mod blocks;

use std::fs;
use std::path::Path;
use std::process::Command;

use self::blocks::{Block, START, WALK};
use crate::harness::{Gateway, World, echo};

/// The page with the commands of the first release, which `releases::walk` follows.
pub(crate) const RELEASES: &str = "docs/releases.md";

/// The page with those that lead from a repository to a URL, which `releases::builds::walk` runs after
/// them, and those of a builder in a pod, which `releases::builds::pods` runs.
pub(crate) const BUILDS: &str = "docs/builds.md";

fn pages() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages =
        ["README.md", "deploy/README.md", "deploy/pulumi/README.md"].map(str::to_owned).to_vec();
    for entry in fs::read_dir(root.join("docs")).expect("the documentation") {
        let name = entry.expect("a page").file_name().to_string_lossy().into_owned();
        pages.extend(name.ends_with(".md").then(|| format!("docs/{name}")));
    }
    pages
}

#[test]
fn every_command_block_is_tested_or_says_why_not() {
    let blocks: Vec<Block> = pages().iter().flat_map(|page| blocks::of(page)).collect();
    let unmarked: Vec<String> = blocks
        .iter()
        .filter(|block| {
            let reason = block.mark.as_deref().and_then(|mark| mark.strip_prefix("untested: "));
            let is_walked =
                block.is_tested("node") && (block.page == START || WALK.contains(&&*block.page));
            let is_released = block.is_tested("releases") && block.page == RELEASES;
            let is_built = ["builds", "pods"].iter().any(|place| block.is_tested(place));
            let is_built = is_built && block.page == BUILDS;
            let is_run = is_walked || is_released || is_built || block.is_tested("here");
            !is_run && reason.is_none_or(str::is_empty)
        })
        .map(|block| format!("{}:{}: {:?}", block.page, block.line, block.mark))
        .collect();
    assert!(unmarked.is_empty(), "neither tested nor said to be untested: {unmarked:#?}");
    assert!(blocks.iter().filter(|block| block.is_tested("node")).count() > 10);
}

#[test]
fn the_overlay_has_the_configuration_of_the_base() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let read = |path: &str| fs::read_to_string(root.join(path)).expect("a configuration");
    assert_eq!(read("overlay/gateway.yaml"), read("kubernetes/gateway.yaml"));
}

/// Runs the blocks for this machine as they are written, beside a running gateway with the
/// configuration that they name: its own address is in the environment, since it has no fixed one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_for_this_machine_work_as_written() {
    let pod = echo("pod-1").await;
    let gateway = Gateway::start(World::web(&pod)).await;
    // The folder is then as a user's: a configuration, manifests and certificates.
    fs::remove_file(gateway.folder().join("ready.json")).expect("the gateway is ready");
    let blocks: Vec<Block> = pages().iter().flat_map(|page| blocks::of(page)).collect();
    let here: Vec<&Block> = blocks.iter().filter(|block| block.is_tested("here")).collect();
    assert!(!here.is_empty(), "no block is tested here");
    let program = Path::new(env!("CARGO_BIN_EXE_portcullis")).parent().expect("a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap_or_default());
    let cache = tempfile::tempdir().expect("a folder");
    for block in here {
        let mut bash = Command::new("bash");
        bash.args(["-euo", "pipefail", "-c", &block.text]).current_dir(gateway.folder());
        bash.env("PATH", &path).env("PORTCULLIS_ADMIN", gateway.admin().to_string());
        let output = bash.env("XDG_CACHE_HOME", cache.path()).output().expect("bash runs");
        let (page, line) = (&block.page, block.line);
        assert!(output.status.success(), "{page}:{line}: {}\n{output:?}", block.text);
    }
}
