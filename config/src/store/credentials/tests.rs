mod api_server;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use kube::api::ListParams;
use tempfile::TempDir;

use super::*;
use crate::model::credential::{REVOKED_SESSIONS, SESSION_KEYS};
use crate::resources::Object;
use crate::resources::credential::Credential;
use crate::session::revocations::SECRETS;
use crate::session::{Seen, keys};
use crate::snapshot::certificate::SecretBytes;
use crate::snapshot::revoked_sessions::{Revocation, RevocationScope};
use crate::source::manifest::Manifests;
use crate::source::{Secrets, directory};

const NOW: SystemTime = SystemTime::UNIX_EPOCH;

/// A store of each kind, empty but for the Secrets that a gateway may not create in a cluster.
fn stores(folder: &TempDir) -> [(&'static str, Credentials); 2] {
    let existing = [(SECRETS[0], REVOKED_SESSIONS), (keys::SECRET, SESSION_KEYS)];
    let existing = existing.map(|(name, kind)| {
        let mut secret = Secret::default();
        secret.metadata.name = Some(name.to_owned());
        secret.metadata.namespace = Some("portcullis".to_owned());
        apply(&Change::of(name.into(), kind), &mut secret);
        secret
    });
    let client = api_server::client(&existing);
    let cluster = Credentials::Cluster(Cluster::with(client, "portcullis"));
    [("cluster", cluster), ("folder", in_folder(folder.path()))]
}

fn in_folder(path: &Path) -> Credentials {
    Credentials::folder(path.to_owned(), "portcullis")
}

fn key(application: &str, number: u8) -> ClientKey {
    secret::new("portcullis", application, [number; 32], None, [0, 0, 0, number]).unwrap()
}

async fn listed(store: &Credentials) -> Vec<(String, Option<SystemTime>)> {
    let keys = store.client_keys().await.unwrap().keys.into_iter();
    keys.map(|(key, _)| (key.origin.name.to_string(), key.expires)).collect()
}

fn revocation(number: u8) -> Revocation {
    Revocation { scope: RevocationScope::Hash([number; 16]), at: 100 + u64::from(number) }
}

fn revoke(add: &[u8], remove: &[u8]) -> Change {
    let name = |number: &u8| revocation(*number).to_string();
    Change {
        add: add.iter().map(|number| (name(number), SecretBytes::from(Vec::new()))).collect(),
        remove: remove.iter().map(name).collect(),
        ..Change::of(SECRETS[0].into(), REVOKED_SESSIONS)
    }
}

fn add_key(added: &str, seen: Seen) -> Change {
    Change {
        add: [(added.to_owned(), SecretBytes::from(vec![7; 32]))].into(),
        only_if: Some(seen),
        ..Change::of(keys::SECRET.into(), SESSION_KEYS)
    }
}

/// What a gateway reads from the store.
async fn credentials(store: &Credentials, folder: &TempDir) -> Vec<Credential> {
    match store {
        Credentials::Cluster(cluster) => {
            let secrets = cluster.api.list(&ListParams::default()).await.unwrap();
            let read = |secret: &Secret| Credential::from_secret(secret, None).unwrap();
            secrets.iter().filter(|secret| secret.data.is_some()).map(read).collect()
        }
        Credentials::Folder(_) => {
            let secrets = Secrets { credentials: Some("portcullis".into()), ..Secrets::default() };
            let Manifests { objects, problems, .. } =
                directory::read(vec![folder.path().to_owned()], secrets);
            assert_eq!(problems, []);
            let read = objects.into_iter().filter_map(|object| match object {
                Object::Credential(credential) => Some(credential),
                _ => None,
            });
            read.collect()
        }
    }
}

async fn revocations(store: &Credentials, folder: &TempDir) -> Vec<Revocation> {
    let all = credentials(store, folder).await;
    let lists = all.iter().filter_map(|credential| match credential {
        Credential::RevokedSessions(list) => Some(list),
        _ => None,
    });
    lists.flat_map(|list| list.revocations.iter().copied()).collect()
}

/// The session keys, and the state in which a change of them applies.
async fn ring(store: &Credentials, folder: &TempDir) -> (BTreeSet<String>, Seen) {
    let all = credentials(store, folder).await;
    let ring = all.iter().find_map(|credential| match credential {
        Credential::SessionKeys(ring, _) => Some(ring),
        _ => None,
    });
    let seen =
        ring.map(|ring| Seen { version: ring.version.clone(), entries: ring.entries.clone() });
    let seen = seen.unwrap_or_default();
    (seen.entries.clone(), seen)
}

#[tokio::test]
async fn client_keys_are_created_expired_and_revoked() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, store) in stores(&folder) {
        store.create(&key("shop", 2)).await.unwrap();
        store.create(&key("billing", 1)).await.unwrap();
        let [billing, shop] = ["billing-00000001", "shop-00000002"].map(str::to_owned);
        assert_eq!(listed(&store).await, [(billing.clone(), None), (shop.clone(), None)], "{kind}");

        let expires = NOW + Duration::from_secs(60);
        store.expire(&key("shop", 2), expires).await.unwrap();
        assert_eq!(listed(&store).await[1], (shop, Some(expires)), "{kind}");

        store.revoke(&key("shop", 2)).await.unwrap();
        assert_eq!(listed(&store).await, [(billing, None)], "{kind}");
        assert!(store.revoke(&key("shop", 2)).await.is_err(), "{kind}");
        let gone = store.expire(&key("shop", 2), expires).await;
        assert!(matches!(gone, Err(StoreError::KeyGone(_))), "{kind}: {gone:?}");
    }
}

#[tokio::test]
async fn an_existing_client_key_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, store) in stores(&folder) {
        store.create(&key("shop", 2)).await.unwrap();
        let other = ClientKey { hash: [9; 32], ..key("shop", 2) };
        assert!(store.create(&other).await.is_err(), "{kind}");
        assert_eq!(store.client_keys().await.unwrap().keys[0].0.hash, [2; 32], "{kind}");
    }
}

#[tokio::test]
async fn revocations_are_stored_until_they_are_removed() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, store) in stores(&folder) {
        store.change(revoke(&[2, 1], &[])).await.unwrap();
        store.change(revoke(&[3], &[1, 9])).await.unwrap();
        let stored = revocations(&store, &folder).await;
        assert_eq!(stored, [revocation(2), revocation(3)], "{kind}");
    }
}

#[tokio::test]
async fn concurrent_changes_of_two_gateways_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, store) in stores(&folder) {
        let other = store.clone();
        let add = |store: Credentials, numbers: [u8; 8]| async move {
            for number in numbers {
                store.change(revoke(&[number], &[])).await.unwrap();
            }
        };
        let numbers = [[1, 2, 3, 4, 5, 6, 7, 8], [11, 12, 13, 14, 15, 16, 17, 18]];
        tokio::join!(add(store.clone(), numbers[0]), add(other, numbers[1]));
        assert_eq!(revocations(&store, &folder).await.len(), 16, "{kind}");
    }
}

#[tokio::test]
async fn of_two_gateways_that_add_a_key_concurrently_the_first_succeeds() {
    let folder = tempfile::tempdir().unwrap();
    for (kind, store) in stores(&folder) {
        let (_, before) = ring(&store, &folder).await;
        store.change(add_key("100", before.clone())).await.unwrap();
        let second = store.change(add_key("101", before)).await;
        assert!(matches!(second, Err(StoreError::Superseded)), "{kind}");
        let (_, seen) = ring(&store, &folder).await;
        store.change(add_key("200", seen)).await.unwrap();
        let (entries, _) = ring(&store, &folder).await;
        assert_eq!(entries, ["100", "200"].map(str::to_owned).into(), "{kind}");
    }
}

#[tokio::test]
async fn invalid_client_keys_are_reported_with_the_valid_ones() {
    let folder = tempfile::tempdir().unwrap();
    let store = in_folder(folder.path());
    store.create(&key("shop", 2)).await.unwrap();
    let invalid = secret::manifest(&key("billing", 1)).replace("sha256", "md5");
    fs::write(folder.path().join("broken.yaml"), invalid).unwrap();
    let found = store.client_keys().await.unwrap();
    assert_eq!((found.keys.len(), found.problems.len()), (1, 1));
}

#[tokio::test]
async fn a_secret_that_does_not_exist_in_a_cluster_is_missing() {
    let cluster = Credentials::Cluster(Cluster::with(api_server::client(&[]), "portcullis"));
    let missing = cluster.change(revoke(&[1], &[])).await;
    assert!(matches!(missing, Err(StoreError::Missing(name)) if name == SECRETS[0]));
}

#[tokio::test]
async fn files_are_private_and_nothing_else_is_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let store = in_folder(folder.path());
    store.create(&key("shop", 2)).await.unwrap();
    store.expire(&key("shop", 2), NOW).await.unwrap();
    let file = folder.path().join("shop-00000002.yaml");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    store.revoke(&key("shop", 2)).await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);

    store.change(revoke(&[1], &[])).await.unwrap();
    let file = folder.path().join("portcullis-ended-sessions-1.json");
    assert_eq!(fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the file and the lock");
}

#[tokio::test]
async fn a_file_with_more_than_one_key_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let text = secret::manifest(&key("shop", 2)) + "---\n" + &secret::manifest(&key("billing", 1));
    fs::write(folder.path().join("keys.yaml"), &text).unwrap();
    let store = in_folder(folder.path());
    assert_eq!(listed(&store).await.len(), 2);
    let expired = store.expire(&key("shop", 2), NOW).await;
    assert!(matches!(expired, Err(StoreError::Changed(_))));
    assert!(matches!(store.revoke(&key("shop", 2)).await, Err(StoreError::Changed(_))));
    assert_eq!(fs::read_to_string(folder.path().join("keys.yaml")).unwrap(), text);
}

#[tokio::test]
async fn a_file_that_the_gateway_did_not_write_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("portcullis-ended-sessions-1.json");
    for text in [
        "",
        "{}",
        "kind: Secret",
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "portcullis-ended-sessions-1"}}"#,
    ] {
        fs::write(&file, text).unwrap();
        let changed = in_folder(folder.path()).change(revoke(&[1], &[])).await;
        assert!(matches!(changed, Err(StoreError::Changed(_))), "{text}");
        assert_eq!(fs::read_to_string(&file).unwrap(), text);
    }
}

#[tokio::test]
async fn a_change_without_a_folder_fails() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = in_folder(&folder.path().join("nowhere"));
    assert!(matches!(nowhere.change(revoke(&[1], &[])).await, Err(StoreError::File(..))));
    assert!(nowhere.client_keys().await.is_err());
}
