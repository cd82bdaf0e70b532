mod permissions;

use std::time::SystemTime;

use portcullis_config::settings::access::AccessSettings;

use super::*;

#[test]
fn the_description_is_openapi_3_1_and_names_every_path() {
    let document = serde_json::to_value(document()).unwrap();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let paths = document["paths"].as_object().unwrap();
    let mut operations: Vec<String> = paths
        .iter()
        .flat_map(|(path, item)| {
            item.as_object().unwrap().keys().map(move |method| format!("{method} {path}"))
        })
        .collect();
    operations.sort();
    assert_eq!(
        operations,
        [
            "get /api/v1/audit",
            "get /api/v1/builds",
            "get /api/v1/builds/{id}",
            "get /api/v1/builds/{id}/log",
            "get /api/v1/deployments",
            "get /api/v1/deployments/{id}",
            "get /api/v1/deployments/{id}/diff",
            "get /api/v1/deployments/{id}/events",
            "get /api/v1/diffs",
            "get /api/v1/environments",
            "get /api/v1/environments/{name}",
            "get /api/v1/images",
            "get /api/v1/keys",
            "get /api/v1/releases",
            "get /api/v1/releases/{id}",
            "get /api/v1/repositories",
            "get /api/v1/repositories/{name}",
            "get /api/v1/rollouts",
            "get /api/v1/rollouts/{id}",
            "get /api/v1/rollouts/{id}/events",
            "get /api/v1/rollouts/{id}/history",
            "get /api/v1/rollouts/{id}/looks",
            "get /api/v1/rollouts/{id}/picture.svg",
            "get /api/v1/settings",
            "patch /api/v1/settings",
            "post /api/v1/builds",
            "post /api/v1/builds/{id}/cancellations",
            "post /api/v1/deployments",
            "post /api/v1/dry-runs",
            "post /api/v1/pins",
            "post /api/v1/promotions",
            "post /api/v1/releases",
            "post /api/v1/repositories/{name}/fetches",
            "post /api/v1/rollbacks",
            "post /api/v1/rollouts/{id}/orders",
            "put /api/v1/environments/{name}",
        ]
    );
    let schemas = document["components"]["schemas"].as_object().unwrap();
    for name in ["Problem", "ReleaseSummary", "Deployment", "ReleaseId"] {
        assert!(schemas.contains_key(name), "{name}");
    }
}

#[test]
fn a_reason_is_bounded() {
    let key = portcullis_config::client_key::Key::new(&[1; 32]);
    let caller = crate::settings::CallerSettings {
        name: "ci".to_owned(),
        keys: vec![crate::settings::KeySettings {
            hash: portcullis_config::client_key::write_hash(&key.hash()),
            expires: None,
        }],
        grants: Vec::new(),
    };
    let callers = Callers::new(&[caller], &AccessSettings::default(), &[]).unwrap();
    let principal = callers.authenticate(key.expose(), SystemTime::now()).unwrap();
    let status = |reason: String| {
        by(&principal, Some(reason), IdempotencyKey(None), "").err().map(|problem| problem.status)
    };
    assert_eq!(status("x".repeat(MAX_REASON)), None);
    assert_eq!(status("x".repeat(MAX_REASON + 1)), Some(422));
    assert_eq!(status("\u{1b}[2J".to_owned()), Some(422));
}
