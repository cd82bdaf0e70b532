use std::collections::BTreeMap;

use super::*;

fn certificate(name: &str, chain: &str) -> NewCertificate {
    NewCertificate {
        name: name.to_owned(),
        chain: format!("{CHAIN}\n{chain}\n").into_bytes(),
        key: SecretBytes::from(b"-----BEGIN PRIVATE KEY-----\nsecret\n".to_vec()),
        about: BTreeMap::new(),
    }
}

fn open(path: &Path) -> (Folder, Option<Term>) {
    let folder = Folder::open(path).unwrap();
    folder.poll();
    let term = *folder.term().borrow();
    (folder, term)
}

fn contents(folder: &Folder) -> Arc<StoreState> {
    folder.poll();
    folder.contents().borrow().clone().unwrap()
}

#[tokio::test]
async fn saved_data_survives_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, term) = open(directory.path());
    assert_eq!(*contents(&folder), StoreState::default());
    folder.save_state(term.unwrap(), SecretBytes::from(b"state".to_vec())).await.unwrap();
    folder.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    let before = contents(&folder);
    drop(folder);
    let (folder, next) = open(directory.path());
    assert_eq!(contents(&folder), before);
    assert_eq!(before.state.as_ref().unwrap().expose(), b"state");
    let stored = &before.certificates["one"].certificate;
    assert_eq!(*stored.chain, *format!("{CHAIN}\nfirst\n").as_bytes());
    assert!(stored.key.expose().starts_with(b"-----BEGIN PRIVATE KEY-----\nsecret"));
    assert!(next > term, "a later term has a higher number");
}

#[tokio::test]
async fn one_process_is_the_leader_and_others_see_its_writes() {
    let directory = tempfile::tempdir().unwrap();
    let (one, term) = open(directory.path());
    let (other, none) = open(directory.path());
    assert_eq!(none, None);
    one.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    assert_eq!(contents(&other).certificates.len(), 1);
    let result = other.save_state(term.unwrap(), SecretBytes::from(Vec::new())).await;
    assert!(matches!(result, Err(StoreError::Superseded)));
    drop(one);
    other.poll();
    assert!(*other.term().borrow() > term);
}

#[tokio::test]
async fn files_are_readable_by_their_owner_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("acme");
    let (folder, term) = open(&path);
    folder.save_state(term.unwrap(), SecretBytes::from(b"state".to_vec())).await.unwrap();
    folder.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    let files: Vec<_> = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 3, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
}

#[tokio::test]
async fn a_renewal_request_is_cleared_by_a_new_certificate() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, term) = open(directory.path());
    assert!(matches!(folder.request_renewal("one".to_owned()).await, Err(StoreError::Unknown)));
    folder.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    folder.request_renewal("one".to_owned()).await.unwrap();
    assert!(contents(&folder).certificates["one"].renewal_requested);
    folder.save_certificate(term.unwrap(), certificate("one", "second")).await.unwrap();
    assert!(!contents(&folder).certificates["one"].renewal_requested);
}

#[tokio::test]
async fn removing_a_certificate_removes_its_renewal_request() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, term) = open(directory.path());
    let (other, _) = open(directory.path());
    for name in ["one", "other"] {
        folder.save_certificate(term.unwrap(), certificate(name, "first")).await.unwrap();
    }
    folder.request_renewal("one".to_owned()).await.unwrap();
    assert!(matches!(
        other.remove_certificate(term.unwrap(), "one".to_owned()).await,
        Err(StoreError::Superseded)
    ));
    for _ in 0..2 {
        folder.remove_certificate(term.unwrap(), "one".to_owned()).await.unwrap();
        assert_eq!(contents(&folder).certificates.keys().collect::<Vec<_>>(), ["other"]);
    }
    folder.save_certificate(term.unwrap(), certificate("one", "second")).await.unwrap();
    assert!(!contents(&folder).certificates["one"].renewal_requested);
}

#[tokio::test]
async fn the_last_rollover_request_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, _) = open(directory.path());
    assert_eq!(contents(&folder).rollover, None);
    for request in ["first", "second"] {
        folder.request_rollover(request.to_owned()).await.unwrap();
        assert_eq!(contents(&folder).rollover.as_deref(), Some(request));
    }
}

#[tokio::test]
async fn a_state_that_is_too_large_is_rejected_and_keeps_the_last_one() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, term) = open(directory.path());
    folder.save_state(term.unwrap(), SecretBytes::from(b"state".to_vec())).await.unwrap();
    let result = folder.save_state(term.unwrap(), SecretBytes::from(vec![0; MAX_BYTES + 1])).await;
    assert!(matches!(result, Err(StoreError::TooLarge)));
    assert_eq!(contents(&folder).state.as_ref().unwrap().expose(), b"state");
}

#[test]
fn unknown_files_are_ignored() {
    let directory = tempfile::tempdir().unwrap();
    let (folder, _) = open(directory.path());
    for name in ["README", "..pem", "UPPER.pem", ".one.pem.new"] {
        fs::write(directory.path().join(name), "x").unwrap();
    }
    assert_eq!(*contents(&folder), StoreState::default());
}
