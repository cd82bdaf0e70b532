//! The package for Pulumi: its types, its lints, and its tests, with a stand-in for the engine.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// A copy of the package and of the chart beside it, with the packages that `tests/pulumi/build`
/// installed.
fn package() -> (TempDir, PathBuf) {
    let build = format!("{ROOT}/tests/pulumi/build");
    let output = Command::new(build).arg("--print-dir").output().expect("tests/pulumi/build runs");
    let installed = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    assert!(installed.exists(), "the packages are not there: run tests/pulumi/build");
    let folder = tempfile::tempdir().expect("a folder");
    let package = folder.path().join("pulumi");
    fs::create_dir(&package).expect("a folder");
    copy(&Path::new(ROOT).join("deploy/helm"), &folder.path().join("helm"));
    for entry in fs::read_dir(Path::new(ROOT).join("deploy/pulumi")).expect("the package") {
        let entry = entry.expect("an entry");
        // What a developer has built there.
        if !["node_modules", "dist", "chart"].iter().any(|name| entry.file_name() == *name) {
            copy(&entry.path(), &package.join(entry.file_name()));
        }
    }
    symlink(installed.join("node_modules"), package.join("node_modules")).expect("a link");
    (folder, package)
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success(), "{}", from.display());
}

#[test]
fn the_package_compiles_passes_its_lints_and_its_tests() {
    let (_folder, package) = package();
    for script in ["build", "lint", "test"] {
        let mut npm = Command::new("npm");
        let output = npm.args(["run", "--silent", script]).current_dir(&package).output();
        let output = output.expect("npm runs");
        let (out, error) = (&output.stdout, &output.stderr);
        let text = String::from_utf8_lossy(out) + String::from_utf8_lossy(error);
        assert!(output.status.success(), "npm run {script}: {text}");
        // What the runner of Node.js counts: no test is left out.
        assert!(script != "test" || text.contains("# skipped 0"), "{text}");
    }
}
