use std::fs;
use std::path::Path;

#[test]
fn the_invariants_of_manifests_hold_on_the_corpus() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus/manifests");
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        super::manifests(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "{} holds only {count} files", folder.display());
}
