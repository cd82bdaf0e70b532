//! The image's recipe, with a small program in the place of the gateway's, whose build takes
//! minutes; and the bill of materials of the gateway itself.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// Packs a program as the image of an architecture, into `folder`.
fn image(folder: &Path, program: &Path, arch: &str) -> Output {
    let mut image = Command::new(format!("{ROOT}/deploy/image"));
    image.arg(folder).env("PROGRAM", program).env("ARCH", arch);
    image.output().expect("deploy/image runs")
}

fn digest(folder: &Path, program: &Path, arch: &str) -> String {
    let output = image(folder, program, arch);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(folder.join(format!("portcullis-{arch}.digest"))).expect("a digest")
}

#[test]
fn the_same_program_gives_the_same_digest_at_another_time_and_place() {
    let folder = tempfile::tempdir().expect("a folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    fs::write(&one, "program").expect("a program");
    let first = digest(&folder.path().join("first"), &one, "amd64");
    fs::copy(&one, &two).expect("a copy");
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(3600);
    fs::File::options().write(true).open(&two).unwrap().set_modified(later).unwrap();
    assert_eq!(digest(&folder.path().join("second"), &two, "amd64"), first);
    assert_ne!(digest(&folder.path().join("third"), &two, "arm64"), first);
    fs::write(&two, "another program").expect("a program");
    assert_ne!(digest(&folder.path().join("fourth"), &two, "amd64"), first);
    assert!(folder.path().join("first/portcullis-amd64.cdx.json").exists());
}

#[test]
fn the_builder_has_its_programs_beside_the_same_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    fs::write(path("program"), "program").expect("a program");
    fs::create_dir_all(path("files/usr/bin")).expect("a folder");
    fs::write(path("files/usr/bin/git"), "git").expect("a file");
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(path("root.tar")).arg("-C").arg(path("files")).arg("usr");
    assert!(tar.status().expect("tar runs").success());
    let build = |out: &str| {
        let mut image = Command::new(format!("{ROOT}/deploy/image"));
        image.arg(path(out)).env("IMAGE", "portcullis-builder").env("ARCH", "amd64");
        image.env("PROGRAM", path("program")).env("ROOT", path("root.tar"));
        let output = image.output().expect("deploy/image runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        fs::read_to_string(path(out).join("portcullis-builder-amd64.digest")).expect("a digest")
    };
    assert_eq!(build("first"), build("second"));
    let archive = path("first/portcullis-builder-amd64.tar");
    let layout = path("layout");
    fs::create_dir(&layout).expect("a folder");
    let mut tar = Command::new("tar");
    assert!(
        tar.arg("-xf").arg(&archive).arg("-C").arg(&layout).status().expect("tar runs").success()
    );
    let mut files = BTreeSet::new();
    for blob in fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        let listed = Command::new("tar").arg("-tzf").arg(blob.expect("a blob").path()).output();
        let listed = listed.expect("tar runs").stdout;
        files.extend(String::from_utf8_lossy(&listed).lines().map(str::to_owned));
    }
    for file in ["usr/bin/git", "usr/bin/portcullis"] {
        assert!(files.contains(file), "{file}: {files:?}");
    }
}

#[test]
fn a_program_above_the_limit_is_no_image() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    fs::File::create(&program).expect("a file").set_len(40_000_001).expect("its size");
    let output = image(folder.path(), &program, "amd64");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && message.contains("more than 40000000"), "{message}");
    let output = image(folder.path(), &program, "sparc");
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn the_bill_of_materials_has_what_is_built_in() {
    let sbom = || {
        let mut sbom = Command::new(format!("{ROOT}/deploy/sbom"));
        let output = sbom.arg("x86_64-unknown-linux-gnu").output().expect("deploy/sbom runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let text = sbom();
    assert_eq!(text, sbom(), "the same lock file gives the same text");
    let document: Value = serde_json::from_slice(&text).expect("JSON");
    assert_eq!(document["metadata"]["component"]["name"], "portcullis");
    let components = document["components"].as_array().expect("components");
    let names: BTreeSet<&str> =
        components.iter().map(|component| component["name"].as_str().expect("a name")).collect();
    for built_in in ["rustls", "aws-lc-sys", "tokio", "portcullis-proxy", "kube"] {
        assert!(names.contains(built_in), "{built_in}");
    }
    for of_tests in ["insta", "proptest", "portcullis"] {
        assert!(!names.contains(of_tests), "{of_tests}");
    }
    let lock = fs::read_to_string(format!("{ROOT}/Cargo.lock")).expect("the lock file");
    for component in components {
        let name = component["name"].as_str().expect("a name");
        assert!(component["licenses"][0]["expression"].is_string(), "{name}");
        if !name.starts_with("portcullis") {
            let hash = component["hashes"][0]["content"].as_str().expect("a hash");
            assert!(lock.contains(hash), "{name}");
        }
    }
}
