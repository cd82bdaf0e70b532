use std::fs;
use std::path::Path;

/// Runs `check` on every file of a corpus.
fn replay(corpus: &str, check: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus);
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        check(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "{} has only {count} files", folder.display());
}

#[test]
fn upstream_responses_pass_on_the_corpus() {
    replay("upstream_response", super::upstream_response);
}

#[test]
fn credentials_pass_on_the_corpus() {
    replay("credentials", super::credentials);
}

#[test]
fn upstream_frames_pass_on_the_corpus() {
    replay("upstream_frames", super::upstream_frames);
}

#[test]
fn requests_pass_on_the_corpus() {
    replay("normalize", super::normalize);
}

#[test]
fn proxy_protocol_headers_pass_on_the_corpus() {
    replay("proxy_protocol", super::proxy_protocol);
}
