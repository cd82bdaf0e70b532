//! A copy of the package for Pulumi, to be built beside the packages that it needs.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// The package, in a folder of its own.
pub(crate) struct Package {
    /// The folder of the package.
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

/// The folder that a script of `tests/pulumi` fills.
pub(crate) fn built_by(script: &str) -> PathBuf {
    let script = format!("{ROOT}/tests/pulumi/{script}");
    let output = Command::new(&script).arg("--print-dir").output().expect("the script runs");
    let built = PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim());
    assert!(built.exists(), "what {script} builds is not there: run it");
    built
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").arg(from).arg(to).status();
    assert!(copied.expect("cp runs").success(), "{}", from.display());
}

// === impl Package ===

impl Package {
    /// A copy of the package and of the chart beside it, with the packages that
    /// `tests/pulumi/build` installed.
    pub(crate) fn new() -> Self {
        let installed = built_by("build");
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("pulumi");
        fs::create_dir(&path).expect("a folder");
        copy(&Path::new(ROOT).join("deploy/helm"), &folder.path().join("helm"));
        for entry in fs::read_dir(Path::new(ROOT).join("deploy/pulumi")).expect("the package") {
            let entry = entry.expect("an entry");
            // What a developer has built there.
            if !["node_modules", "dist", "chart"].iter().any(|name| entry.file_name() == *name) {
                copy(&entry.path(), &path.join(entry.file_name()));
            }
        }
        symlink(installed.join("node_modules"), path.join("node_modules")).expect("a link");
        Self { path, _folder: folder }
    }

    /// Runs a script of the package, and returns what it printed.
    pub(crate) fn npm(&self, script: &str) -> String {
        let mut npm = Command::new("npm");
        let output = npm.args(["run", "--silent", script]).current_dir(&self.path).output();
        let output = output.expect("npm runs");
        let (out, error) = (&output.stdout, &output.stderr);
        let text = String::from_utf8_lossy(out) + String::from_utf8_lossy(error);
        assert!(output.status.success(), "npm run {script}: {text}");
        text.into_owned()
    }
}
