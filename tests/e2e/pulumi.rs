//! The package for Pulumi: its types, its lints, and its tests, with a stand-in for the engine. The
//! engine itself runs in `tests/cluster/pulumi.rs`.

#[path = "../pulumi/package.rs"]
mod package;

use self::package::Package;

#[test]
fn the_package_compiles_passes_its_lints_and_its_tests() {
    let package = Package::new();
    package.npm("build");
    package.npm("lint");
    let tests = package.npm("test");
    // What the runner of Node.js counts: no test is left out.
    assert!(tests.contains("# skipped 0"), "{tests}");
}
