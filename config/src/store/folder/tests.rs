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
    folder.look();
    let term = *folder.term().borrow();
    (folder, term)
}

fn held(folder: &Folder) -> Arc<Held> {
    folder.look();
    folder.held().borrow().clone().unwrap()
}

#[tokio::test]
async fn what_is_saved_is_held_and_is_there_after_a_restart() {
    let place = tempfile::tempdir().unwrap();
    let (folder, term) = open(place.path());
    assert_eq!(*held(&folder), Held::default());
    folder.save_state(term.unwrap(), SecretBytes::from(b"state".to_vec())).await.unwrap();
    folder.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    let before = held(&folder);
    drop(folder);
    let (folder, next) = open(place.path());
    assert_eq!(held(&folder), before);
    assert_eq!(before.state.as_ref().unwrap().expose(), b"state");
    let kept = &before.certificates["one"].certificate;
    assert_eq!(*kept.chain, *format!("{CHAIN}\nfirst\n").as_bytes());
    assert!(kept.key.expose().starts_with(b"-----BEGIN PRIVATE KEY-----\nsecret"));
    assert!(next > term, "a later term has a higher number");
}

#[tokio::test]
async fn one_process_leads_and_the_other_sees_what_it_writes() {
    let place = tempfile::tempdir().unwrap();
    let (one, term) = open(place.path());
    let (other, none) = open(place.path());
    assert_eq!(none, None);
    one.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    assert_eq!(held(&other).certificates.len(), 1);
    let refused = other.save_state(term.unwrap(), SecretBytes::from(Vec::new())).await;
    assert!(matches!(refused, Err(StoreError::Superseded)));
    drop(one);
    other.look();
    assert!(*other.term().borrow() > term);
}

#[tokio::test]
async fn nobody_else_can_read_it() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("acme");
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
async fn a_renewal_is_asked_for_until_it_is_done() {
    let place = tempfile::tempdir().unwrap();
    let (folder, term) = open(place.path());
    assert!(matches!(folder.ask_renewal("one".to_owned()).await, Err(StoreError::Unknown)));
    folder.save_certificate(term.unwrap(), certificate("one", "first")).await.unwrap();
    folder.ask_renewal("one".to_owned()).await.unwrap();
    assert!(held(&folder).certificates["one"].renewal_asked);
    folder.save_certificate(term.unwrap(), certificate("one", "second")).await.unwrap();
    assert!(!held(&folder).certificates["one"].renewal_asked);
}

#[tokio::test]
async fn what_is_removed_is_gone_with_what_was_asked_for_it() {
    let place = tempfile::tempdir().unwrap();
    let (folder, term) = open(place.path());
    let (other, _) = open(place.path());
    for name in ["one", "other"] {
        folder.save_certificate(term.unwrap(), certificate(name, "first")).await.unwrap();
    }
    folder.ask_renewal("one".to_owned()).await.unwrap();
    assert!(matches!(
        other.remove_certificate(term.unwrap(), "one".to_owned()).await,
        Err(StoreError::Superseded)
    ));
    for _ in 0..2 {
        folder.remove_certificate(term.unwrap(), "one".to_owned()).await.unwrap();
        assert_eq!(held(&folder).certificates.keys().collect::<Vec<_>>(), ["other"]);
    }
    folder.save_certificate(term.unwrap(), certificate("one", "second")).await.unwrap();
    assert!(!held(&folder).certificates["one"].renewal_asked);
}

#[tokio::test]
async fn what_was_asked_for_the_keys_of_accounts_is_held() {
    let place = tempfile::tempdir().unwrap();
    let (folder, _) = open(place.path());
    assert_eq!(held(&folder).rollover, None);
    for request in ["first", "second"] {
        folder.ask_rollover(request.to_owned()).await.unwrap();
        assert_eq!(held(&folder).rollover.as_deref(), Some(request));
    }
}

#[tokio::test]
async fn a_state_that_is_too_large_leaves_the_one_before() {
    let place = tempfile::tempdir().unwrap();
    let (folder, term) = open(place.path());
    folder.save_state(term.unwrap(), SecretBytes::from(b"state".to_vec())).await.unwrap();
    let refused = folder.save_state(term.unwrap(), SecretBytes::from(vec![0; MAX_BYTES + 1])).await;
    assert!(matches!(refused, Err(StoreError::TooLarge)));
    assert_eq!(held(&folder).state.as_ref().unwrap().expose(), b"state");
}

#[test]
fn strange_files_are_passed_over() {
    let place = tempfile::tempdir().unwrap();
    let (folder, _) = open(place.path());
    for name in ["README", "..pem", "UPPER.pem", ".one.pem.new"] {
        fs::write(place.path().join(name), "x").unwrap();
    }
    assert_eq!(*held(&folder), Held::default());
}
