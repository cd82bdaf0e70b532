use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::model::credential::{REVOKED_SESSIONS, SESSION_KEYS};
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::session::revocations::SECRETS;
use crate::session::{Seen, keys};
use crate::snapshot::certificate::SecretBytes;
use crate::snapshot::revoked_sessions::{Revocation, RevocationScope};
use crate::source::manifest::Manifests;
use crate::source::{Secrets, directory as source};

fn folder(directory: &tempfile::TempDir) -> Folder {
    Folder::new(directory.path().to_owned(), "portcullis")
}

fn revocation(number: u8) -> Revocation {
    Revocation { scope: RevocationScope::Hash([number; 16]), at: 100 + u64::from(number) }
}

fn revoke(add: &[u8], remove: &[u8]) -> Change {
    let name = |number: &u8| revocation(*number).to_string();
    Change {
        secret: SECRETS[0],
        kind: REVOKED_SESSIONS,
        add: add.iter().map(|number| (name(number), SecretBytes::from(Vec::new()))).collect(),
        remove: remove.iter().map(name).collect(),
        only_if: None,
    }
}

fn add_key(added: &str, seen: &[&str]) -> Change {
    let entries = seen.iter().map(|name| (*name).to_owned()).collect();
    Change {
        secret: keys::SECRET,
        kind: SESSION_KEYS,
        add: [(added.to_owned(), SecretBytes::from(vec![7; 32]))].into(),
        remove: BTreeSet::new(),
        only_if: Some(Seen { version: None, entries }),
    }
}

/// The credentials that a gateway reads from the folder.
fn read(directory: &tempfile::TempDir) -> Vec<Credential> {
    let secrets = Secrets { credentials: Some("portcullis".into()), ..Secrets::default() };
    let Manifests { objects, problems, .. } =
        source::read(vec![directory.path().to_owned()], secrets);
    assert_eq!(problems, []);
    let credentials = objects.into_iter().map(|object| match object {
        Object::Credential(credential) => credential,
        other => panic!("{other:?}"),
    });
    credentials.collect()
}

fn revocations(directory: &tempfile::TempDir) -> Vec<Revocation> {
    let mut all = Vec::new();
    for credential in read(directory) {
        let Credential::RevokedSessions(revoked) = credential else { panic!("{credential:?}") };
        assert!(!revoked.has_invalid_entries);
        all.extend(revoked.revocations.iter().copied());
    }
    all
}

#[tokio::test]
async fn revocations_are_read_until_they_are_removed() {
    let directory = tempfile::tempdir().unwrap();
    let folder = folder(&directory);
    folder.change(revoke(&[2, 1], &[])).await.unwrap();
    folder.change(revoke(&[3], &[1, 9])).await.unwrap();
    assert_eq!(revocations(&directory), [revocation(2), revocation(3)]);
    let file = directory.path().join("portcullis-ended-sessions-1.json");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 2, "the file and the lock");
}

#[tokio::test]
async fn concurrent_changes_of_two_gateways_lose_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let (one, other) = (folder(&directory), folder(&directory));
    let of = |folder: &Folder, numbers: [u8; 8]| {
        let folder = folder.clone();
        async move {
            for number in numbers {
                folder.change(revoke(&[number], &[])).await.unwrap();
            }
        }
    };
    tokio::join!(of(&one, [1, 2, 3, 4, 5, 6, 7, 8]), of(&other, [11, 12, 13, 14, 15, 16, 17, 18]));
    assert_eq!(revocations(&directory).len(), 16);
}

#[tokio::test]
async fn of_two_gateways_that_add_a_key_concurrently_the_first_succeeds() {
    let directory = tempfile::tempdir().unwrap();
    let folder = folder(&directory);
    folder.change(add_key("100", &[])).await.unwrap();
    assert!(matches!(folder.change(add_key("101", &[])).await, Err(StoreError::Superseded)));
    folder.change(add_key("200", &["100"])).await.unwrap();
    let [Credential::SessionKeys(ring, keys)] = &read(&directory)[..] else { panic!("a ring") };
    assert_eq!(ring.entries, ["100", "200"].map(str::to_owned).into());
    assert!(keys.iter().all(|key| key.key.expose() == [7; 32]));
}

#[tokio::test]
async fn a_file_that_the_gateway_did_not_write_is_not_changed() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("portcullis-ended-sessions-1.json");
    for text in [
        "",
        "{}",
        "kind: Secret",
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "portcullis-ended-sessions-1"}}"#,
    ] {
        fs::write(&file, text).unwrap();
        assert!(
            matches!(
                folder(&directory).change(revoke(&[1], &[])).await,
                Err(StoreError::Changed(_))
            ),
            "{text}"
        );
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[tokio::test]
async fn a_change_without_a_folder_fails() {
    let directory = tempfile::tempdir().unwrap();
    let nowhere = Folder::new(directory.path().join("nowhere"), "portcullis");
    assert!(matches!(nowhere.change(revoke(&[1], &[])).await, Err(StoreError::File(..))));
}
