use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::client_key::secret;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

fn key(application: &str, number: u8) -> ClientKey {
    secret::new("portcullis", application, [number; 32], None, [0, 0, 0, number]).unwrap()
}

fn store(folder: &Path) -> Store {
    Store::folder(folder.to_owned(), "portcullis")
}

async fn names(store: &Store) -> Vec<String> {
    store.list().await.unwrap().keys.iter().map(|(key, _)| key.origin.name.to_string()).collect()
}

#[tokio::test]
async fn keys_in_a_folder_are_created_expired_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.create(&key("shop", 2)).await.unwrap();
    store.create(&key("billing", 1)).await.unwrap();
    assert_eq!(names(&store).await, ["billing-00000001", "shop-00000002"]);
    let file = folder.path().join("shop-00000002.yaml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    let expires = NOW + Duration::from_secs(60);
    let listed = store.list().await.unwrap().keys;
    store.expire(&listed[1].0, expires).await.unwrap();
    let listed = store.list().await.unwrap().keys;
    assert_eq!((listed[0].0.expires, listed[1].0.expires), (None, Some(expires)));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    store.revoke(&listed[1].0).await.unwrap();
    assert_eq!(names(&store).await, ["billing-00000001"]);
    assert!(!file.exists());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn an_existing_key_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.create(&key("shop", 2)).await.unwrap();
    let other = ClientKey { hash: [9; 32], ..key("shop", 2) };
    assert!(matches!(store.create(&other).await, Err(StoreError::File(..))));
    assert_eq!(store.list().await.unwrap().keys[0].0.hash, [2; 32]);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left behind");
}

#[tokio::test]
async fn a_file_with_more_than_one_key_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let text = secret::manifest(&key("shop", 2)) + "---\n" + &secret::manifest(&key("billing", 1));
    fs::write(folder.path().join("keys.yaml"), &text).unwrap();
    let store = store(folder.path());
    let keys = store.list().await.unwrap().keys;
    assert_eq!(keys.len(), 2);
    assert!(matches!(store.expire(&keys[0].0, NOW).await, Err(StoreError::Changed(_))));
    assert!(matches!(store.revoke(&keys[0].0).await, Err(StoreError::Changed(_))));
    assert_eq!(fs::read_to_string(folder.path().join("keys.yaml")).unwrap(), text);
}

#[tokio::test]
async fn invalid_keys_are_reported_with_the_valid_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = store(folder.path());
    store.create(&key("shop", 2)).await.unwrap();
    fs::write(
        folder.path().join("broken.yaml"),
        secret::manifest(&key("billing", 1)).replace("sha256", "md5"),
    )
    .unwrap();
    let found = store.list().await.unwrap();
    assert_eq!((found.keys.len(), found.problems.len()), (1, 1));
    assert!(Store::folder(folder.path().join("nowhere"), "portcullis").list().await.is_err());
}
