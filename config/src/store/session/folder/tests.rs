use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::credential::{ENDED_SESSIONS, SESSION_KEYS};
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::session::revocations::SECRETS;
use crate::session::{Seen, keys};
use crate::snapshot::certificate::SecretBytes;
use crate::snapshot::revoked_sessions::{Ended, Whose};
use crate::source::manifest::Manifests;
use crate::source::{Secrets, directory};

fn folder(place: &tempfile::TempDir) -> Folder {
    Folder::new(place.path().to_owned(), "portcullis")
}

fn ended(number: u8) -> Ended {
    Ended { whose: Whose::Hash([number; 16]), at: 100 + u64::from(number) }
}

fn tell(add: &[u8], remove: &[u8]) -> Change {
    let name = |number: &u8| ended(*number).to_string();
    Change {
        secret: SECRETS[0],
        kind: ENDED_SESSIONS,
        add: add.iter().map(|number| (name(number), SecretBytes::from(Vec::new()))).collect(),
        remove: remove.iter().map(name).collect(),
        only_if: None,
    }
}

fn make(made: &str, seen: &[&str]) -> Change {
    let entries = seen.iter().map(|name| (*name).to_owned()).collect();
    Change {
        secret: keys::SECRET,
        kind: SESSION_KEYS,
        add: [(made.to_owned(), SecretBytes::from(vec![7; 32]))].into(),
        remove: BTreeSet::new(),
        only_if: Some(Seen { version: None, entries }),
    }
}

/// What a gateway reads in the folder.
fn read(place: &tempfile::TempDir) -> Vec<Credential> {
    let secrets = Secrets { credentials: Some("portcullis".into()), ..Secrets::default() };
    let Manifests { objects, problems, .. } =
        directory::read(vec![place.path().to_owned()], secrets);
    assert_eq!(problems, []);
    let credentials = objects.into_iter().map(|object| match object {
        Object::Credential(credential) => credential,
        other => panic!("{other:?}"),
    });
    credentials.collect()
}

fn told(place: &tempfile::TempDir) -> Vec<Ended> {
    let mut all = Vec::new();
    for credential in read(place) {
        let Credential::EndedSessions(told) = credential else { panic!("{credential:?}") };
        assert!(!told.is_garbled);
        all.extend(told.ended.iter().copied());
    }
    all
}

#[tokio::test]
async fn what_is_told_is_read_until_it_is_taken_away() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder(&place);
    folder.change(tell(&[2, 1], &[])).await.unwrap();
    folder.change(tell(&[3], &[1, 9])).await.unwrap();
    assert_eq!(told(&place), [ended(2), ended(3)]);
    let file = place.path().join("portcullis-ended-sessions-1.json");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 2, "the file and the lock");
}

#[tokio::test]
async fn gateways_that_tell_at_the_same_time_lose_nothing() {
    let place = tempfile::tempdir().unwrap();
    let (one, other) = (folder(&place), folder(&place));
    let of = |folder: &Folder, numbers: [u8; 8]| {
        let folder = folder.clone();
        async move {
            for number in numbers {
                folder.change(tell(&[number], &[])).await.unwrap();
            }
        }
    };
    tokio::join!(of(&one, [1, 2, 3, 4, 5, 6, 7, 8]), of(&other, [11, 12, 13, 14, 15, 16, 17, 18]));
    assert_eq!(told(&place).len(), 16);
}

#[tokio::test]
async fn of_two_who_make_a_key_at_the_same_time_the_first_does() {
    let place = tempfile::tempdir().unwrap();
    let folder = folder(&place);
    folder.change(make("100", &[])).await.unwrap();
    assert!(matches!(folder.change(make("101", &[])).await, Err(StoreError::Superseded)));
    folder.change(make("200", &["100"])).await.unwrap();
    let [Credential::SessionKeys(ring, keys)] = &read(&place)[..] else { panic!("a ring") };
    assert_eq!(ring.entries, ["100", "200"].map(str::to_owned).into());
    assert!(keys.iter().all(|key| key.key.expose() == [7; 32]));
}

#[tokio::test]
async fn a_file_that_somebody_else_wrote_is_left_alone() {
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("portcullis-ended-sessions-1.json");
    for text in [
        "",
        "{}",
        "kind: Secret",
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "portcullis-ended-sessions-1"}}"#,
    ] {
        fs::write(&file, text).unwrap();
        assert!(
            matches!(folder(&place).change(tell(&[1], &[])).await, Err(StoreError::Changed(_))),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[tokio::test]
async fn without_a_folder_nothing_is_told() {
    let place = tempfile::tempdir().unwrap();
    let nowhere = Folder::new(place.path().join("nowhere"), "portcullis");
    assert!(matches!(nowhere.change(tell(&[1], &[])).await, Err(StoreError::File(..))));
}
