//! What each scope allows at each endpoint.

use std::collections::{BTreeMap, BTreeSet};

use axum::body::{Body, to_bytes};
use http::{Method, Request};
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use kube::{Client, Config};
use portcullis_config::client_key::{Key, write_hash};
use portcullis_config::settings::access::AccessSettings;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::*;
use crate::cluster::Kubernetes;
use crate::manifest::Template;
use crate::model::Scope;
use crate::rollout;
use crate::runner::Sensors;
use crate::settings::{BuildSettings, CallerSettings, GrantSettings, KeySettings};
use crate::state::{Intent, State};
use crate::store::sql::SqlStore;
use crate::store::suite::{by, order, release};
use crate::store::{BuildChange, NewRelease};

/// The callers: without a key, with every scope elsewhere, with a scope for the service `web` in
/// `staging`, and with every scope everywhere.
const CALLERS: [&str; 6] = ["none", "elsewhere", "read", "deploy", "admin", "all"];

/// For each endpoint and request, what each of [`CALLERS`] gets: a status, or `-` for an empty list.
/// `E` stands for the environment. What passes and fails later has the status of that failure: 409
/// for a rollback with nothing earlier and for builds, of which this builder has none, 422 for an
/// image of an unknown registry.
const CELLS: &str = r#"
GET   /metrics                                       401 403 403 403 403 200
GET   /api/v1/audit                                  401 403 403 403 403 200
GET   /api/v1/builds?repository=source               401 404 200 200 200 200
GET   /api/v1/builds/source.1                        401 404 200 200 200 200
GET   /api/v1/builds/source.1/log                    401 404 200 200 200 200
GET   /api/v1/deployments?service=web&environment=E  401  -  200 200 200 200
GET   /api/v1/deployments/web.E.1                    401 404 200 200 200 200
GET   /api/v1/deployments/web.E.1/diff               401 404 200 200 200 200
GET   /api/v1/deployments/web.E.1/events             401 404 200 200 200 200
GET   /api/v1/diffs?from=web.1&to=web.1              401 404 200 200 200 200
GET   /api/v1/environments                           401  -  200 200 200 200
GET   /api/v1/environments/E                         401 404 200 200 200 200
GET   /api/v1/images?service=web                     401  -  200 200 200 200
GET   /api/v1/keys                                   401 403 403 403 403 200
GET   /api/v1/openapi.json                           401 200 200 200 200 200
GET   /api/v1/releases                               401  -  200 200 200 200
GET   /api/v1/releases/web.1                         401 404 200 200 200 200
GET   /api/v1/repositories                           401  -  200 200 200 200
GET   /api/v1/repositories/source                    401 404 200 200 200 200
GET   /api/v1/rollouts?service=web&environment=E     401  -  200 200 200 200
GET   /api/v1/rollouts?environment=E                 401  -  200 200 200 200
GET   /api/v1/rollouts/web.E.1                       401 404 200 200 200 200
GET   /api/v1/rollouts/web.E.1/events                401 404 200 200 200 200
GET   /api/v1/rollouts/web.E.1/history               401 404 200 200 200 200
GET   /api/v1/rollouts/web.E.1/looks                 401 404  -   -   -   -
GET   /api/v1/rollouts/web.E.1/picture.svg           401 404 200 200 200 200
GET   /api/v1/settings?service=web&environment=E     401  -  200 200 200 200
PATCH /api/v1/settings                               401 404 403 204 204 204 {"environment":"E","service":"web","values":{"replicas":2}}
PATCH /api/v1/settings                               401 404 403 403 403 204 {"environment":"E","values":{"replicas":2}}
POST  /api/v1/builds                                 401 404 403 409 409 409 {"repository":"source"}
POST  /api/v1/builds/source.1/cancellations          401 404 403 409 409 409 {"reason":"test"}
POST  /api/v1/deployments                            401 404 403 202 202 202 {"environment":"E","release":"web.1"}
POST  /api/v1/dry-runs                               401 404 403 200 200 200 {"environment":"E","release":"web.1"}
POST  /api/v1/pins                                   401 404 403 403 204 204 {"environment":"E","service":"web","pinned":false}
POST  /api/v1/promotions                             401 404 403 202 202 202 {"from":"E","to":"E","service":"web"}
POST  /api/v1/releases                               401 403 403 422 422 422 {"service":"web","image":"r.test/web:1","template":[{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"data":{"i":"{{image}}"}}]}
POST  /api/v1/repositories/source/fetches            401 404 403 202 202 202
POST  /api/v1/rollbacks                              401 404 403 409 409 409 {"environment":"E","service":"web"}
POST  /api/v1/rollouts/web.E.1/orders                401 404 403 202 202 202 {"order":"pause","reason":"test"}
PUT   /api/v1/environments/E                         401 404 403 403 403 204 {"frozen":false}
"#;

/// A row of [`CELLS`].
struct Row {
    method: Method,
    path: &'static str,
    expected: Vec<&'static str>,
    body: &'static str,
}

fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let (cells, body) = line.find('{').map_or((line, ""), |start| line.split_at(start));
        let mut words = cells.split_whitespace();
        Row {
            method: words.next().unwrap().parse().unwrap(),
            path: words.next().unwrap(),
            expected: words.collect(),
            body,
        }
    };
    CELLS.trim().lines().map(row).collect()
}

fn key(caller: usize) -> Key {
    Key::new(&[u8::try_from(caller).unwrap() + 1; 32])
}

fn callers() -> Vec<CallerSettings> {
    let grant = |scope, service: &str, environment: &str| GrantSettings {
        scope,
        services: vec![service.to_owned()],
        environments: vec![environment.to_owned()],
    };
    let grants = [
        grant(Scope::Admin, "shop", "dev"),
        grant(Scope::Read, "web", "staging"),
        grant(Scope::Deploy, "web", "staging"),
        grant(Scope::Admin, "web", "staging"),
        grant(Scope::Admin, "*", "*"),
    ];
    let caller = |(index, grant): (usize, GrantSettings)| CallerSettings {
        name: CALLERS[index + 1].to_owned(),
        keys: vec![KeySettings { hash: write_hash(&key(index + 1).hash()), expires: None }],
        grants: vec![grant],
    };
    grants.into_iter().enumerate().map(caller).collect()
}

/// A release of `web`, which runs in both environments. No cluster can be reached.
async fn app() -> (TempDir, Arc<App>) {
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(SqlStore::open_file(&folder.path().join("releases.db")).await.unwrap());
    let template = Template::parse(&json!([
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web"},
            "data": {"image": "{{image}}"}},
        {"apiVersion": "releases.portcullis.dev/v1", "kind": "Settings", "metadata": {"name": "web"},
            "settings": {"replicas": {"type": "integer", "default": 1}}},
    ]));
    let new = NewRelease { template: template.unwrap(), ..release("web", by(1, ""), &[]) };
    store.create_release(new).await.unwrap();
    for environment in ["staging", "production"] {
        let at = format!("web.{environment}");
        let made = store.create_deployment(order(&at, Some(1), Intent::Deploy, by(2, ""))).await;
        let made = made.unwrap();
        let rollout = rollout::Rollout::new(rollout::Settings::default(), Time(2));
        store.begin_rollout(&made, rollout, Time(2)).await.unwrap().unwrap();
        let made = store.deployment(&made.id).await.unwrap().unwrap();
        store.advance(&made, State::Ready, Time(3)).await.unwrap().unwrap();
    }
    let client = Client::try_from(Config::new("http://127.0.0.1:1".parse().unwrap())).unwrap();
    let cluster = Arc::new(Kubernetes::new(client));
    let builds: BuildSettings = serde_json::from_value(json!({
        "folder": folder.path(),
        "repositories": [
            { "name": "source", "url": "https://r.test/source", "services": ["web"] },
            { "name": "live", "url": "https://r.test/live", "services": ["web"],
              "autopush": "production" },
        ],
    }))
    .unwrap();
    let commit = "0".repeat(40).parse().unwrap();
    let build = BuildChange::Create { commit, is_requested: false };
    let source = "source".parse().unwrap();
    store.record_schedule(&source, json!({}), vec![build], by(1, "")).await.unwrap();
    let live = "live".parse().unwrap();
    let build = |commit: &str, is_requested| BuildChange::Create {
        commit: commit.repeat(40).parse().unwrap(),
        is_requested,
    };
    let changes = vec![build("1", false), build("2", true), build("1", true)];
    store.record_schedule(&live, json!({}), changes, by(1, "")).await.unwrap();
    let followers = Arc::new(Followers::new(Some(&builds)));
    let registries = Arc::new(Registries::new(&[]).unwrap());
    let recorded: Arc<dyn BuildStore> = Arc::<SqlStore>::clone(&store);
    let queue = Queue::new(
        Arc::clone(&recorded),
        Arc::clone(&registries),
        Arc::clone(&followers),
        Some(&builds),
        None,
    )
    .await;
    let app = App {
        builds: recorded,
        queue: queue.unwrap(),
        store: Arc::clone(&store) as Arc<dyn Store>,
        registries,
        callers: Callers::new(&callers(), &AccessSettings::default(), &[]).unwrap(),
        settings: callers(),
        uses: KeyUses::default(),
        keys: Arc::default(),
        runner: Runner::new(store, cluster, Sensors::default(), Arc::default()),
        followers,
        slots: Slots::default(),
    };
    (folder, Arc::new(app))
}

/// The status of a request, or `-` for an empty list, and the body.
async fn send(app: &Arc<App>, caller: usize, row: &Row, environment: &str) -> (String, String) {
    let fill = |text: &str| {
        let quoted = text.replace("\"E\"", &format!("\"{environment}\""));
        quoted.replace("=E", &format!("={environment}")).replace(".E.", &format!(".{environment}."))
    };
    let path = fill(row.path);
    let path = path.strip_suffix("/E").map_or(path.clone(), |path| format!("{path}/{environment}"));
    let mut request = Request::builder().method(row.method.clone()).uri(path);
    request = request.header("content-type", "application/json");
    if caller > 0 {
        request = request.header("authorization", format!("Bearer {}", key(caller).expose()));
    }
    let service = TowerToHyperService::new(router(Arc::clone(app)));
    let request = request.body(Body::from(fill(row.body))).unwrap();
    let response = service.call(request).await.unwrap();
    let status = response.status().as_u16().to_string();
    if row.path.ends_with("/events") && status == "200" {
        return (status, String::new());
    }
    let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let is_empty =
        serde_json::from_str::<Value>(&body).is_ok_and(|body| body["items"] == json!([]));
    (if is_empty { "-".to_owned() } else { status }, body)
}

#[tokio::test]
async fn each_scope_allows_at_each_endpoint_what_the_table_says() {
    let (_folder, app) = app().await;
    for row in rows() {
        for (caller, name) in CALLERS.iter().enumerate() {
            let (found, body) = send(&app, caller, &row, "staging").await;
            let at = format!("{} {} {} as {name}: {body}", row.method, row.path, row.body);
            assert_eq!(found, row.expected[caller], "{at}");
        }
    }
}

#[tokio::test]
async fn a_scope_for_one_environment_is_none_in_another() {
    let (_folder, app) = app().await;
    for row in rows().iter().filter(|row| row.path.contains('E') || row.body.contains("\"E\"")) {
        let stranger = send(&app, 1, row, "production").await;
        for (caller, name) in CALLERS.iter().enumerate().take(5).skip(2) {
            let found = send(&app, caller, row, "production").await;
            assert_eq!(found, stranger, "{} {} as {name}", row.method, row.path);
        }
    }
}

/// A request that is not in the table.
fn request(method: Method, path: &'static str, body: &str) -> Row {
    Row { method, path, expected: Vec::new(), body: body.to_owned().leak() }
}

#[tokio::test]
async fn who_may_create_no_release_gets_no_template_read() {
    let (_folder, app) = app().await;
    let create = |body| request(Method::POST, "/api/v1/releases", body);
    let invalid = create(r#"{"image":"r.test/web:1","template":"]"}"#);
    // The second has the scope `read` alone.
    for (caller, status) in [(0, "401"), (2, "403"), (3, "422")] {
        assert_eq!(send(&app, caller, &invalid, "staging").await.0, status, "{caller}");
    }
    let named = create(r#"{"service":"web","image":"r.test/web:1","template":"]"}"#);
    assert_eq!(send(&app, 1, &named, "staging").await.0, "403", "it may create others");
}

#[tokio::test]
async fn what_is_deployed_is_cancelled_by_those_who_may_deploy_it_there() {
    let (_folder, app) = app().await;
    let cancel = |build| {
        let path = format!("/api/v1/builds/live.{build}/cancellations").leak();
        request(Method::POST, path, "{}")
    };
    // The third was requested, and is of the commit that was pushed.
    for (caller, statuses) in [(3, ["403", "409", "403"]), (5, ["409", "409", "409"])] {
        for (build, expected) in (1..).zip(statuses) {
            let (status, body) = send(&app, caller, &cancel(build), "staging").await;
            assert_eq!(status, expected, "live.{build}: {body}");
        }
    }
}

#[tokio::test]
async fn requests_that_hold_templates_take_slots() {
    let (_folder, app) = app().await;
    let now = std::time::SystemTime::now();
    let principal = app.callers.authenticate(key(3).expose(), now).unwrap();
    let _slots: Vec<_> = std::iter::from_fn(|| app.slots.take(&principal).ok()).collect();
    for row in [
        request(Method::GET, "/api/v1/diffs?from=web.1&to=web.1", ""),
        request(Method::GET, "/api/v1/deployments/web.E.1/diff", ""),
    ] {
        assert_eq!(send(&app, 3, &row, "staging").await.0, "429", "{}", row.path);
        assert_ne!(send(&app, 4, &row, "staging").await.0, "429", "{}", row.path);
    }
}

#[tokio::test]
async fn a_body_with_too_many_values_is_not_decoded() {
    let (_folder, app) = app().await;
    let list = vec!["0"; 30_000].join(",");
    let body = format!(r#"{{"service":"web","image":"r.test/web:1","template":[{list}]}}"#);
    let create = request(Method::POST, "/api/v1/releases", &body);
    let (status, body) = send(&app, 3, &create, "staging").await;
    assert_eq!(status, "413", "{body}");
}

#[tokio::test]
async fn a_change_has_a_bounded_number_of_settings() {
    let (_folder, app) = app().await;
    let values: BTreeMap<String, u8> = (0..101).map(|name| (format!("a{name}"), 1)).collect();
    let change = json!({"environment": "staging", "service": "web", "values": values});
    let change = request(Method::PATCH, "/api/v1/settings", &change.to_string());
    let (status, body) = send(&app, 3, &change, "staging").await;
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_str(), &problem["problems"][0]["pointer"]), ("422", &json!("/values")));
}

#[test]
fn the_table_has_every_endpoint() {
    let document = serde_json::to_value(document()).unwrap();
    let described: BTreeSet<(String, String)> = document["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, item)| {
            let methods = item.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), path.clone()))
        })
        .collect();
    let in_table: BTreeSet<(String, String)> = rows()
        .iter()
        .map(|row| {
            let path = row.path.split('?').next().unwrap();
            let path = path
                .replace("web.E.1", "{id}")
                .replace("web.1", "{id}")
                .replace("source.1", "{id}");
            let path = path.replace("repositories/source", "repositories/{name}");
            (row.method.to_string(), path.replace("environments/E", "environments/{name}"))
        })
        .filter(|(_, path)| path != "/api/v1/openapi.json" && path != "/metrics")
        .collect();
    assert_eq!(in_table, described);
}
