use kube::{Client, Config};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::super::watch_session::CredentialSecret;
use super::*;
use crate::model::NamespacedName;
use crate::model::credential::CREDENTIAL;
use crate::resources::{Change, Object, ObjectId};

const PATIENCE: Duration = Duration::from_secs(20);

/// The next request of a client: its first line, and the stream for the response.
async fn request(listener: &TcpListener) -> (String, TcpStream) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    (String::from_utf8(head).unwrap().lines().next().unwrap().to_owned(), stream)
}

async fn head(stream: &mut TcpStream) {
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
}

async fn end_of_list(stream: &mut TcpStream, version: &str) {
    let metadata =
        json!({"resourceVersion": version, "annotations": {"k8s.io/initial-events-end": "true"}});
    let bookmark = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata});
    event(stream, "BOOKMARK", &bookmark).await;
}

async fn event(stream: &mut TcpStream, kind: &str, object: &Value) {
    stream
        .write_all(format!("{}\n", json!({"type": kind, "object": object})).as_bytes())
        .await
        .unwrap();
}

fn secret(version: &str) -> Value {
    let labels = json!({"portcullis.dev/credential": "client-key"});
    let data = json!({"application": "YmlsbGluZw==", "hash": "c2hhMjU2OjAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="});
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "billing", "namespace": "portcullis", "resourceVersion": version, "labels": labels}, "data": data})
}

#[tokio::test]
async fn credentials_are_watched_by_label_in_one_namespace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::try_from(Config::new(server.parse().unwrap())).unwrap();
    let (mut ends, mut updates) = Updates::channel(1);
    let api = Api::<CredentialSecret>::namespaced(client, "portcullis");
    let watch = tokio::spawn(Watch::new(api, Selection::Label(CREDENTIAL), ends.remove(0)).run());

    let (line, mut stream) = timeout(PATIENCE, request(&listener)).await.unwrap();
    assert!(
        line.starts_with("GET /api/v1/namespaces/portcullis/secrets?")
            && line.contains("watch=true"),
        "{line}"
    );
    assert!(
        line.contains("labelSelector=portcullis.dev%2Fcredential&")
            || line.contains("labelSelector=portcullis.dev%2Fcredential "),
        "{line}"
    );
    head(&mut stream).await;
    event(&mut stream, "ADDED", &secret("5")).await;
    end_of_list(&mut stream, "6").await;
    let mut changes = Vec::new();
    while changes.is_empty() {
        changes = timeout(PATIENCE, updates.recv()).await.unwrap().unwrap().1.changes;
    }
    let [Change::Upsert(Object::Credential(found))] = changes.as_slice() else {
        panic!("{changes:?}")
    };
    assert_eq!(found.key(), NamespacedName::new("portcullis", "billing"));

    // The API server sends this also if a Secret has lost its label.
    event(&mut stream, "DELETED", &secret("7")).await;
    let (_, deleted) = timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
    assert_eq!(deleted.changes, [Change::Delete(ObjectId::Credential(found.key()))]);

    drop(stream);
    let (line, _) = timeout(PATIENCE, request(&listener)).await.unwrap();
    assert!(line.contains("labelSelector=portcullis.dev%2Fcredential"), "{line}");
    drop(updates);
    timeout(PATIENCE, watch).await.expect("it stops when the receiver is dropped").unwrap();
}

/// The cluster's own writes can pass the known version before the gateway asks for the first time.
#[tokio::test]
async fn a_cluster_restored_during_an_outage_is_listed_again_however_far_it_has_come_since() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let client = Client::try_from(Config::new(server.parse().unwrap())).unwrap();
    let (mut ends, mut updates) = Updates::channel(1);
    let api = Api::<CredentialSecret>::namespaced(client, "portcullis");
    let watch = Watch::new(api, Selection::Label(CREDENTIAL), ends.remove(0));
    let watch = tokio::spawn(watch.run());
    let mut next_changes = async || loop {
        let (_, update) = timeout(PATIENCE, updates.recv()).await.unwrap().unwrap();
        if !update.changes.is_empty() {
            return update.changes;
        }
    };

    let (_, mut stream) = timeout(PATIENCE, request(&listener)).await.unwrap();
    head(&mut stream).await;
    event(&mut stream, "ADDED", &secret("5")).await;
    end_of_list(&mut stream, "6").await;
    assert!(matches!(next_changes().await.as_slice(), [Change::Upsert(_)]));

    // The API server dies in the middle of the watch.
    drop(stream);
    let (line, mut stream) = timeout(PATIENCE, request(&listener)).await.unwrap();
    assert!(line.contains("sendInitialEvents=true"), "{line}");
    head(&mut stream).await;
    end_of_list(&mut stream, "9").await;
    let key = NamespacedName::new("portcullis", "billing");
    assert_eq!(next_changes().await, [Change::Delete(ObjectId::Credential(key))]);
    watch.abort();
}

#[test]
fn a_single_object_is_selected_by_its_name() {
    assert_eq!(
        Selection::Name("tls".to_owned()).selectors(),
        (Some("metadata.name=tls".to_owned()), None)
    );
    assert_eq!(Selection::All.selectors(), (None, None));
}

#[test]
fn a_refusal_in_the_moments_after_an_outage_is_no_missing_permission() {
    let start = Instant::now();
    let mut permission = Permission::default();
    assert!(permission.is_missing(true, start), "it was never there");
    // An outage, or a response, and then an API server that has not read the roles yet.
    for after in [0_u64, 1_000] {
        let at = |seconds: u64| start + Duration::from_secs(after + seconds);
        assert!(!permission.is_missing(false, at(0)));
        assert!(!permission.is_missing(true, at(1)));
        assert!(!permission.is_missing(true, at(30)));
        assert!(permission.is_missing(true, at(31)), "it was withdrawn");
    }
    assert!(!permission.is_missing(false, start + Duration::from_secs(2_000)), "it is back");
    assert!(!permission.is_missing(true, start + Duration::from_secs(3_000)));
}

#[tokio::test(start_paused = true)]
async fn only_a_certificate_that_may_not_be_read_holds_up_nothing_else() {
    let message = "secrets \"tls\" is forbidden: User \"system:serviceaccount:edge:portcullis\" \
                   cannot list resource \"secrets\" in API group \"\" in the namespace \"shop\"";
    let status = json!({"code": 403, "message": message, "details": {"name": "tls"}});
    let refused = Interrupted::Api(serde_json::from_value(status).unwrap());
    for (selection, is_optional) in
        [(Selection::Name("tls".to_owned()), true), (Selection::Label(CREDENTIAL), false)]
    {
        let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
        let (mut ends, mut updates) = Updates::channel(1);
        let api = Api::<CredentialSecret>::namespaced(client, "shop");
        let mut watch = Watch::new(api, selection, ends.remove(0));
        let mut after = async |error: &Interrupted, wait: Duration| {
            tokio::time::advance(wait).await;
            let _ = watch.interrupted(error).await;
            updates.recv().await.unwrap().1
        };
        let first = after(&refused, Duration::ZERO).await;
        assert!(!first.synced && first.as_of.is_none(), "the API server may have started just now");
        let problem = &first.problems.unwrap()[0];
        let rule = "resources: [secrets], resourceNames: [tls], verbs: [list, watch]";
        assert!(problem.help.contains(rule) && problem.help.contains("`shop`"), "{problem}");

        let unreachable = after(&Interrupted::Timeout, ROLES_GRACE).await;
        assert!(!unreachable.synced, "an outage is no refusal");
        let _ = after(&refused, Duration::ZERO).await;
        let lasting = after(&refused, ROLES_GRACE).await;
        assert_eq!((lasting.synced, lasting.as_of.is_some()), (is_optional, is_optional));
    }
}
