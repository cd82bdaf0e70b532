use std::fs;
use std::path::Path;

/// Runs `law` on every file of a corpus.
fn replay(corpus: &str, law: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(corpus);
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        law(&fs::read(file.unwrap().path()).unwrap());
        count += 1;
    }
    assert!(count > 10, "{} holds only {count} files", folder.display());
}

#[test]
fn the_laws_of_upstream_responses_hold_on_the_corpus() {
    replay("upstream_response", super::upstream_response);
}

#[test]
fn the_laws_of_credentials_hold_on_the_corpus() {
    replay("credentials", super::credentials);
}

#[test]
fn the_laws_of_frames_hold_on_the_corpus() {
    replay("upstream_frames", super::upstream_frames);
}

#[test]
fn the_laws_of_requests_hold_on_the_corpus() {
    replay("normalize", super::normalize);
}

#[test]
fn the_laws_of_proxy_protocol_headers_hold_on_the_corpus() {
    replay("proxy_protocol", super::proxy_protocol);
}
